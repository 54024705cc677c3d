"""CUDA graphs on a CPU: work is recorded without being done, and replayed operation by operation.

As with the real thing a recording computes nothing, what it returns holds nothing before the first
replay, and every replay reads and writes the very memory that was recorded. It is hostile where the
real thing is lenient: results of operations are overwritten by garbage before every replay, and
whatever would read a value on the host, or copy one from there, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

T = TypeVar("T")

READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "unique")


class Recording(TorchDispatchMode):
    """Notes operations instead of doing them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name.startswith(READS):
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        with self:  # a cast, say, is a view or a copy: that shows in what it is made of
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if func.is_view:
            return func(*args, **kwargs)
        own, written = [], set()
        for place, said in enumerate(func._schema.arguments):
            if said.alias_info is not None and said.alias_info.is_write:
                written |= said.alias_info.before_set
                own.append(kwargs[said.name] if said.name in kwargs else args[place])
        if own:
            self.steps.append((func, args, kwargs, []))
            said = func._schema.returns
            assert len(said) <= 1, f"{name}: wanted one result, got {len(said)}"
            return own[0] if said else None
        shapes = func(*tree_map(_meta, args), **_meta_device(tree_map(_meta, kwargs)))
        made = tree_map(_garbage, shapes)
        self.steps.append((func, args, kwargs, _tensors(made)))
        return made

    def replay(self) -> None:
        """Do what was recorded, on the memory that it was recorded with."""
        with torch.inference_mode():
            for _, _, _, made in self.steps:
                for tensor in made:
                    _spoil(tensor)
            for func, args, kwargs, made in self.steps:
                results = _tensors(func(*args, **kwargs))
                for tensor, result in zip(made, results, strict=bool(made)):
                    tensor.copy_(result)


class CpuRecorder:
    """Stands in for :class:`hivis.graphs.CudaRecorder`; counts what it is used for."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        recording = Recording()
        with torch.inference_mode(), recording:
            result = work()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            recording.replay()

        return result, replay


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


def _meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _meta_device(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**kwargs, "device": torch.device("meta")} if "device" in kwargs else kwargs


def _garbage(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    real = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
    return _spoil(real)


def _spoil(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return tensor.fill_(float("nan"))
    return tensor.fill_(True if tensor.dtype == torch.bool else -77)
