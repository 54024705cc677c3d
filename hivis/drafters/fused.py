"""The tables of a one-layer drafter, made once: fused weights, and rotations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hivis.drafters.config import LayerConfig

#: A tensor of the checkpoint by name, in fp32 on the target's device, to fuse weights from.
Weight = Callable[[str], Tensor]


def fuse_layer(weight: Weight, attention_bias: bool) -> dict[str, Tensor]:
    """The decoder layer: one matrix for q, k and v, one for gate and up, and what stands alone."""
    layer = "layers.0."
    qkv = [layer + f"self_attn.{part}_proj" for part in "qkv"]
    fused = {
        "qkv": torch.cat([weight(part + ".weight") for part in qkv]),
        "o": weight(layer + "self_attn.o_proj.weight"),
        "norm": weight(layer + "post_attention_layernorm.weight"),
        "gate_up": torch.cat(
            [weight(layer + f"mlp.{part}_proj.weight") for part in ("gate", "up")]
        ),
        "down": weight(layer + "mlp.down_proj.weight"),
    }
    if attention_bias:
        fused["qkv_bias"] = torch.cat([weight(part + ".bias") for part in qkv])
    return fused


def rope_table(
    rows: int, config: LayerConfig, device: torch.device, dtype: torch.dtype
) -> Tensor:  # fmt: skip
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
