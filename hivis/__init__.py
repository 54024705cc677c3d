"""hivis: lossless speculative decoding for vision-language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hivis.errors import HivisError
from hivis.policy import TreePolicy
from hivis.sampling import SamplingParams
from hivis.tree import DraftTree

if TYPE_CHECKING:
    from hivis.loading import load, wrap
    from hivis.model import Model, Request
    from hivis.stream import TextGeneration, TextStream

__version__ = "0.1.0"
__all__ = [
    "DraftTree", "HivisError", "Model", "Request", "SamplingParams", "TextGeneration",
    "TextStream", "TreePolicy", "__version__", "load", "wrap",
]  # fmt: skip

# These import transformers, which takes seconds: only when they are asked for.
_LAZY = {
    "load": "hivis.loading",
    "wrap": "hivis.loading",
    "Model": "hivis.model",
    "Request": "hivis.model",
    "TextGeneration": "hivis.stream",
    "TextStream": "hivis.stream",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "page":
        return import_module("hivis.page")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
