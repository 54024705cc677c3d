"""The model families that hivis decodes, one record each: a :class:`Family` object.

A new family is a file and an entry here. A package outside registers its own with
:func:`register_family`, or names its object as an entry point of the group ``hivis.families``.
"""

from __future__ import annotations

from collections.abc import Sequence

from hivis.core.registry import Registry
from hivis.errors import HivisError
from hivis.models.families.base import Family
from hivis.models.families.idefics3 import Idefics3
from hivis.models.families.llava import Llava
from hivis.models.families.llava_next import LlavaNext
from hivis.models.families.qwen_vl import QwenVL

FAMILIES: Registry[Family] = Registry("model family", "hivis.families")


def register_family(family: Family) -> None:
    """Let models of ``family.model_types`` be targets and draft models.

    Raises:
        HivisError: another family serves one of these types.
    """
    for other in FAMILIES.records():
        for model_type in family.model_types:
            if model_type in other.model_types and other is not family:
                raise HivisError(
                    f"model family: wanted types that no other family serves, got {model_type}"
                )
    FAMILIES.register(family)


def families() -> tuple[Family, ...]:
    """All families: our own, then those of packages."""
    return FAMILIES.records()


def family_of(model_type: str, among: Sequence[Family] | None = None) -> Family:
    """The family of a ``config.model_type``, by default among all.

    Raises:
        HivisError: there is none; it lists the types that are served.
    """
    known = families() if among is None else among
    for family in known:
        if model_type in family.model_types:
            return family
    types = ", ".join(name for family in known for name in family.model_types)
    raise HivisError(f"model type: wanted one of {types}, got {model_type}")


for _family in (Llava(), LlavaNext(), QwenVL(), Idefics3()):
    FAMILIES.register(_family)
