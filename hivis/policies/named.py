"""Policies by name, as they are chosen from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from hivis.core.policy import Policy, TreePolicy
from hivis.errors import HivisError
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy

POLICIES: dict[str, Callable[[], Policy]] = {
    "cost": CostPolicy,
    "confidence": ConfidencePolicy,
    "fixed": TreePolicy,
}


def policy_of(choice: Policy | str) -> Policy:
    """A new policy by its name; one that is made already stays as it is."""
    if callable(getattr(choice, "planner", None)):
        return cast(Policy, choice)
    if not isinstance(choice, str) or choice not in POLICIES:
        raise HivisError(f"policy: wanted one of {', '.join(POLICIES)}, got {choice!r}")
    return POLICIES[choice]()
