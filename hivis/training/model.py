"""The HiViS drafter as a trainable module. Same tensors and names as ``drafters/checkpoint.py``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hivis.drafters.checkpoint import HiViSConfig

Rows = tuple[Tensor, Tensor]  # keys and values, [B, Hkv, n, D] each


def visible(rows: int, step: int, device: torch.device | str = "cpu") -> Tensor:
    """``[n, (step + 1) n]`` bool: which keys of steps 0..step the rows of ``step`` see.

    At inference, step s of a tree is s rows behind the last row that the target has confirmed. So
    row t sees step 0, whose features are the target's, up to row t - s, and of each step i >= 1
    the single row t - (s - i) that lies on its own path (HASS, arXiv 2408.15766, section 3.2).
    """
    query = torch.arange(rows, device=device).unsqueeze(1)
    key = torch.arange(rows, device=device)
    blocks = [key <= query - step]
    blocks += [key == query - (step - own) for own in range(1, step + 1)]
    return torch.cat(blocks, 1)


def aligned_attention(query: Tensor, steps: Sequence[Rows], scale: float) -> Tensor:
    """Attention of the last step under :func:`visible`; ``[B, H, n, D]``.

    Steps 1 and up contribute one diagonal each, so they cost n products instead of n * n.
    """
    group = query.shape[1] // steps[0][0].shape[1]
    keys = [key.repeat_interleave(group, 1) for key, _ in steps]
    values = [value.repeat_interleave(group, 1) for _, value in steps]
    last, rows = len(steps) - 1, query.shape[2]
    if last == 0:
        return F.scaled_dot_product_attention(
            query, keys[0], values[0], is_causal=True, scale=scale
        )
    at = torch.arange(rows, device=query.device)
    hidden = at > at.unsqueeze(1) - last
    score = (query @ keys[0].transpose(2, 3) * scale).masked_fill(hidden, float("-inf"))
    parts, shifted = [score], []
    for own in range(1, last + 1):
        back = last - own
        shifted.append(_later(values[own], back))
        diagonal = (query * _later(keys[own], back)).sum(3, keepdim=True) * scale
        parts.append(diagonal.masked_fill((at < back).unsqueeze(1), float("-inf")))
    weight = torch.softmax(torch.cat(parts, 3).float(), 3).to(values[0].dtype)
    out = weight[..., :rows] @ values[0]
    for own, value in enumerate(shifted):
        out = out + weight[..., rows + own : rows + own + 1] * value
    return out


def _later(x: Tensor, back: int) -> Tensor:
    """``[.., n, D]`` with row t holding what was at row t - back, and zeros before."""
    return F.pad(x, (0, 0, back, 0))[..., : x.shape[-2], :] if back else x


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotary positions 0..n-1 for ``[B, heads, n, D]``, in Llama's layout of halves."""
    rows, half = x.shape[2], x.shape[3] // 2
    exponent = torch.arange(half, device=x.device, dtype=torch.float32) / half
    angle = torch.arange(rows, device=x.device)[:, None] * theta**-exponent
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, c: HiViSConfig) -> None:
        super().__init__()
        self.c = c
        queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, queries, bias=c.attention_bias)
        self.k_proj = nn.Linear(c.hidden_size, keys, bias=c.attention_bias)
        self.v_proj = nn.Linear(c.hidden_size, keys, bias=c.attention_bias)
        self.o_proj = nn.Linear(queries, c.hidden_size, bias=False)

    def forward(self, x: Tensor, earlier: Sequence[Rows]) -> tuple[Tensor, Rows]:
        def heads(part: nn.Linear) -> Tensor:
            return part(x).unflatten(2, (-1, self.c.head_dim)).transpose(1, 2)

        query = rotate(heads(self.q_proj), self.c.rope_theta)
        rows = rotate(heads(self.k_proj), self.c.rope_theta), heads(self.v_proj)
        out = aligned_attention(query, [*earlier, rows], self.c.head_dim**-0.5)
        return self.o_proj(out.transpose(1, 2).flatten(2)), rows


class Mlp(nn.Module):
    def __init__(self, c: HiViSConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """A Llama layer without the norm in front of its attention, as EAGLE's only layer is."""

    def __init__(self, c: HiViSConfig) -> None:
        super().__init__()
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.mlp = Mlp(c)

    def forward(self, x: Tensor, earlier: Sequence[Rows]) -> tuple[Tensor, Rows]:
        attended, rows = self.self_attn(x, earlier)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), rows


class HiViSModel(nn.Module):
    """``fc`` and one layer over whole sequences, step by step."""

    def __init__(self, config: HiViSConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(3 * config.hidden_size, config.hidden_size)
        self.residual = nn.Parameter(torch.empty(config.residual_rows, config.hidden_size))
        nn.init.xavier_normal_(self.residual)
        self.layers = nn.ModuleList([Layer(config)])

    def forward(
        self, following: Tensor, hidden: Tensor, step: int, earlier: Sequence[Rows]
    ) -> tuple[Tensor, Rows]:
        """One step over all rows.

        Args:
            following: ``[B, n, E]`` embeddings of the token after each row.
            hidden: ``[B, n, E]`` the target's hidden states, or the drafter's own of one row back.
            step: how many tokens ahead of the confirmed text a row is.
            earlier: keys and values of steps 0..step-1.

        Returns:
            ``[B, n, E]`` predicted hidden states of the next row, and the step's keys and values.
        """
        residual = self.residual[min(step, self.config.residual_rows - 1)].expand_as(hidden)
        # fp32 from here on, so that under autocast the residual stream is not rounded to bf16.
        x = self.fc(torch.cat([following, hidden, residual.to(hidden.dtype)], -1)).float()
        return self.layers[0](x, earlier)

    @torch.no_grad()
    def share_first_residual(self) -> None:
        """Give every step the vector that stage 1 learned for the first."""
        self.residual.copy_(self.residual[:1].expand_as(self.residual).clone())
