"""The weights of a one-layer drafter, fused once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
