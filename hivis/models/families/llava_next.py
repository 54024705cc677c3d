"""LLaVA-NeXT (``LlavaNextForConditionalGeneration``): an image as a whole and in tiles.

An image's rows are those of the whole, then those of its tiles, set together line by line without
the padding that made them square, each line ended by one row more.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from hivis.errors import HivisError
from hivis.models.families.base import Family


class LlavaNext(Family):
    """The model's own functions put an image's rows together; a placeholder stands for each."""

    model_types = ("llava_next",)

    def look(self, model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor | None:
        pixels = features.get("pixel_values")
        if pixels is None:
            return None
        # One after the other: the tower returns the states of all its layers.
        parts = zip(pixels.split(1), _sizes(features).split(1), strict=True)
        look = model.model.get_image_features
        return torch.cat([look(part, size).pooler_output[0] for part, size in parts])

    def image_rows(
        self, model: PreTrainedModel, tokens: Tensor, features: Mapping[str, Tensor]
    ) -> list[int]:
        # What the model does to features of E values, done to features of one.
        config, sizes = model.config, _sizes(features).cpu()
        side = config.vision_config.image_size
        rows = (side // config.vision_config.patch_size) ** 2
        empty = [
            torch.empty(image_size_to_num_patches(size, config.image_grid_pinpoints, side), rows, 1)
            for size in sizes
        ]
        _, lengths = model.model.pack_image_features(
            empty, sizes, config.vision_feature_select_strategy, torch.empty(1)
        )
        return lengths.tolist()


def _sizes(features: Mapping[str, Tensor]) -> Tensor:
    if "image_sizes" not in features:
        raise HivisError(f"features: wanted image_sizes of the images, got {sorted(features)}")
    return features["image_sizes"]
