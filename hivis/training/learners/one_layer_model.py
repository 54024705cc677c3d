"""Trainable modules: the decoder layer of HiViS, EAGLE-2 and ViSpec drafters, and HiViS itself.

Tensors have the names of the checkpoints (``drafters/checkpoint.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hivis.drafters.config import HiViSConfig, LayerConfig
from hivis.training.learners.attention import (
    KeysAndValues,
    RotaryFactors,
    aligned_attention,
    apply_rotary,
)


class Attention(nn.Module):
    def __init__(self, c: LayerConfig) -> None:
        super().__init__()
        self.head_dim = c.head_dim
        queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, queries, bias=c.attention_bias)
        self.k_proj = nn.Linear(c.hidden_size, keys, bias=c.attention_bias)
        self.v_proj = nn.Linear(c.hidden_size, keys, bias=c.attention_bias)
        self.o_proj = nn.Linear(queries, c.hidden_size, bias=False)

    def forward(
        self, x: Tensor, factors: RotaryFactors, first: int, earlier: Sequence[KeysAndValues]
    ) -> tuple[Tensor, KeysAndValues]:
        def heads(part: nn.Linear, x: Tensor) -> Tensor:
            return part(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2)

        query = apply_rotary(heads(self.q_proj, x[:, first:]), factors)
        keys = apply_rotary(heads(self.k_proj, x), factors), heads(self.v_proj, x)
        out = aligned_attention(query, [*earlier, keys], self.head_dim**-0.5)
        return self.o_proj(out.transpose(1, 2).flatten(2)), keys


class Mlp(nn.Module):
    def __init__(self, c: LayerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """A Llama layer without the norm before its attention, like EAGLE's only layer."""

    def __init__(self, c: LayerConfig) -> None:
        super().__init__()
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.mlp = Mlp(c)

    def forward(
        self, x: Tensor, factors: RotaryFactors, first: int, earlier: Sequence[KeysAndValues]
    ) -> tuple[Tensor, KeysAndValues]:
        """One pass over rows ``x`` ``[B, rows, E]``.

        Args:
            factors: rotary factors of the rows.
            first: the first row with an output. Earlier rows only provide keys and values, as the
                prompt does at inference.
            earlier: keys and values of the passes before.

        Returns:
            The outputs ``[B, rows - first, E]``, and the keys and values of this pass.
        """
        attended, keys = self.self_attn(x, factors, first, earlier)
        x = x[:, first:] + attended
        return x + self.mlp(self.post_attention_layernorm(x)), keys


class OneLayerModel(nn.Module):
    """The layer and its config."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([Layer(config)])

    @property
    def layer(self) -> Layer:
        layer = self.layers[0]
        assert isinstance(layer, Layer)
        return layer


class HiViSModel(OneLayerModel):
    """``fc`` and the layer: a HiViS drafter, or an EAGLE-2 one if it has no residual rows."""

    config: HiViSConfig

    def __init__(self, config: HiViSConfig) -> None:
        super().__init__(config)
        e = config.hidden_size
        self.fc = nn.Linear(config.shapes()["fc.weight"][1], e)
        if config.residual_rows:
            first = nn.init.xavier_normal_(torch.empty(1, e))
            self.residual = nn.Parameter(first.repeat(config.residual_rows, 1))

    def join(self, following: Tensor, hidden: Tensor, step: int, alike: bool = False) -> Tensor:
        """``[B, rows, E]``, the input of the layer.

        Args:
            following: ``[B, rows, E]`` embeddings of the tokens after the rows.
            hidden: ``[B, rows, E]`` the target's hidden states, or the drafter's own.
            step: how many tokens a row is ahead of the last confirmed one.
            alike: give all residual rows the gradient of this one, so that equal rows stay equal.
        """
        # fp32 after fc, so that autocast does not round the residual stream to bf16.
        pair, weight = torch.cat([following, hidden], -1), self.fc.weight
        if not self.config.residual_rows:
            return self.fc(pair).float()
        residual = self.residual[min(step, self.config.residual_rows - 1)]
        if alike:
            mean = self.residual.mean(0)
            residual = mean + (residual - mean).detach()
        e = self.config.hidden_size
        bias = F.linear(residual, weight[:, 2 * e :], self.fc.bias)
        return F.linear(pair, weight[:, : 2 * e], bias).float()
