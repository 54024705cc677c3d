"""Targets of a given shape with random weights, and prompts for them.

Weights are made on the device and in the dtype that they are used in: a model of 13 billion
parameters never lies on the host.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from bench.synthetic.configs import ModelShape
from hivis.core.target import Inputs
from hivis.models.families.registry import family_of
from hivis.models.target import HuggingFaceTarget

#: The least number of text rows of a prompt, before and after its image.
BEFORE, AFTER = 4, 8
#: The least number of rows of a prompt.
LEAST_ROWS = BEFORE + AFTER


def random_target(shape: ModelShape, dtype: torch.dtype, device: torch.device) -> HuggingFaceTarget:
    """The family's target over a model of this shape."""
    return HuggingFaceTarget(random_model(shape, dtype, device), family_of(shape.config.model_type))


def random_model(shape: ModelShape, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model of this shape. It has no EOS, so outputs are as long as they may be."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            shape.config, dtype=dtype, attn_implementation="sdpa"
        )
    model = model.requires_grad_(False).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def random_prompt(shape: ModelShape, target: HuggingFaceTarget, rows: int) -> Inputs:
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
        seen, count = RANDOM_IMAGES[config.model_type](config.vision_config, size)
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
    """How many rows of a prompt belong to its image."""
    return int((~target.family.text_rows(target.model, inputs.tokens)).sum())


def _llava_image(vision: Any, size: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
    """What a processor makes of an image of this height and width, and the image's rows."""
    side = vision.image_size
    pixels = _noise(1, 3, side, side)
    return {"pixel_values": pixels}, (side // vision.patch_size) ** 2


def _llava_next_image(vision: Any, size: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
    """Likewise: the whole image and its tiles. These fill the grid; its lines end in a row each."""
    side = vision.image_size
    patches = side // vision.patch_size
    high, wide = (length // side for length in size)
    pixels = _noise(1, 1 + high * wide, 3, side, side)
    rows = patches**2 + high * patches * (wide * patches + 1)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([size])}, rows


def _qwen_image(vision: Any, size: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
    """Likewise: patches one by one, of which several make a row."""
    high, wide = (side // vision.patch_size for side in size)
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    features = {
        "pixel_values": _noise(high * wide, width),
        "image_grid_thw": torch.tensor([[1, high, wide]]),
    }
    return features, high * wide // vision.spatial_merge_size**2


def _noise(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


#: By model type: features and rows of a random image, from the vision tower's config and a size.
RANDOM_IMAGES = {"llava": _llava_image, "llava_next": _llava_next_image, "qwen2_5_vl": _qwen_image}
