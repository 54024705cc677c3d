"""A target's embedding and head, read from its files; training needs no other weights of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hivis.drafters.checkpoint import read_safetensors
from hivis.errors import HivisError
from hivis.training.learners.losses import TargetTables

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def read_target_tables(target: Path, device: str | torch.device, tied: bool) -> TargetTables:
    """The embedding and the head in fp32, from one or more safetensors files.

    Args:
        tied: whether the head is the embedding if the files have no head.

    Raises:
        HivisError: a file is not readable, or the embedding or head is not in any.
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
