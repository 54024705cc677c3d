"""LLaVA-1.5 (``LlavaForConditionalGeneration``): one placeholder token per visual row."""

from __future__ import annotations

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

    def embed(self, model: PreTrainedModel, inputs: Inputs) -> Tensor:
        embeddings = cast(nn.Embedding, model.get_input_embeddings())(inputs.tokens)
        pixels = inputs.features.get("pixel_values")
        picture = embeddings.new_empty(0, embeddings.shape[2])
        if pixels is not None:
            llava = cast(LlavaForConditionalGeneration, model)
            projected = llava.get_image_features(pixel_values=pixels).pooler_output
            picture = torch.cat(list(projected), dim=0).to(embeddings)
        slots = inputs.tokens == model.config.image_token_id
        if int(slots.sum()) != len(picture):
            raise HivisError(
                f"prompt: wanted a placeholder for each of {len(picture)} visual rows, "
                f"got {int(slots.sum())}"
            )
        return embeddings.masked_scatter(slots.unsqueeze(-1), picture)

    def text_rows(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        return tokens[0] != model.config.image_token_id
