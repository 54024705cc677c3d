"""Qwen2-VL and Qwen2.5-VL: images of any size, and positions in time, height and width.

An image takes as many rows as its size asks for, but only as many positions as its longer side
has: the three positions of a token behind it lag behind its row. Drafters count rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, PreTrainedModel, Qwen2_5_VLProcessor
from transformers.utils import is_torchvision_available

from hivis.core.target import Inputs
from hivis.errors import HivisError
from hivis.models.families.base import Family


class StillImages(Qwen2_5_VLProcessor):
    """The processor without its part for videos, which cannot be had without torchvision."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


class QwenVL(Family):
    """The vision tower ends in its own projector; an image stands between two markers."""

    model_types = ("qwen2_5_vl", "qwen2_vl")
    processor_class = AutoProcessor if is_torchvision_available() else StillImages
    attention_bias = True
    # As in the published drafters: an image is hidden with the markers around it and leaves its gap
    # in the positions. Their authors hide one more row behind it (their ge_data_qwen.py).
    hiding = {"positions": "original", "hide_before": 1, "hide_after": 1}
    published_hiding = hiding | {"hide_after": 2}

    def image_markers(self, config: Any) -> tuple[int | None, int | None]:
        return config.vision_start_token_id, config.vision_end_token_id

    def look(self, model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor | None:
        pixels = features.get("pixel_values")
        if pixels is None:
            return None
        # One after the other: together they would take as much more memory.
        grids, look = _grids(features), model.model.get_image_features
        parts = zip(pixels.split(grids.prod(1).tolist()), grids.split(1), strict=True)
        return torch.cat([look(part, grid).pooler_output[0] for part, grid in parts])

    def positions(self, model: PreTrainedModel, inputs: Inputs) -> Tensor:
        if "pixel_values" not in inputs.features:
            return super().positions(model, inputs)
        positions, _ = model.model.get_rope_index(
            inputs.tokens,
            image_grid_thw=_grids(inputs.features),
            **self.token_features(model, inputs.tokens),
        )
        return positions

    def image_rows(
        self, model: PreTrainedModel, tokens: Tensor, features: Mapping[str, Tensor]
    ) -> list[int]:
        merged = model.config.vision_config.spatial_merge_size**2
        return (_grids(features).prod(1) // merged).tolist()

    def token_features(self, model: PreTrainedModel, tokens: Tensor) -> dict[str, Tensor]:
        return {"mm_token_type_ids": (tokens == model.config.image_token_id).int()}


def _grids(features: Mapping[str, Tensor]) -> Tensor:
    if "image_grid_thw" not in features:
        raise HivisError(f"features: wanted image_grid_thw of the images, got {sorted(features)}")
    return features["image_grid_thw"]
