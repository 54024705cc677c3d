"""How long drafting and verifying take, as measured for a target with a drafter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from hivis.errors import HivisError

T = TypeVar("T")


@dataclass(frozen=True)
class Times:
    """Milliseconds of the parts of a cycle.

    Attributes:
        verify: by N: verify and accept.
        level: one drafter pass, each level after the first.
        rest: the remainder, which no choice changes: the first level, pruning, commit.
    """

    verify: Mapping[int, float]
    level: float
    rest: float

    def __post_init__(self) -> None:
        for name, value in (
            *((f"verify of {nodes} nodes", ms) for nodes, ms in self.verify.items()),
            ("level", self.level),
            ("rest", self.rest),
        ):
            if not 0 <= value < math.inf:
                raise HivisError(f"times, {name}: wanted milliseconds, got {value!r}")

    def cycle(self, nodes: int, depth: int) -> float:
        """A whole cycle with a tree of this size."""
        return self.verify[nodes] + self.rest + (depth - 1) * self.level


def convex(times: Mapping[int, float]) -> dict[int, float]:
    """``times`` by N, made never to fall and to rise ever faster; the ends stay where they are.

    A pass takes the longer of reading the weights, whatever N is, and of arithmetic that grows with
    N. What a measurement says beyond that is disturbance, which a choice between neighbors would
    take at its word. Slopes that are out of order are pooled.
    """
    nodes = sorted(times)
    blocks: list[list[float]] = []  # rise, width, how many slopes
    for low, high in zip(nodes, nodes[1:], strict=False):
        blocks.append([max(0.0, times[high] - times[low]), high - low, 1])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] > blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    slopes = [rise / width for rise, width, count in blocks for _ in range(int(count))]
    found = {nodes[0]: times[nodes[0]]}
    for low, high, slope in zip(nodes, nodes[1:], slopes, strict=False):
        found[high] = found[low] + slope * (high - low)
    return found


def timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What ``call`` returns, and its milliseconds. CUDA is waited for before and after."""
    _wait(device)
    start = time.perf_counter()
    result = call()
    _wait(device)
    return result, (time.perf_counter() - start) * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
