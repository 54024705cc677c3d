"""A target's embedding and head, from its files: one-layer drafters are trained with no more."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hivis.errors import HivisError
from hivis.training.learners.losses import TargetTables

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def read_target_tables(target: Path, device: str | torch.device, tied: bool) -> TargetTables:
    """Both tables in fp32, from one safetensors file or many.

    Args:
        tied: whether the embedding is the head where there is no other.

    Raises:
        HivisError: no readable safetensors, or a table is not among them.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(target.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    for end in (EMBEDDING, HEAD):
                        if name.endswith(end):
                            found[end] = file.get_tensor(name).to(device, torch.float32)
        except (SafetensorError, OSError) as error:
            raise HivisError(f"{path}: wanted a safetensors file, got {error}") from None
    if tied and EMBEDDING in found:
        found.setdefault(HEAD, found[EMBEDDING])
    for name in (EMBEDDING, HEAD):
        if name not in found:
            raise HivisError(f"target {target}: wanted {name} in *.safetensors, got none")
    return TargetTables(found[EMBEDDING], found[HEAD])
