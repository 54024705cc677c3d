"""What the configuration of a target decides of its one-layer drafters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivis.errors import HivisError, first_line
from hivis.models.families.registry import family_of
from hivis.models.supported import read_config


@dataclass(frozen=True)
class TargetSizes:
    """Of a target's language model.

    Attributes:
        layer: the entries of :class:`hivis.drafters.config.LayerConfig`.
        hiding: how a HiViS drafter hides its images, as entries of
            :class:`hivis.drafters.config.HiViSConfig`.
        published_hiding: the same, as the published HiViS drafters of such targets were trained.
        tied: whether the head is the embedding.
    """

    layer: dict[str, Any]
    hiding: dict[str, Any]
    published_hiding: dict[str, Any]
    tied: bool


def read_sizes(folder: Path) -> TargetSizes:
    """Read ``config.json``; what it leaves out has the default of its model type.

    Raises:
        HivisError: there is no readable config, or it is of an unsupported family.
    """
    try:
        config: Any = read_config(folder)
    except HivisError as error:
        raise HivisError(f"target {folder}: {error}") from None
    except Exception as error:  # transformers raises several kinds
        raise HivisError(
            f"target {folder}: wanted its config.json, got: {first_line(error)}"
        ) from None
    return sizes_of(config)


def sizes_of(config: Any) -> TargetSizes:
    """The same of a configuration; HivisError if it is of an unsupported family."""
    family = family_of(config.model_type)
    text = config.get_text_config()
    heads = text.num_attention_heads
    layer = {
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_attention_heads": heads,
        "num_key_value_heads": getattr(text, "num_key_value_heads", None) or heads,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // heads,
        "vocab_size": text.vocab_size,
        "rope_theta": float(text.rope_parameters["rope_theta"]),
        "rms_norm_eps": text.rms_norm_eps,
    }
    if family.attention_bias:
        layer["attention_bias"] = True
    tied = any(getattr(each, "tie_word_embeddings", False) for each in (config, text))
    return TargetSizes(layer, dict(family.hiding), dict(family.published_hiding), tied)
