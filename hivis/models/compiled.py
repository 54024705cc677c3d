"""A target's pass over a tree as ``torch.compile`` makes it: fewer kernels for the same work."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch._dynamo import config
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from hivis.errors import first_line

T = TypeVar("T")

#: Compiled forms at a time: one for every N, number of sequences and size of the cache.
MOST = 64


class Compiled(Generic[T]):
    """``work`` compiled as a whole for each shape, with our ops called from it as they are.

    If it cannot be compiled there is a warning, and it runs uncompiled. The compiler keeps fewer
    intermediate results in the model's precision, so logits round differently from those of the
    layers one by one. Only outputs of the same compiled form can be compared token by token.

    Args:
        work: a function of tensors.
        backend: of ``torch.compile``.
    """

    def __init__(self, work: Callable[..., T], backend: str | Callable[..., Any]) -> None:
        self._work = work
        self._compiled: Callable[..., T] | None = torch.compile(
            work, fullgraph=True, dynamic=False, backend=backend
        )

    def __call__(self, *args: torch.Tensor) -> T:
        if self._compiled is None:
            return self._work(*args)
        try:
            with config.patch(recompile_limit=MOST):
                return self._compiled(*args)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            self._compiled = None
            message = (
                f"compile: wanted to compile the model, go on without, got {first_line(error)}"
            )
            warnings.warn(message, stacklevel=2)
            return self._work(*args)
