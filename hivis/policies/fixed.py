"""FixedPolicy: the same tree in every cycle."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hivis.core.policy import Planner
from hivis.core.tree_shape import GrowthPlan, TreeShape


@dataclass(frozen=True)
class FixedPolicy:
    """Always grows the same shape. Nothing is learned, and no score is read.

    As in EAGLE-2, nodes that end the sequence are expanded like any other.

    Attributes:
        nodes, depth, top_k, sharpness, noise: see :class:`hivis.core.tree_shape.TreeShape`.

    Raises:
        HivisError: no tree has this shape.
    """

    nodes: int = TreeShape.nodes
    depth: int = TreeShape.depth
    top_k: int = TreeShape.top_k
    sharpness: float = TreeShape.sharpness
    noise: bool = TreeShape.noise

    def __post_init__(self) -> None:
        _ = self.shape  # refuses what is no shape

    @property
    def shape(self) -> TreeShape:
        return TreeShape(self.nodes, self.depth, self.top_k, self.sharpness, self.noise)

    @property
    def drafter_rows(self) -> int:
        return self.shape.drafter_rows

    def planner(
        self,
        target: object,
        drafter: object,
        device: torch.device,
        ends: tuple[int, ...] = (),
        sequences: int = 1,
    ) -> Planner:
        return Planner(GrowthPlan(self.shape))
