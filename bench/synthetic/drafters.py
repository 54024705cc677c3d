"""Drafters with random weights, of the sizes that are published for a target."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bench.synthetic.configs import ModelShape
from bench.synthetic.simulated_acceptance import FixedTree, fix_trees
from hivis.drafters.config import HiViSConfig, LayerConfig, ViSpecConfig
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.errors import HivisError
from hivis.models.drafter_sizes import sizes_of

DRAFTERS = ("hivis", "vispec")
#: Standard deviation of the weights.
SCALE = 0.02


def drafter_config(shape: ModelShape, kind: str) -> LayerConfig:
    """The configuration of a drafter of this kind.

    ViSpec's has as many key and value heads as query heads, whatever the target has.
    """
    sizes = sizes_of(shape.config)
    if kind == "hivis":
        return HiViSConfig(**sizes.layer, **sizes.hiding)
    config = ViSpecConfig(**sizes.layer)
    return replace(config, num_key_value_heads=config.num_attention_heads)


def random_drafter(
    config: LayerConfig, dtype: torch.dtype, device: torch.device, tree: FixedTree
) -> OneLayerDrafter:
    """A drafter whose trees all have the form of ``tree``."""
    tensors = random_weights(config, dtype, device)
    drafter: OneLayerDrafter
    if isinstance(config, HiViSConfig):
        drafter = HiViSDrafter(config, tensors)
    else:
        assert isinstance(config, ViSpecConfig)
        drafter = ViSpecDrafter(config, tensors)
    fix_trees(drafter, tree)
    return drafter


def random_weights(
    config: LayerConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """The tensors of a checkpoint, made on the device: normal weights, unit gains, zero biases."""
    torch.manual_seed(1)
    made = {}
    for name, size in config.shapes().items():
        tensor = torch.empty(size, dtype=dtype, device=device)
        if name.endswith("layernorm.weight"):
            made[name] = tensor.fill_(1)
        else:
            made[name] = tensor.zero_() if name.endswith(".bias") else tensor.normal_(0, SCALE)
    return made


def random_draft_vocab(config: LayerConfig, count: int | None) -> Tensor | None:
    """``[count]`` int64, the tokens of a draft vocabulary; ``None`` for the whole vocabulary.

    Raises:
        HivisError: the vocabulary has fewer than ``count`` tokens.
    """
    if count is None:
        return None
    if not 1 <= count <= config.vocab_size:
        raise HivisError(f"--draft-vocab: wanted 1 to {config.vocab_size} tokens, got {count}")
    return torch.randperm(config.vocab_size, generator=torch.Generator().manual_seed(2))[:count]
