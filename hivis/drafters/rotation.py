"""Rotary positions of a one-layer drafter: tables that are made once, and looked up in a cycle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hivis.drafters.config import LayerConfig


class Rotations:
    """The factors that turn queries and keys to their positions.

    Queries, keys and values are joined in one tensor, and are turned in one pass over it,
    which is cheaper than taking it apart: values get factors that leave them as they are.

    Args:
        positions: how many it has, from 0 on.
        config: of the drafter.

    Attributes:
        index: ``[positions]`` int64, the numbers from 0 on.
    """

    def __init__(
        self, positions: int, config: LayerConfig, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.positions = positions
        self.index = torch.arange(positions, device=device)
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._half = config.head_dim // 2
        self._table = rope_table(positions, config, device, dtype)
        # Cosine 1, sine 0.
        self._still = torch.ones(2, 1, config.head_dim, dtype=dtype, device=device)
        self._still[1] = 0

    def at(self, positions: Tensor) -> Tensor:
        """``[B, N, 2, H + 2 Hkv, D]`` factors (cosine, signed sine) at ``[B, N]`` positions."""
        batch, count = positions.shape
        turn = F.embedding(positions, self._table).view(batch, count, 2, 1, -1)
        turn = turn.expand(-1, -1, -1, self._heads + self._kv_heads, -1)
        return torch.cat([turn, self._still.expand(batch, count, -1, self._kv_heads, -1)], 3)

    def turn(self, qkv: Tensor, factors: Tensor, out: Tensor | None = None) -> Tensor:
        """``qkv`` ``[B, N, H + 2 Hkv, D]`` turned by ``factors``; written to ``out``, if given."""
        swapped = qkv.roll(self._half, -1)
        return torch.addcmul(qkv * factors[:, :, 0], swapped, factors[:, :, 1], out=out)


def rope_table(rows: int, config: LayerConfig, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``[rows, 2 D]``: cosines, then sines with the sign of the half they are multiplied with.

    Rotating ``x`` is ``x * cos + roll(x, D/2) * sin``: the halves of Llama's layout swap places,
    and the first of them comes in negatively.
    """
    half = config.head_dim // 2
    exponent = torch.arange(half, device=device, dtype=torch.float32) / half
    angle = torch.arange(rows, device=device, dtype=torch.float32)[:, None]
    angle = angle * config.rope_theta**-exponent
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos, -sin, sin], 1).to(dtype)
