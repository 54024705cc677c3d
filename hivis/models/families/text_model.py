"""Plain language models, which draft for a VLM of the same tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hivis.core.target import Inputs
from hivis.models.families.base import Family


class TextModel(Family):
    """A causal language model: it sees no image, and every row that it reads is text.

    It is never a target, so it is not in the registry.
    """

    model_types = ("llama",)

    def language_model(self, model: PreTrainedModel) -> PreTrainedModel:
        return model.model

    def look(self, model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor | None:
        return None

    def embed(self, model: PreTrainedModel, inputs: Inputs, seen: Tensor | None) -> Tensor:
        return cast(nn.Embedding, model.get_input_embeddings())(inputs.tokens)

    def text_rows(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        return torch.ones_like(tokens[0], dtype=torch.bool)

    def image_rows(
        self, model: PreTrainedModel, tokens: Tensor, features: Mapping[str, Tensor]
    ) -> list[int]:
        return []
