"""Memory between two pages that no one may touch: a read or write past a tensor ends the process.

Every tensor of a case lies in an arena of its own, against one fence or the other, and what lies
around its elements is compared after the op has run.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

SIZE = 1 << 23
PAGE = mmap.PAGESIZE
#: Bytes beside a tensor, on the side without a fence, that must stay as they are.
MARGIN = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Arena:
    """Fenced memory for one argument at a time."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, SIZE + 2 * PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for fence in (address, address + PAGE + SIZE):
            if _libc.mprotect(fence, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self._all = torch.frombuffer(self._map, dtype=torch.uint8, offset=PAGE, count=SIZE)
        self.region = self._all[:0]
        self._before = self.region

    def place(
        self, flat: Tensor, shape: Sequence[int], strides: Sequence[int], at_end: bool
    ) -> Tensor:
        """A view of ``shape`` and ``strides`` on a copy of ``flat``, the elements it spans."""
        size = flat.numel() * flat.element_size()
        whole = size + MARGIN
        if whole > SIZE:
            raise ValueError(f"arena: wanted at most {SIZE} bytes, got {whole}")
        first = SIZE - size if at_end else 0
        self.region = self._all[SIZE - whole :] if at_end else self._all[:whole]
        memory = self._all[first : first + size].view(flat.dtype)
        memory.copy_(flat)
        return memory.as_strided(shape, strides)

    def freeze(self) -> None:
        """Remember the bytes as they are now."""
        self._before = self.region.clone()

    def twin(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """A copy of the frozen bytes, and the same view on it."""
        copy = self._before.clone()
        behind = view.data_ptr() - self.region.data_ptr()
        size = copy.numel() - behind
        memory = copy[behind : behind + size // view.element_size() * view.element_size()]
        return copy, memory.view(view.dtype).as_strided(view.shape, view.stride())

    def unchanged(self) -> bool:
        return torch.equal(self.region, self._before)


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from a tensor's first to its last, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))


def dense(shape: Sequence[int]) -> list[int]:
    """Strides of a contiguous tensor."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return strides[::-1]


def hostile(random: Random, shape: Sequence[int], repeats: bool = False) -> list[int]:
    """Strides of some view: dimensions in any order, gaps between rows, the last one contiguous.

    With ``repeats`` dimensions may also lie on top of each other, as ``expand`` and overlapping
    windows leave them.
    """
    if random.random() < 0.3:
        return dense(shape)
    order = list(range(len(shape) - 1))
    if random.random() < 0.5:
        random.shuffle(order)
    strides = [1] * len(shape)
    step = max(shape[-1], 1) + random.choice((0, 0, 0, 1, 3, 8))
    for dim in reversed(order):
        strides[dim] = step
        step = step * max(shape[dim], 1) + random.choice((0, 0, 0, 1, 5, step))
    if repeats and order and random.random() < 0.2:
        strides[random.choice(order)] = random.choice((0, 0, 1, 2))
    return strides


class Slots:
    """The arenas of a case, by argument; made once and used by all cases."""

    def __init__(self) -> None:
        self._arenas: dict[str, Arena] = {}
        self.used: dict[str, Arena] = {}

    def clear(self) -> None:
        self.used = {}

    def place(
        self, random: Random, name: str, flat: Tensor, shape: Sequence[int], strides: Sequence[int]
    ) -> Tensor:
        arena = self._arenas.get(name) or self._arenas.setdefault(name, Arena())
        self.used[name] = arena
        return arena.place(flat, shape, strides, random.random() < 0.7)

    def put(self, random: Random, name: str, values: Tensor) -> Tensor:
        """A contiguous copy of ``values``."""
        flat = values.reshape(-1)
        return self.place(random, name, flat, values.shape, dense(values.shape))

    def freeze(self) -> None:
        for arena in self.used.values():
            arena.freeze()
