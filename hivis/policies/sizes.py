"""What policies share that choose N from a short list while a tree grows, or before it does."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hivis.core.policy import Planner
from hivis.core.tree_shape import GrowthPlan, TreeShape, candidates
from hivis.errors import HivisError

#: N, the root included. Few, so that a target may prepare a graph of kernels for each of them.
SIZES = (8, 16, 32, 60)


def check_sizes(sizes: Sequence[int], depth: int, top_k: int, sharpness: float) -> None:
    """HivisError unless every one of ``sizes`` is a tree of some depth up to ``depth``."""
    if not isinstance(sizes, tuple) or not sizes:
        raise HivisError(f"sizes: wanted a tuple of numbers of nodes, got {sizes!r}")
    for nodes in sizes:
        TreeShape(nodes, depth, top_k, sharpness)
    if any(a >= b for a, b in zip(sizes, sizes[1:], strict=False)):
        raise HivisError(f"sizes: wanted them to increase, got {sizes}")


class SizedPlanner(Planner, ABC):
    """Trees of one of ``sizes`` and any depth up to ``depth``.

    They are chosen in one of two ways. Where the host may look at scores while a tree grows, the
    planner is the governor of its own trees, and :meth:`go_on` and :meth:`pick` decide for this
    very tree. Where that would stall the device (``ahead``), its plans say (N, depth) beforehand,
    by what earlier cycles showed. Either way all plans have the same shape, so a drafter prepares
    its tables once.
    """

    learns = True

    def __init__(
        self,
        sizes: tuple[int, ...],
        depth: int,
        top_k: int,
        sharpness: float,
        ahead: bool,
        ends: tuple[int, ...],
        noise: bool,
    ) -> None:
        self.shape = TreeShape(sizes[-1], depth, top_k, sharpness, noise)
        super().__init__(GrowthPlan(self.shape, ends, governor=None if ahead else self))
        self.sizes, self.ahead = sizes, ahead
        self._sized: dict[tuple[int, int], GrowthPlan] = {}  # made once, chosen in every cycle
        # How many of the sizes the pool of each depth can fill; index 0 is not a depth.
        pools = [1 + candidates(level, top_k) for level in range(1, depth + 1)]
        self._fitting = [0] + [bisect_left(sizes, pool + 1) for pool in pools]

    def fit(self, depth: int) -> tuple[int, ...]:
        """The sizes that a tree of this depth can fill."""
        return self.sizes[: self._fitting[depth]]

    def shallowest(self, nodes: int) -> int:
        """The least depth at which there are as many nodes as this."""
        return next(d for d in range(1, self.shape.depth + 1) if nodes in self.fit(d))

    def sized(self, nodes: int, depth: int) -> GrowthPlan:
        """The plan of a tree of this size."""
        size = (nodes, depth)
        if size not in self._sized:
            self._sized[size] = GrowthPlan(self.shape, self.plan.ends, size)
        return self._sized[size]

    def end_with(self, ends: tuple[int, ...]) -> None:
        """From now on sequences end with these tokens."""
        self.plan = replace(self.plan, ends=ends)
        self._sized.clear()

    def deeper(self, level: int, best: Tensor) -> bool:
        """See :class:`hivis.core.tree_shape.Governor`."""
        return not self._fitting[level] or self.go_on(level, best.tolist())

    def keep(self, depth: int, ranked: Tensor) -> int:
        """See :class:`hivis.core.tree_shape.Governor`."""
        return self.pick(depth, ranked.tolist())

    @abstractmethod
    def go_on(self, level: int, best: list[list[float]]) -> bool:
        """Whether level + 1 is worth drafting; ``best`` as in :meth:`deeper`, ``[B][K]``."""

    @abstractmethod
    def pick(self, depth: int, ranked: list[list[float]]) -> int:
        """One of ``fit(depth)``; ``ranked`` as in :meth:`keep`, ``[B][nodes - 1]``."""


def looks_ahead(given: bool | None, device: torch.device) -> bool:
    """Whether to plan ahead of the tree: on every device but a CPU, if not said otherwise."""
    return device.type != "cpu" if given is None else given


def log_probability(name: str, value: float) -> float:
    """Its logarithm; HivisError unless it is a number in (0, 1)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1:
        raise HivisError(f"{name}: wanted a probability in (0, 1), got {value!r}")
    return math.log(value)
