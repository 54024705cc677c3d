"""Attention of the self-feedback passes, over the keys of all passes so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

KeysAndValues = tuple[Tensor, Tensor]  # keys and values, [B, Hkv, rows, D] each
RotaryFactors = tuple[Tensor, Tensor]  # cosines and sines, [B, 1, rows, D / 2] each


def visible_keys(
    rows: int, step: int, first: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """The keys that the m rows of pass ``step`` from row ``first`` on attend to.

    Pass 0 has keys at all n ``rows``, later passes at the rows from ``first`` on. At inference,
    step s of a tree is s rows after the last row that the target has confirmed. So row t attends to
    the rows of pass 0, whose features are the target's, up to t - s, and in each pass i >= 1 to the
    single row t - (s - i) that lies on its own path (HASS, arXiv 2408.15766, section 3.2).

    Returns:
        ``[m, n + step * m]`` bool.
    """
    key = torch.arange(rows, device=device)
    query = key[first:].unsqueeze(1)
    blocks = [key <= query - step]
    blocks += [key[first:] == query - (step - own) for own in range(1, step + 1)]
    return torch.cat(blocks, 1)


def aligned_attention(query: Tensor, steps: Sequence[KeysAndValues], scale: float) -> Tensor:
    """Attention of the last pass with the mask of :func:`visible_keys`.

    Passes 1 and later contribute one diagonal each, which costs m products instead of m * m. From
    pass 1 on, all m * n scores are in memory at once, several times for the backward pass.

    Args:
        query: ``[B, H, m, D]`` of the last pass.
        steps: keys and values of each pass, the last included.

    Returns:
        ``[B, H, m, D]``.
    """
    group = query.shape[1] // steps[0][0].shape[1]
    keys = [key.repeat_interleave(group, 1) for key, _ in steps]
    values = [value.repeat_interleave(group, 1) for _, value in steps]
    last, rows, own_rows = len(steps) - 1, keys[0].shape[2], query.shape[2]
    seen = visible_keys(rows, last, rows - own_rows, query.device)[:, :rows]
    mask = torch.zeros_like(seen, dtype=query.dtype).masked_fill(~seen, float("-inf"))
    if last == 0:
        return F.scaled_dot_product_attention(query, keys[0], values[0], mask, scale=scale)
    parts, shifted = [query @ keys[0].transpose(2, 3) * scale + mask], []
    at = torch.arange(own_rows, device=query.device).unsqueeze(1)
    for own in range(1, last + 1):
        back = last - own
        shifted.append(_later(values[own], back))
        diagonal = (query * _later(keys[own], back)).sum(3, keepdim=True) * scale
        parts.append(diagonal.masked_fill(at < back, float("-inf")))
    weight = torch.softmax(torch.cat(parts, 3).float(), 3).to(values[0].dtype)
    out = weight[..., :rows] @ values[0]
    for own, value in enumerate(shifted):
        out = out + weight[..., rows + own : rows + own + 1] * value
    return out


def _later(x: Tensor, back: int) -> Tensor:
    """``[.., m, D]`` shifted by ``back`` rows: row t has the values of row t - back, or zeros."""
    return F.pad(x, (0, 0, back, 0))[..., : x.shape[-2], :] if back else x


def rotary_factors(positions: Tensor, head_dim: int, theta: float) -> RotaryFactors:
    """Rotary factors of ``positions`` ``[B, n]`` int64."""
    half = head_dim // 2
    exponent = torch.arange(half, device=positions.device, dtype=torch.float32) / half
    angle = (positions.float().unsqueeze(-1) * theta**-exponent).unsqueeze(1)
    return angle.cos(), angle.sin()


def apply_rotary(x: Tensor, factors: RotaryFactors) -> Tensor:
    """Rotate ``[B, heads, rows, D]`` in Llama's layout of halves, by the last of the factors."""
    cos, sin = (part[:, :, -x.shape[2] :].to(x.dtype) for part in factors)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
