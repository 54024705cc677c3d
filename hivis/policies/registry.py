"""The policies that can be chosen by name, one record each.

A new policy is its file and a record here. A package outside registers its own with
:func:`register_policy`, or names its record as an entry point of the group ``hivis.policies``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from hivis.core.policy import Policy
from hivis.core.registry import Registry
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy
from hivis.policies.fixed import FixedPolicy


@dataclass(frozen=True)
class PolicyRecord:
    """A policy by name.

    Attributes:
        name: what a user asks for it by.
        make: makes a new policy. Takes ``top_k``, ``sharpness`` and ``noise`` of its trees as
            keywords (:class:`hivis.core.tree_shape.TreeShape`), and may take others.
        summary: what its trees are like, in a few words, for help texts.
    """

    name: str
    make: Callable[..., Policy]
    summary: str


POLICIES: Registry[PolicyRecord] = Registry("policy", "hivis.policies")


def register_policy(record: PolicyRecord) -> None:
    """Let ``record`` be chosen by its name, in :func:`hivis.load` and on the command line.

    Raises:
        HivisError: there is another policy of this name.
    """
    POLICIES.register(record)


def policy_names() -> tuple[str, ...]:
    """The names of all policies; the first is the default."""
    return POLICIES.names()


def policy_of(choice: Policy | str, **settings: Any) -> Policy:
    """A new policy by its name, made with ``settings``; a policy object stays as it is.

    Raises:
        HivisError: there is none of this name.
    """
    if callable(getattr(choice, "planner", None)):
        return cast(Policy, choice)
    return POLICIES.get(choice).make(**settings)


register_policy(PolicyRecord("cost", CostPolicy, "grows what is worth its time"))
register_policy(PolicyRecord("confidence", ConfidencePolicy, "grows what the drafter is sure of"))
register_policy(PolicyRecord("fixed", FixedPolicy, "grows the same size in every cycle"))
