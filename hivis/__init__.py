"""hivis: lossless speculative decoding for vision-language models.

Importing it registers the ops as ``torch.ops.hivis.*``; what needs transformers is imported when it
is first asked for.

Raises:
    ImportError: the compiled extension is not built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hivis.errors import HivisError, refuse_to_start

try:
    from hivis import ops
except ImportError as error:  # the extension is not built
    refuse_to_start("hivis", error)
    raise

from hivis.core.sampling import SamplingParams
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import TreeShape
from hivis.policies.fixed import FixedPolicy

if TYPE_CHECKING:
    from hivis.api.load import load, wrap
    from hivis.api.model import Model, Request
    from hivis.api.stream import TextGeneration, TextStream

__version__ = "0.1.0"
__all__ = [
    "DraftTree",
    "FixedPolicy",
    "HivisError",
    "Model",
    "Request",
    "SamplingParams",
    "TextGeneration",
    "TextStream",
    "TreeShape",
    "__version__",
    "load",
    "ops",
    "wrap",
]

# These import transformers, which takes seconds: only when they are asked for.
_LAZY = {
    "load": "hivis.api.load",
    "wrap": "hivis.api.load",
    "Model": "hivis.api.model",
    "Request": "hivis.api.model",
    "TextGeneration": "hivis.api.stream",
    "TextStream": "hivis.api.stream",
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
