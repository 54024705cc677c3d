"""ConfidencePolicy: trees as large as the drafter is sure (Spec-LLaVA, arXiv 2509.11961)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hivis.core.policy import Outcome, Planner
from hivis.core.tree_shape import TreeShape
from hivis.policies.sizes import SIZES, SizedPlanner, check_sizes, log_probability, looks_ahead


@dataclass(frozen=True)
class ConfidencePolicy:
    """Expands and keeps the paths that the drafter gives at least ``threshold`` of probability.

    Growth ends where no path is left above the threshold, and N is the smallest of ``sizes`` that
    holds all that are; a tree is then filled up with the best of the others.

    Attributes:
        threshold: least path probability worth a look, in (0, 1).
        sizes, depth, top_k, sharpness, ahead, noise: see :class:`hivis.policies.cost.CostPolicy`.
    """

    threshold: float = 0.1
    sizes: tuple[int, ...] = SIZES
    depth: int = 12
    top_k: int = 4
    sharpness: float = 1.0
    ahead: bool | None = None
    noise: bool = True

    def __post_init__(self) -> None:
        check_sizes(self.sizes, self.depth, self.top_k, self.sharpness)
        log_probability("threshold", self.threshold)

    @property
    def drafter_rows(self) -> int:
        return TreeShape(self.sizes[-1], self.depth, self.top_k).drafter_rows

    def planner(
        self,
        target: object,
        drafter: object,
        device: torch.device,
        ends: tuple[int, ...] = (),
        sequences: int = 1,
    ) -> Planner:
        return ConfidencePlanner(self, looks_ahead(self.ahead, device), ends)


class ConfidencePlanner(SizedPlanner):
    """Learns nothing but, planning ahead, how sure the last trees were."""

    def __init__(self, policy: ConfidencePolicy, ahead: bool, ends: tuple[int, ...]) -> None:
        super().__init__(
            policy.sizes, policy.depth, policy.top_k, policy.sharpness, ahead, ends, policy.noise
        )
        self.learns = ahead
        self._least = log_probability("threshold", policy.threshold)
        #: Running means of the nodes and the depth above the threshold.
        self._nodes, self._depth = float(self.sizes[0]), float(self.shallowest(self.sizes[0]))
        if ahead:
            self._plan_ahead()

    def go_on(self, level: int, best: list[list[float]]) -> bool:
        least = self._least
        return any(score >= least for row in best for score in row)  # NaN is never that sure

    def pick(self, depth: int, ranked: list[list[float]]) -> int:
        least = self._least
        return self._holding(1 + max(sum(s >= least for s in row) for row in ranked), depth)

    def learn(self, outcome: Outcome) -> None:
        if not self.ahead or outcome.scores is None or outcome.depths is None:
            return
        sure = [
            depth
            for depth, score in zip(outcome.depths, outcome.scores, strict=True)
            if score >= self._least
        ]
        # A tree that was sure down to its last node or level may have been cut short: look further.
        nodes = 2 * outcome.nodes if len(sure) == outcome.nodes else len(sure)
        depth = max(sure, default=0) + 1
        self._nodes += (nodes - self._nodes) / 4
        self._depth += (depth - self._depth) / 4
        self._plan_ahead()

    def _plan_ahead(self) -> None:
        depth = max(self.shallowest(self.sizes[0]), min(round(self._depth), self.shape.depth))
        self.plan = self.sized(self._holding(round(self._nodes), depth), depth)

    def _holding(self, nodes: int, depth: int) -> int:
        """The smallest size that holds this many nodes, or the largest there is."""
        sizes = self.fit(depth)
        return next((size for size in sizes if size >= nodes), sizes[-1])
