"""LLaVA-1.5 (``LlavaForConditionalGeneration``): one placeholder token per visual row."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from hivis.targets.base import Inputs


class Llava:
    """Vision tower, projector, and a text model whose placeholder rows the picture replaces."""

    model_types: tuple[str, ...] = ("llava",)

    def language_model(self, model: PreTrainedModel) -> PreTrainedModel:
        return model.model.language_model

    def embed(self, model: PreTrainedModel, inputs: Inputs) -> Tensor:
        embeddings = cast(nn.Embedding, model.get_input_embeddings())(inputs.tokens)
        pixels = inputs.features.get("pixel_values")
        if pixels is None:
            return embeddings
        llava = cast(LlavaForConditionalGeneration, model)
        projected = llava.get_image_features(pixel_values=pixels).pooler_output
        picture = torch.cat(list(projected), dim=0).to(embeddings)
        slots = (inputs.tokens == model.config.image_token_id).unsqueeze(-1)
        return embeddings.masked_scatter(slots, picture)

    def text_rows(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        return tokens[0] != model.config.image_token_id
