"""The model families that hivis decodes, each by its adapter."""

from __future__ import annotations

from collections.abc import Sequence

from hivis.errors import HivisError
from hivis.models.families.base import Family
from hivis.models.families.idefics3 import Idefics3
from hivis.models.families.llava import Llava
from hivis.models.families.llava_next import LlavaNext
from hivis.models.families.qwen_vl import QwenVL

FAMILIES: tuple[Family, ...] = (Llava(), LlavaNext(), QwenVL(), Idefics3())


def family_of(model_type: str, families: Sequence[Family] = FAMILIES) -> Family:
    """The adapter for a ``config.model_type``; HivisError names those that exist."""
    for family in families:
        if model_type in family.model_types:
            return family
    known = ", ".join(name for family in families for name in family.model_types)
    raise HivisError(f"model type: wanted one of {known}, got {model_type}")
