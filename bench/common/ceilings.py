"""What the machine can do: the ceilings that the floors of all benchmarks are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.common.timing import time_graphs, time_together

#: Bytes of a copy on a GPU; bytes read plus written by a copy on a CPU.
COPY_BYTES, CPU_COPY_BYTES = 2**30, 2**27
#: Rows and columns of the matrices of a product.
PRODUCT_SIZE, CPU_PRODUCT_SIZE = 8192, 512

#: What times calls on a GPU, by default :func:`bench.common.timing.time_graphs`.
Timer = Callable[..., Any]


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of a GPU.

    Attributes:
        copy_gb_per_s: of a large copy, bytes read plus bytes written.
        mm_gflop_per_s: of a large matrix product, by dtype.
        l2_bytes: the size of its L2 cache.
    """

    copy_gb_per_s: float
    mm_gflop_per_s: Mapping[str, float]
    l2_bytes: int


def measure_ceilings(
    device: torch.device,
    dtypes: Sequence[torch.dtype],
    l2_bytes: int = 0,
    timer: Timer = time_graphs,
) -> Ceilings:
    """The rates of a GPU."""
    rates = {}
    for dtype in dtypes:
        a, b = torch.randn(2, PRODUCT_SIZE, PRODUCT_SIZE, device=device, dtype=dtype)
        out = torch.empty_like(a)
        times, _ = timer({"mm": [lambda a=a, b=b, out=out: torch.mm(a, b, out=out)]})
        rates[str(dtype)] = 2 * PRODUCT_SIZE**3 / times["mm"].us / 1e3
    return Ceilings(_copy_on_gpu(device, timer), rates, l2_bytes)


def copy_gb_per_s(device: torch.device) -> float:
    """Bytes read plus bytes written by a large copy, of any device."""
    if device.type == "cuda":
        return _copy_on_gpu(device, time_graphs)
    halves = torch.empty(2, CPU_COPY_BYTES // 2, dtype=torch.uint8)
    us = time_together({"copy": lambda: halves[0].copy_(halves[1])}, device)["copy"]
    return CPU_COPY_BYTES / us / 1e3


def _copy_on_gpu(device: torch.device, timer: Timer) -> float:
    source = torch.randint(0, 255, (COPY_BYTES,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times, _ = timer({"copy": [lambda: target.copy_(source)]})
    return 2 * COPY_BYTES / times["copy"].us / 1e3


def product_gflop_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of a square matrix product that fits into a CPU's caches."""
    size = CPU_PRODUCT_SIZE
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / time_together({"mm": lambda: a @ b}, device)["mm"] / 1e3
