"""Drafters with random weights, of the sizes that are published for a target."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bench.synthetic.configs import ModelShape
from hivis.drafters.config import LayerConfig
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.drafters.registry import call, method_of, methods
from hivis.errors import HivisError
from hivis.models.drafter_sizes import sizes_of

#: Standard deviation of the weights.
SCALE = 0.02


def drafter_names() -> list[str]:
    """The methods whose drafters can be made with random weights and are one-layer drafters.

    The others have neither ``quantize`` nor a config by which the bytes that are streamed can be
    counted. A method's record tells them apart: one-layer drafters alone are ``quantizable``.
    """
    return [each.name for each in methods() if each.random is not None and each.quantizable]


def random_drafter(
    shape: ModelShape, name: str, dtype: torch.dtype, device: torch.device
) -> OneLayerDrafter:
    """A drafter of this method for a target of these sizes."""
    reference = method_of(name).random
    assert reference is not None
    sizes = sizes_of(shape.config)
    weights = partial(random_weights, dtype=dtype, device=device)
    drafter: OneLayerDrafter = call(reference, sizes.layer, sizes.hiding, weights)
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


def random_draft_vocab(vocab_size: int, count: int | None) -> Tensor | None:
    """``[count]`` int64, the tokens of a draft vocabulary; ``None`` for the whole vocabulary.

    Raises:
        HivisError: the vocabulary has fewer than ``count`` tokens.
    """
    if count is None:
        return None
    if not 1 <= count <= vocab_size:
        raise HivisError(f"--draft-vocab: wanted 1 to {vocab_size} tokens, got {count}")
    return torch.randperm(vocab_size, generator=torch.Generator().manual_seed(2))[:count]
