"""Targets and drafters of a given shape with random weights, and prompts for them.

Weights are made on the device and in the dtype that they are used in: a model of 13 B parameters
never lies on the host.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from bench.synthetic.configs import Shape
from hivis.core.target import Inputs
from hivis.drafters.config import HiViSConfig, LayerConfig, ViSpecConfig
from hivis.errors import HivisError
from hivis.models.drafter_sizes import sizes_of
from hivis.models.families.registry import family_of
from hivis.models.target import HuggingFaceTarget

SCALE = 0.02
#: Text rows that a prompt has at least, before and behind its image.
BEFORE, BEHIND = 4, 8
#: Of a prompt.
LEAST_ROWS = BEFORE + BEHIND


def random_target(shape: Shape, dtype: torch.dtype, device: torch.device) -> HuggingFaceTarget:
    """The family's target over a model of this shape."""
    return HuggingFaceTarget(random_model(shape, dtype, device), family_of(shape.config.model_type))


def random_model(shape: Shape, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model of this shape, which writes texts of whatever length it is asked for."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            shape.config, dtype=dtype, attn_implementation="sdpa"
        )
    model = model.requires_grad_(False).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def drafter_config(shape: Shape, kind: str) -> LayerConfig:
    """A drafter of the sizes that are published for this target.

    ViSpec's has as many key and value heads as queries, whatever its target has.
    """
    sizes = sizes_of(shape.config)
    if kind == "hivis":
        return HiViSConfig(**sizes.layer, **sizes.hiding)
    config = ViSpecConfig(**sizes.layer)
    return replace(config, num_key_value_heads=config.num_attention_heads)


def random_tensors(
    config: LayerConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """The tensors of a checkpoint: normal weights, unit norm gains, zero biases."""
    torch.manual_seed(1)
    made = {}
    for name, size in config.shapes().items():
        tensor = torch.empty(size, dtype=dtype, device=device)
        if name.endswith("layernorm.weight"):
            made[name] = tensor.fill_(1)
        else:
            made[name] = tensor.zero_() if name.endswith(".bias") else tensor.normal_(0, SCALE)
    return made


def random_head(config: LayerConfig, count: int | None) -> Tensor | None:
    """``[count]`` tokens that a drafter drafts; ``None`` for all.

    Raises:
        HivisError: the vocabulary has not so many.
    """
    if count is None:
        return None
    if not 1 <= count <= config.vocab_size:
        raise HivisError(f"--draft-vocab: wanted 1 to {config.vocab_size} tokens, got {count}")
    return torch.randperm(config.vocab_size, generator=torch.Generator().manual_seed(2))[:count]


def random_prompt(shape: Shape, target: HuggingFaceTarget, rows: int) -> Inputs:
    """A prompt of exactly ``rows`` rows: random text around the largest image that fits.

    Args:
        rows: at least ``LEAST_ROWS``.
    """
    config, device = shape.config, target.device
    make = torch.Generator().manual_seed(rows)
    # The last tokens of a vocabulary are the special ones.
    tokens = torch.randint(3, config.get_text_config().vocab_size - 100, (rows,), generator=make)
    features: dict[str, Tensor] = {}
    for size in shape.images:
        seen, count = _image(config, size)
        if count <= rows - LEAST_ROWS:
            tokens[BEFORE : BEFORE + count] = config.image_token_id
            if (marker := getattr(config, "vision_start_token_id", None)) is not None:
                tokens[BEFORE - 1] = marker
                tokens[BEFORE + count] = config.vision_end_token_id
            features = {
                name: value.to(device, target.dtype if value.is_floating_point() else None)
                for name, value in seen.items()
            }
            break
    return Inputs(tokens.unsqueeze(0).to(device), features)


def image_rows(target: HuggingFaceTarget, inputs: Inputs) -> int:
    """How many rows of a prompt are its image's."""
    return int((~target.family.text_rows(target.model, inputs.tokens)).sum())


def _image(config: Any, size: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
    """What a processor would make of an image of this height and width, and its rows."""
    vision = config.vision_config
    make = torch.Generator().manual_seed(0)
    if config.model_type.startswith("qwen"):
        high, wide = (side // vision.patch_size for side in size)
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        grid = torch.tensor([[1, high, wide]])
        pixels = torch.randn(high * wide, width, generator=make)
        rows = high * wide // vision.spatial_merge_size**2
        return {"pixel_values": pixels, "image_grid_thw": grid}, rows
    side = cast(int, vision.image_size)
    patches = side // vision.patch_size
    if config.model_type == "llava":
        return {"pixel_values": torch.randn(1, 3, side, side, generator=make)}, patches**2
    # The whole image and its tiles; those fill the grid, and each of its lines ends in a row.
    high, wide = (length // side for length in size)
    pixels = torch.randn(1, 1 + high * wide, 3, side, side, generator=make)
    rows = patches**2 + high * patches * (wide * patches + 1)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([size])}, rows
