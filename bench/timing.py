"""How long calls take, measured side by side so that what disturbs one disturbs the others."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Call = Callable[[], object]


def _once_cpu(call: Call) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6


def _once_cuda(call: Call) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def time_together(
    calls: Mapping[str, Call], device: torch.device, seconds: float = 0.3, least: int = 5
) -> dict[str, float]:
    """Median duration of each call in microseconds.

    The calls take turns, in a new random order every round: none of them always runs right after
    the one that emptied the caches.

    Args:
        calls: what to time, by name.
        seconds: time to spend on the rounds together, after two rounds that do not count.
        least: rounds to run even if they take longer.
    """
    once = _once_cuda if device.type == "cuda" else _once_cpu
    order = random.Random(0)
    names = list(calls)
    for _ in range(2):
        for name in names:
            once(calls[name])
    samples: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[names[0]]) < least:
        order.shuffle(names)
        for name in names:
            samples[name].append(once(calls[name]))
    return {name: median(values) for name, values in samples.items()}
