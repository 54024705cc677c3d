"""Policies by name: those of hivis, and one that is registered from outside."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import hivis
from hivis.bundled import paths
from hivis.core.policy import Planner
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.errors import HivisError
from hivis.policies.registry import POLICIES, PolicyRecord, policy_names, policy_of, register_policy

OURS = policy_names()


@dataclass(frozen=True)
class Alternating:
    """Grows a wide tree and a chain in turn."""

    drafter_rows: int = 40

    def planner(
        self,
        target: object,
        drafter: object,
        device: torch.device,
        ends: tuple[int, ...] = (),
        sequences: int = 1,
    ) -> Planner:
        wide, chain = (GrowthPlan(TreeShape(*size), ends) for size in ((9, 2, 4), (5, 4, 1)))

        class Turns(Planner):
            cycles = 0

            def choose(self) -> GrowthPlan:
                self.cycles += 1
                return wide if self.cycles % 2 else chain

        return Turns(wide)


@pytest.fixture
def own_records(monkeypatch):
    monkeypatch.setattr(POLICIES, "_records", dict(POLICIES._records))


def test_a_policy_of_a_third_party_is_used_by_its_name(own_records):
    register_policy(PolicyRecord("alternating", Alternating, "grows a wide tree and a chain"))
    register_policy(PolicyRecord("alternating", Alternating, "grows a wide tree and a chain"))
    assert policy_names() == (*OURS, "alternating")
    settings = {"max_new_tokens": 24, "temperature": 1.0, "seed": 3}
    image = paths.EVAL / "scene00.png"
    made = hivis.load(dtype="float32", device="cpu", policy="alternating").generate(
        "What is this?", image, **settings
    )
    sizes = made.statistics.tree_sizes
    assert sizes == (((9, 2), (5, 4)) * len(sizes))[: len(sizes)]
    plain = hivis.load(dtype="float32", device="cpu", drafter="none")
    assert plain.generate("What is this?", image, **settings).tokens == made.tokens


def test_a_name_stands_for_one_policy(own_records):
    with pytest.raises(HivisError, match="^policy: wanted a name of its own, got cost again"):
        register_policy(PolicyRecord("cost", Alternating, "another"))
    with pytest.raises(HivisError, match=f"^policy: wanted one of {', '.join(OURS)}, got 'x'"):
        policy_of("x")


@pytest.mark.parametrize("name", policy_names())
def test_a_policy_by_name_takes_the_settings_of_its_trees(name):
    policy = policy_of(name, top_k=5, sharpness=1.5, noise=False)
    plan = policy.planner(object(), object(), torch.device("cpu")).choose()
    assert (plan.shape.top_k, plan.shape.sharpness, plan.shape.noise) == (5, 1.5, False)
    assert policy_of(policy) is policy


def test_a_size_that_its_shape_cannot_hold_is_refused():
    shape = TreeShape(8, 3, 4)
    for size in ((9, 3), (8, 4), (1, 1)):
        with pytest.raises(HivisError, match="^size of the tree: wanted at most 8 nodes and depth"):
            GrowthPlan(shape, size=size)
