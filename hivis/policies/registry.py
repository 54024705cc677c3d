"""The policies that can be chosen by name, one record each.

A new policy is its file and a record here. A package outside registers its own with
:func:`register_policy`, or names its record as an entry point of the group ``hivis.policies``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, cast

from hivis.core.policy import Policy
from hivis.errors import HivisError
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


ENTRY_POINTS = "hivis.policies"
_RECORDS: dict[str, PolicyRecord] = {}
_discovered = False


def register_policy(record: PolicyRecord) -> None:
    """Let ``record`` be chosen by its name, in :func:`hivis.load` and on the command line.

    Raises:
        HivisError: there is another policy of this name.
    """
    if _RECORDS.setdefault(record.name, record) != record:
        raise HivisError(f"policy: wanted a name of its own, got {record.name} again")


def policy_records() -> tuple[PolicyRecord, ...]:
    """All records, in the order that they were registered; the first is the default."""
    global _discovered
    if not _discovered:
        _discovered = True
        for point in entry_points(group=ENTRY_POINTS):
            register_policy(point.load())
    return tuple(_RECORDS.values())


def policy_names() -> tuple[str, ...]:
    """The names of all policies; the first is the default."""
    return tuple(record.name for record in policy_records())


def policy_of(choice: Policy | str, **settings: Any) -> Policy:
    """A new policy by its name, made with ``settings``; a policy object stays as it is.

    Raises:
        HivisError: there is none of this name.
    """
    if callable(getattr(choice, "planner", None)):
        return cast(Policy, choice)
    if not isinstance(choice, str) or choice not in policy_names():
        raise HivisError(f"policy: wanted one of {', '.join(policy_names())}, got {choice!r}")
    return _RECORDS[choice].make(**settings)


register_policy(PolicyRecord("cost", CostPolicy, "grows what is worth its time"))
register_policy(PolicyRecord("confidence", ConfidencePolicy, "grows what the drafter is sure of"))
register_policy(PolicyRecord("fixed", FixedPolicy, "grows the same size in every cycle"))
