"""A model's generation settings."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedModel


def generation_fields() -> frozenset[str]:
    """The names of all generation settings of this transformers."""
    return frozenset(GenerationConfig().to_dict())


def generation_settings(model: PreTrainedModel) -> dict[str, Any]:
    """The model's own settings, without entries that transformers has no meaning for."""
    config = getattr(model, "generation_config", None)
    fields = {} if config is None else config.to_dict()
    return {name: value for name, value in fields.items() if name in generation_fields()}
