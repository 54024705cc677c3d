"""Planners of the adaptive policies, with made-up times and pairs that are never run."""

from __future__ import annotations

import torch

from hivis.core.policy import Planner
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy
from hivis.policies.times import Times

CPU = torch.device("cpu")
SIZES = (8, 16, 32, 60)


def times(per_node: float = 0.1, level: float = 0.5, base: float = 9.0, rest: float = 1.0) -> Times:
    return Times({n: base + per_node * n for n in SIZES}, level, rest)


class Owner:
    """Stands for a target or a drafter, of which a policy only asks whether it is the same."""


def planner_of(policy: CostPolicy | ConfidencePolicy) -> Planner:
    return policy.planner(Owner(), Owner(), CPU)
