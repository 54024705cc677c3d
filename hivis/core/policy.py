"""How large and deep a draft tree to grow: the shape of one tree, and what a policy has to offer.

``TreePolicy`` is both: a shape, and the policy of always growing that shape. The policies that
choose anew in every cycle are in ``hivis/policies/``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from hivis.core.tree import DraftTree
from hivis.errors import HivisError

MAX_NODES = 256


class Governor(Protocol):
    """Ends the growth of a tree below its shape's limits. Asked on the host, by the Grower.

    An answer that needs the scores has to read them, which costs microseconds on a CPU and makes
    a GPU wait. An answer that does not look at them is free on both.

    Attributes:
        plan: N and depth of the next tree, where they are settled before it grows; else ``None``.
    """

    plan: tuple[int, int] | None

    def deeper(self, level: int, best: Tensor) -> bool:
        """Whether to draft another level.

        Args:
            level: the levels drafted so far, from 1.
            best: ``[B, K]`` fp32 path scores of the nodes that would be expanded; may hold NaN.
        """
        ...

    def keep(self, depth: int, ranked: Tensor) -> int:
        """N, the root included; at most what the pool of this depth holds.

        Not asked where there is a plan.

        Args:
            depth: the levels that were drafted.
            ranked: ``[B, at most N - 1]`` fp32 path scores of the pool, the best first, no root.
        """
        ...


@dataclass(frozen=True)
class TreePolicy:
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
        governor: may end a tree earlier, which makes ``nodes`` and ``depth`` upper bounds.
        ends: tokens that end a text; nothing is expanded after them.
    """

    nodes: int = 16
    depth: int = 7
    top_k: int = 4
    sharpness: float = 1.0
    governor: Governor | None = field(default=None, repr=False)
    ends: tuple[int, ...] = field(default=(), repr=False)
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

    def planner(
        self,
        target: object,
        drafter: object,
        device: torch.device,
        ends: tuple[int, ...] = (),
        texts: int = 1,
    ) -> Planner:
        """Always this shape."""
        return Planner(self)


def candidates(depth: int, top_k: int) -> int:
    """Drafted tokens in the pool of a tree of this depth."""
    return top_k + (depth - 1) * top_k**2


@dataclass(frozen=True)
class Outcome:
    """What the host got to know of one cycle of one text.

    Attributes:
        nodes: N of the tree that was grown.
        depth: its deepest level.
        emitted: tokens of the cycle, those accepted and the one drawn after them.
        path: the accepted nodes, the root first. This and what follows is ``None`` if nobody
            asked for it, or the drafter gave no scores.
        depths: the level of each node.
        scores: the path log-probability of each node, 0 at the root.
    """

    nodes: int
    depth: int
    emitted: int
    path: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None


class Planner:
    """Plans the trees of a text, or of several side by side, cycle by cycle.

    This one: always the same shape, nothing learnt.

    Attributes:
        shape: what ``grow`` gets; buffers are made for it, so no tree may exceed it.
        learns: whether :meth:`learn` wants to see the outcome of every text in every cycle.
        ahead: whether N and depth of a tree are settled before it grows.
    """

    learns = False
    ahead = True

    def __init__(self, shape: TreePolicy) -> None:
        self.shape = shape

    def choose(self) -> TreePolicy:
        """The shape of the next tree, or the bounds within which its governor decides."""
        return self.shape

    def learn(self, outcome: Outcome) -> None:
        """Take note of a cycle of a text."""

    @property
    def wants_times(self) -> bool:
        """Whether this is the moment for :meth:`measure`."""
        return False

    def measure(
        self,
        draft: Callable[[TreePolicy], DraftTree],
        verify: Callable[[DraftTree], object],
        device: torch.device,
    ) -> None:
        """Time a drafter and a target that can be run again and again without consequences."""


class Policy(Protocol):
    """Chooses the size of the draft trees. No choice of it can change the text."""

    @property
    def drafter_rows(self) -> int:
        """Cache rows that the largest of its trees needs."""
        ...

    def planner(
        self,
        target: object,
        drafter: object,
        device: torch.device,
        ends: tuple[int, ...] = (),
        texts: int = 1,
    ) -> Planner:
        """What plans the trees of so many texts, which close with one of the tokens ``ends``.

        The texts of a batch get trees of one size, and tell how each of them did. May hand out what
        learnt from earlier texts of this target with this drafter.
        """
        ...
