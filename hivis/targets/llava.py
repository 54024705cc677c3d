"""LLaVA-1.5 (``LlavaForConditionalGeneration``): one placeholder token per visual row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from hivis.errors import HivisError
from hivis.targets.base import Inputs


class Llava:
    """Vision tower, projector, and a text model whose placeholder rows the picture replaces."""

    model_types: tuple[str, ...] = ("llava",)

    def language_model(self, model: PreTrainedModel) -> PreTrainedModel:
        return model.model.language_model

    def look(self, model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor | None:
        pixels = features.get("pixel_values")
        if pixels is None:
            return None
        tower = cast(LlavaForConditionalGeneration, model).model.vision_tower
        states = tower(pixels, output_hidden_states=True).hidden_states
        layers = model.config.vision_feature_layer
        seen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        # "default" leaves out the class token, the tower's first row.
        first = 1 if model.config.vision_feature_select_strategy == "default" else 0
        return torch.cat([state[:, first:] for state in seen], dim=-1)

    def embed(self, model: PreTrainedModel, inputs: Inputs, seen: Tensor | None) -> Tensor:
        embeddings = cast(nn.Embedding, model.get_input_embeddings())(inputs.tokens)
        picture = embeddings.new_empty(0, embeddings.shape[2])
        if seen is not None:
            projector = cast(LlavaForConditionalGeneration, model).model.multi_modal_projector
            picture = projector(seen).flatten(0, 1).to(embeddings)
        slots = inputs.tokens == model.config.image_token_id
        if int(slots.sum()) != len(picture):
            raise HivisError(
                f"prompt: wanted a placeholder for each of {len(picture)} visual rows, "
                f"got {int(slots.sum())}"
            )
        return embeddings.masked_scatter(slots.unsqueeze(-1), picture)

    def text_rows(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        return tokens[0] != model.config.image_token_id
