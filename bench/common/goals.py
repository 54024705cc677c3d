"""Goals: what a figure is to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.common.tables import number


@dataclass(frozen=True)
class Goal:
    """What a figure is to reach.

    Attributes:
        figure: the name of the figure.
        wanted: the bound.
        at_least: whether it is a lower bound; else an upper one.
    """

    figure: str
    wanted: float
    at_least: bool


def at_least(figure: str, wanted: float) -> Goal:
    return Goal(figure, wanted, True)


def at_most(figure: str, wanted: float) -> Goal:
    return Goal(figure, wanted, False)


def judge_goal(goal: Goal, figures: Mapping[str, float]) -> dict[str, Any]:
    """The goal, the figure (``None`` where it could not be measured) and whether that is enough."""
    got = figures.get(goal.figure)
    reached = got is not None and (got >= goal.wanted if goal.at_least else got <= goal.wanted)
    return {
        "figure": goal.figure,
        "wanted": goal.wanted,
        "at_least": goal.at_least,
        "got": got,
        "reached": reached,
    }


def goal_text(judged: Mapping[str, Any]) -> str:
    """A result of :func:`judge_goal` in one line."""
    sign = ">=" if judged["at_least"] else "<="
    verdict = "reached" if judged["reached"] else "SHORT"
    return (
        f"{judged['figure']} {sign} {judged['wanted']:g}: "
        f"{number(judged['got'], '{:.2f}')} {verdict}"
    )
