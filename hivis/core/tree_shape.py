"""What a drafter is told to grow: the shape of a draft tree, and what may end it earlier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from hivis.errors import HivisError

MAX_NODES = 256


@dataclass(frozen=True)
class TreeShape:
    """The shape of the trees of EAGLE-2 (arXiv 2406.16858, section 4): fixed size, dynamic form.

    Attributes:
        nodes: N, the root included. The target verifies this many rows in every cycle.
        depth: the deepest drafted level; it takes ``depth - 1`` drafter passes.
        top_k: how many nodes a level expands, and how many children each of them gets.
        sharpness: factor on the drafter's perturbed scores before they become path scores
            (only at temperature > 0; it changes which nodes are drafted, never the output).
        noise: whether path scores at temperature > 0 know the noise of the draws to come. Without
            it they are those of the drafter's distribution, as in decoders whose drafter cannot
            know the draw. This too changes what is drafted, never the output.

    Raises:
        HivisError: a number out of range, or more nodes than the levels have candidates for.
    """

    nodes: int = 16
    depth: int = 7
    top_k: int = 4
    sharpness: float = 1.0
    noise: bool = True

    def __post_init__(self) -> None:
        for name in ("nodes", "depth", "top_k"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise HivisError(f"{name}: wanted a whole number, got {value!r}")
        if not 2 <= self.nodes <= MAX_NODES:
            raise HivisError(f"nodes: wanted 2..{MAX_NODES} (root included), got {self.nodes}")
        if not 1 <= self.depth < MAX_NODES:
            raise HivisError(f"depth: wanted 1..{MAX_NODES - 1}, got {self.depth}")
        if self.top_k < 1:
            raise HivisError(f"top_k of the tree: wanted at least 1, got {self.top_k}")
        if not self.sharpness > 0:
            raise HivisError(f"sharpness: wanted a positive number, got {self.sharpness}")
        if self.nodes - 1 > self.candidates:
            raise HivisError(
                f"nodes: depth {self.depth} and top_k {self.top_k} give {self.candidates} "
                f"candidates, too few for {self.nodes - 1} drafted nodes"
            )

    @property
    def candidates(self) -> int:
        """Tokens a tree of this shape may choose its nodes from."""
        return candidates(self.depth, self.top_k)

    @property
    def drafter_rows(self) -> int:
        """Cache rows that growing one tree, or committing its longest path, may need at most."""
        return max(self.nodes, self.depth * self.top_k, self.depth + 1)


def candidates(depth: int, top_k: int) -> int:
    """Drafted tokens in the pool of a tree of this depth."""
    return top_k + (depth - 1) * top_k**2


class Governor(Protocol):
    """Ends the growth of a tree below its shape's limits. Asked on the host while the tree grows.

    An answer has to read scores of the device, which costs microseconds on a CPU and makes a GPU
    wait.
    """

    def deeper(self, level: int, best: Tensor) -> bool:
        """Whether to draft another level.

        Args:
            level: the levels drafted so far, from 1.
            best: ``[B, K]`` fp32 path scores of the nodes that would be expanded; may hold NaN.
        """
        ...

    def keep(self, depth: int, ranked: Tensor) -> int:
        """N, the root included; at most what the pool of this depth holds.

        Args:
            depth: the levels that were drafted.
            ranked: ``[B, at most N - 1]`` fp32 path scores of the pool, the best first, no root.
        """
        ...


@dataclass(frozen=True)
class GrowthPlan:
    """What :meth:`hivis.core.drafter.Drafter.grow` is to grow in one cycle.

    Attributes:
        shape: the shape of the tree; no tree may exceed it, and buffers are made for it.
        ends: tokens that end a sequence; nothing is expanded after them.
        size: N and depth of this tree where they are chosen before it grows, within ``shape``.
        governor: chooses N and depth of this tree while it grows, within ``shape``. A plan has a
            size or a governor or neither, which means the whole shape. With a governor the cycle
            cannot be captured, as the host decides in the middle of it.
    """

    shape: TreeShape
    ends: tuple[int, ...] = ()
    size: tuple[int, int] | None = None
    governor: Governor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.size is None:
            return
        nodes, depth = self.size
        if not (2 <= nodes <= self.shape.nodes and 1 <= depth <= self.shape.depth):
            raise HivisError(
                f"size of the tree: wanted at most {self.shape.nodes} nodes and depth "
                f"{self.shape.depth}, got {nodes} and {depth}"
            )
        if self.governor is not None:
            raise HivisError("governor: wanted none with a size chosen ahead, got one")
