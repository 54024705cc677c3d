"""LLaVA-1.5 (``LlavaForConditionalGeneration``): one placeholder token per visual row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from hivis.models.families.base import Family


class Llava(Family):
    """Vision tower, projector, and a text model whose placeholder rows the image replaces."""

    model_types = ("llava",)
    shares_tower = True

    def look(self, model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor | None:
        pixels = features.get("pixel_values")
        if pixels is None:
            return None
        # One after the other: the tower returns the states of all its layers.
        return torch.cat([_look(model, image) for image in pixels.split(1)])

    def project(self, model: PreTrainedModel, seen: Tensor) -> Tensor:
        projector = cast(LlavaForConditionalGeneration, model).model.multi_modal_projector
        return projector(seen).flatten(0, 1)

    def image_rows(
        self, model: PreTrainedModel, tokens: Tensor, features: Mapping[str, Tensor]
    ) -> list[int]:
        images = len(features["pixel_values"])
        return [int((~self.text_rows(model, tokens)).sum()) // images] * images


def _look(model: PreTrainedModel, pixels: Tensor) -> Tensor:
    """``[images, rows, Ev]`` of ``[images, 3, height, width]``."""
    tower = cast(LlavaForConditionalGeneration, model).model.vision_tower
    states = tower(pixels, output_hidden_states=True).hidden_states
    layers = model.config.vision_feature_layer
    seen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    # "default" leaves out the class token, the tower's first row.
    first = 1 if model.config.vision_feature_select_strategy == "default" else 0
    return torch.cat([state[:, first:] for state in seen], dim=-1)
