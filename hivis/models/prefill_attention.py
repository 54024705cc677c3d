"""Prefill in chunks: how the rows of one chunk attend to all rows before them and to each other.

``flash_attn`` does it where the package is installed and takes the tensors, else SDPA.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

#: Prompt rows that pass through the language model at once (``docs/performance.md``): few, so that
#: they take little memory, but enough to keep the device busy.
CPU_CHUNK, GPU_CHUNK = 256, 1024
#: From here on ``causal`` means that the last query sees the last key.
_WANTED = (2, 1)


@dataclass(frozen=True)
class PrefillChunk:
    """What attention does with a chunk of a prompt, the same in every layer.

    Attributes:
        flash: ``flash_attn_func`` of the package; ``None`` for SDPA.
        mask: ``[C, S]`` of C queries that are the last of S rows, for SDPA.
    """

    flash: Callable[..., Tensor] | None
    mask: Tensor | None = None

    @classmethod
    def of(cls, start: int, rows: Tensor, head_dim: int) -> PrefillChunk | None:
        """For ``rows`` ``[B, C, E]`` behind ``start`` others; ``None`` where SDPA needs no mask."""
        fits = takes_flash(rows.device, rows.dtype, head_dim)
        package = flash_attn() if fits else None
        if package is not None:
            return cls(package.flash_attn_func)
        if start == 0:
            return None
        count = rows.shape[1]
        if fits:  # a name for the mask, by which SDPA chooses a kernel that needs none
            return cls(None, causal_lower_right(count, start + count))
        mask = torch.ones(count, start + count, dtype=torch.bool, device=rows.device)
        return cls(None, mask.tril_(start))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """``[B, H, C, D]`` queries, ``[B, Hkv, S, D]`` keys and values: ``[B, C, H, D]``."""
        if self.flash is not None:
            query, key, value = (each.transpose(1, 2) for each in (query, key, value))
            return self.flash(query, key, value, softmax_scale=scale, causal=True)
        grouped = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(
            query, key, value, self.mask, scale=scale, enable_gqa=grouped
        ).transpose(1, 2)


def chunk_rows(device: torch.device) -> int:
    """C for the models on ``device``."""
    return CPU_CHUNK if device.type == "cpu" else GPU_CHUNK


def takes_flash(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether flash kernels, those of the package and torch's own, take such tensors."""
    return (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and head_dim <= 256
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def flash_attn() -> Any:
    """The package, if one of version 2.1 or later can be imported; else ``None``."""
    try:
        package = import_module("flash_attn")
    except (ImportError, OSError):  # not there, or built for another torch
        return None
    version = re.match(r"(\d+)\.(\d+)", package.__version__)
    known = version is not None and tuple(map(int, version.groups())) >= _WANTED
    return package if known else None


def prefill_attention() -> str:
    """In words, what reads prompts on this machine."""
    package = flash_attn()
    if package is None:
        return "SDPA"
    return f"flash_attn {package.__version__} for half precision on a GPU, else SDPA"
