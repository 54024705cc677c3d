"""CUDA graphs on a CPU: work is captured without being done, and replayed operation by operation.

As with the real thing a capture computes nothing, what it returns holds nothing before the first
replay, and every replay reads and writes the very memory that was captured, without keeping it
alive: memory that was given back meanwhile is an error here. It is hostile where the real thing is
lenient: results of operations, and of captures made later, are overwritten by garbage before
every replay, and whatever would read a value on the host, or copy one from there, is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

T = TypeVar("T")

READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "unique")


class Capture(TorchDispatchMode):
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

    def let_go(self) -> None:
        """Keep no tensor alive but those that were made here."""
        made = {tensor.untyped_storage()._cdata for step in self.steps for tensor in step[3]}

        def outside(value: Any) -> Any:
            known = not isinstance(value, Tensor) or value.untyped_storage()._cdata in made
            return value if known else Outside(value)

        self.steps = [
            (func, tree_map(outside, args), tree_map(outside, kwargs), own)
            for func, args, kwargs, own in self.steps
        ]

    def spoil(self) -> None:
        """Overwrite all that was made here."""
        for step in self.steps:
            for tensor in step[3]:
                _spoil(tensor)

    def replay(self) -> None:
        """Do what was captured, on the memory that it was captured with."""
        self.spoil()
        for func, args, kwargs, made in self.steps:
            results = _tensors(func(*tree_map(_inside, args), **tree_map(_inside, kwargs)))
            for tensor, result in zip(made, results, strict=bool(made)):
                tensor.copy_(result)


class Outside:
    """A tensor that somebody else has to keep."""

    def __init__(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.empty = storage.nbytes() == 0
        self.storage = StorageWeakRef(storage)
        self.shape, self.stride, self.dtype = tensor.shape, tensor.stride(), tensor.dtype
        self.offset = tensor.storage_offset()

    def tensor(self) -> Tensor:
        new = torch.empty(0, dtype=self.dtype)
        if self.empty:
            return new.view(self.shape)
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise MemoryError(f"a capture reads {list(self.shape)} that were given back")
        return new.set_(storage, self.offset, self.shape, self.stride)


def _inside(value: Any) -> Any:
    return value.tensor() if isinstance(value, Outside) else value


class CpuCapturer:
    """Stands in for :class:`hivis.engine.cuda_graphs.CudaCapturer`; counts what it is used for."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0
        self._all: list[weakref.ref[Capture]] = []

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        capture = Capture()
        with torch.inference_mode(), capture:
            result = work()
        capture.let_go()
        self.captured += 1
        self._all.append(weakref.ref(capture))
        place = len(self._all)

        def replay() -> None:
            self.replayed += 1
            with torch.inference_mode():
                for later in self._all[place:]:
                    if (other := later()) is not None:
                        other.spoil()
                capture.replay()

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
