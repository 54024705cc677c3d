"""What differs between families of vision-language models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoProcessor, PreTrainedModel

from hivis.core.handoff import Span
from hivis.core.target import Inputs
from hivis.errors import HivisError


class Family(ABC):
    """What differs between model families. The defaults are what most of them have in common."""

    #: ``config.model_type`` values that it serves.
    model_types: tuple[str, ...]
    #: What loads the processor of a checkpoint.
    processor_class: Any = AutoProcessor
    #: Whether :meth:`look` ends before the projector, at ``model.model.vision_tower``, which a
    #: draft model of the same family can share. Otherwise it gives the visual rows themselves.
    shares_tower: bool = False
    #: Whether q, k and v of the language model have a bias. One-layer drafters for it have, too.
    attention_bias: bool = False
    #: How a HiViS drafter that is trained for such a target hides its images: entries of
    #: :class:`hivis.drafters.config.HiViSConfig` that are not the defaults.
    hiding: Mapping[str, Any] = {}
    #: The same, as the published HiViS drafters for such targets were trained.
    published_hiding: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """By which it is registered: the first of its model types."""
        return self.model_types[0]

    def image_markers(self, config: Any) -> tuple[int | None, int | None]:
        """The ids of the tokens that a chat template sets before and behind an image's
        placeholder, where the model has such tokens."""
        return None, None

    def language_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """The decoder stack (without the head) that takes ``inputs_embeds``."""
        return model.model.language_model

    @abstractmethod
    def look(self, model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor | None:
        """What the vision tower makes of the images; None without one."""

    def project(self, model: PreTrainedModel, seen: Tensor) -> Tensor:
        """``[R, E]``: the visual rows of all images, in order."""
        return seen

    def embed(self, model: PreTrainedModel, inputs: Inputs, seen: Tensor | None) -> Tensor:
        """``[1, P, E]``: token embeddings with the images, ``seen`` projected, in their rows."""
        embeddings = cast(nn.Embedding, model.get_input_embeddings())(inputs.tokens)
        image = embeddings.new_empty(0, embeddings.shape[2])
        if seen is not None:
            image = self.project(model, seen).to(embeddings)
        slots = inputs.tokens == model.config.image_token_id
        if int(slots.sum()) != len(image):
            raise HivisError(
                f"prompt: wanted a placeholder for each of {len(image)} visual rows, "
                f"got {int(slots.sum())}"
            )
        embeddings[slots] = image
        return embeddings

    def text_rows(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        """``[P]`` bool: which rows of a prompt ``[1, P]`` are text."""
        return tokens[0] != model.config.image_token_id

    def positions(self, model: PreTrainedModel, inputs: Inputs) -> Tensor:
        """``[1, P]`` or ``[3, 1, P]`` rotary positions of the prompt's rows.

        Those of the tokens behind it go on after the largest, the same in all three.
        """
        return torch.arange(inputs.length, device=inputs.tokens.device).unsqueeze(0)

    @abstractmethod
    def image_rows(
        self, model: PreTrainedModel, tokens: Tensor, features: Mapping[str, Tensor]
    ) -> list[int]:
        """How many visual rows each image of a prompt ``[1, P]`` has, in order."""

    def spans(
        self, model: PreTrainedModel, tokens: Tensor, features: Mapping[str, Tensor]
    ) -> tuple[Span, ...]:
        """Where each image lies, from its first visual row to its last; reads on the host.

        An image of several tiles is one, and the markers between its tiles lie within its span.
        """
        rows = (~self.text_rows(model, tokens)).nonzero().flatten().tolist()
        spans, at = [], 0
        for count in self.image_rows(model, tokens, features) if rows else []:
            spans.append((rows[at], rows[at + count - 1] + 1))
            at += count
        return tuple(spans)

    def token_features(self, model: PreTrainedModel, tokens: Tensor) -> dict[str, Tensor]:
        """What the model's own ``forward`` and ``generate`` want to be told of ``[B, n]`` ids."""
        return {}
