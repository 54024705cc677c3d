"""Fake CUDA tensors, on machines without CUDA: no storage, and no value to be read on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda")
CASTS = {
    Tensor.long: torch.int64,
    Tensor.int: torch.int32,
    Tensor.float: torch.float32,
    Tensor.double: torch.float64,
    Tensor.bool: torch.bool,
}


class NoDevice(TorchFunctionMode):
    """What fake tensors want a real device for, in other ways.

    ``x[...]`` is done by the operators that it is made of, and what ``torch.tensor`` copies to the
    device (which ``copied`` counts) is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copied = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.tensor:
            self.copied += 1
            with unset_fake_temporarily():
                made = torch.tensor(args[0], dtype=(kwargs or {}).get("dtype"), device="cpu")
            return torch.empty(made.shape, dtype=made.dtype)
        on_gpu = bool(args) and isinstance(args[0], Tensor) and args[0].device.type == "cuda"
        if on_gpu and func is Tensor.__getitem__:
            return _item(*args)
        if on_gpu and func is Tensor.__setitem__:
            value = args[2]
            place = _item(*args[:2])
            return place.copy_(value) if isinstance(value, Tensor) else place.fill_(value)
        if on_gpu and func is Tensor.contiguous:
            return torch.ops.aten.clone(args[0], memory_format=torch.contiguous_format)
        if on_gpu and func in CASTS:
            return torch.ops.aten._to_copy(args[0], dtype=CASTS[func])
        if on_gpu and func is Tensor.to and not kwargs and isinstance(args[1], torch.dtype):
            return torch.ops.aten._to_copy(args[0], dtype=args[1])
        if on_gpu and func is Tensor.__invert__:
            return torch.ops.aten.bitwise_not(args[0])
        if on_gpu and func is Tensor.copy_:
            return torch.ops.aten.copy_(*args)
        return func(*args, **(kwargs or {}))


def _item(x: Tensor, key: Any) -> Tensor:
    keys = key if isinstance(key, tuple) else (key,)
    if any(entry is Ellipsis for entry in keys):
        at = next(i for i, entry in enumerate(keys) if entry is Ellipsis)
        named = sum(entry is not None for entry in keys) - 1
        keys = (*keys[:at], *[slice(None)] * (x.dim() - named), *keys[at + 1 :])
    indices: list[Tensor | None] = []
    for entry in keys:
        dim = len(indices)
        if isinstance(entry, int):
            x = x.select(dim, entry)
            continue
        if entry is None:
            x = x.unsqueeze(dim)
        elif isinstance(entry, slice):
            stop = 2**63 - 1 if entry.stop is None else entry.stop
            x = torch.ops.aten.slice(x, dim, entry.start or 0, stop, entry.step or 1)
        indices.append(entry if isinstance(entry, Tensor) else None)
    return torch.ops.aten.index(x, indices) if any(i is not None for i in indices) else x


@contextmanager
def fake_cuda() -> Iterator[NoDevice]:
    """In here new tensors are fake ones on a fake GPU, unless they say otherwise."""
    with FakeTensorMode(), torch.device(CUDA), NoDevice() as mode, torch.inference_mode():
        yield mode


def on_gpu(model: Any) -> Any:
    """``model`` with fake weights on the fake GPU."""
    for module in model.modules():
        for entries in (module._parameters, module._buffers):
            for name, own in entries.items():
                if own is not None:
                    fake = torch.empty(own.shape, dtype=own.dtype, device=CUDA)
                    is_weight = entries is module._parameters
                    entries[name] = nn.Parameter(fake, False) if is_weight else fake
    return model
