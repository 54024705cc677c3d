"""What chooses the size of the draft trees: the contract of the policies in ``hivis/policies/``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan


@dataclass(frozen=True)
class Outcome:
    """What the host gets to know of one cycle of one sequence.

    Attributes:
        nodes: N of the tree that was grown.
        depth: its deepest level.
        emitted: tokens of the cycle, those accepted and the one drawn after them.
        path: the accepted nodes, the root first. This and what follows is ``None`` if it
            was not asked for, or the drafter gave no scores.
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
    """Plans the trees of a sequence, or of all sequences of a batch, cycle by cycle.

    This one: always the same plan, nothing learned.

    Attributes:
        plan: the plan of a cycle, or what it begins from.
        learns: whether :meth:`learn` wants to see the outcome of every sequence in every cycle.
        ahead: whether N and depth of a tree are chosen before it grows.
    """

    learns = False
    ahead = True

    def __init__(self, plan: GrowthPlan) -> None:
        self.plan = plan

    def choose(self) -> GrowthPlan:
        """The plan of the next tree. Its shape is the same in all cycles, or one of a few."""
        return self.plan

    def learn(self, outcome: Outcome) -> None:
        """Take note of a cycle of a sequence."""

    @property
    def wants_times(self) -> bool:
        """Whether this is the moment for :meth:`measure`."""
        return False

    def measure(
        self,
        draft: Callable[[GrowthPlan], DraftTree],
        verify: Callable[[DraftTree], object],
        device: torch.device,
    ) -> None:
        """Time a drafter and a target that can be run again and again without consequences."""


class Policy(Protocol):
    """Chooses the size of the draft trees. No choice of it can change the output."""

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
        sequences: int = 1,
    ) -> Planner:
        """What plans the trees of ``sequences`` sequences, which end with one of ``ends``.

        The sequences of a batch get trees of one size, and each reports its own outcome. May
        return a planner that has learned from earlier sequences of this target with this drafter.
        """
        ...
