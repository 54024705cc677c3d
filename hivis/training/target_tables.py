"""A target's embedding and head, from its files: one-layer drafters are trained with no more."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hivis.drafters.checkpoint import read_safetensors
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
        for name, tensor in read_safetensors(path, (EMBEDDING, HEAD)).items():
            ending = EMBEDDING if name.endswith(EMBEDDING) else HEAD
            found[ending] = tensor.to(device, torch.float32)
    if tied and EMBEDDING in found:
        found.setdefault(HEAD, found[EMBEDDING])
    for name in (EMBEDDING, HEAD):
        if name not in found:
            raise HivisError(f"target {target}: wanted {name} in *.safetensors, got none")
    return TargetTables(found[EMBEDDING], found[HEAD])
