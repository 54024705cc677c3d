"""Policies in generation: no choice of theirs changes a sequence."""

from __future__ import annotations

import math

import pytest

from hivis.core.sampling import SamplingParams
from hivis.drafters.hivis import HiViSDrafter
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import (
    LEAST_ROUNDS,
    ROUNDS,
    SPACING,
    CostPlanner,
    CostPolicy,
    default_policy,
)
from hivis.policies.fixed import FixedPolicy
from hivis.policies.times import Times
from tests.helpers.planners import CPU, SIZES, times
from tests.helpers.small_drafters import hivis_drafter
from tests.helpers.small_llava import VOCAB, random_inputs, random_target
from tests.helpers.toy_drafters import OracleDrafter, RandomDrafter

SETTINGS = [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}]


def policies() -> list:
    return [
        FixedPolicy(),
        ConfidencePolicy(),
        ConfidencePolicy(1e-6),
        ConfidencePolicy(0.05, sizes=(2, 5, 70), depth=20, ahead=True),
        CostPolicy(times=times()),
        CostPolicy(times=times(per_node=0.0, level=0.0)),
        CostPolicy(times=times(per_node=3.0), ahead=True),
        CostPolicy(sizes=(4,), depth=3, top_k=1, times=Times({4: 0.0}, 0.0, 0.0)),
        CostPolicy(),
    ]


@pytest.fixture(scope="module")
def target():
    return random_target()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_no_policy_changes_the_text(target, setting):
    for seed in range(2):
        inputs = random_inputs(seed, text=9 + 4 * seed, images=seed)
        params = SamplingParams(max_new_tokens=40, seed=seed, **setting)
        plain = generate(Engine(target), inputs, params)
        assert plain.statistics.tree_sizes == ((1, 0),) * plain.statistics.cycles
        drafters = [
            RandomDrafter(VOCAB, seed),
            OracleDrafter(VOCAB, inputs.length, plain.tokens, right=False),
            OracleDrafter(VOCAB, inputs.length, plain.tokens, right=True),
            hivis_drafter(),
        ]
        for policy in policies():
            for drafter in drafters:
                made = generate(Engine(target, drafter, policy), inputs, params)
                assert made.tokens == plain.tokens
                check_sizes(made.statistics, policy, drafter)


def check_sizes(statistics, policy, drafter) -> None:
    found = statistics.tree_sizes
    assert len(found) == statistics.cycles
    assert all(a <= d for a, (_, d) in zip(statistics.accepted_lengths, found, strict=True))
    if isinstance(policy, FixedPolicy):
        assert set(found) == {(policy.nodes, policy.depth)}
    elif isinstance(drafter, HiViSDrafter) and getattr(policy, "times", True) is not None:
        assert {nodes for nodes, _ in found} <= set(policy.sizes)
        assert all(depth <= policy.depth for _, depth in found)


def test_an_end_in_sight_changes_no_text(target):
    inputs = random_inputs(2)
    whole = generate(Engine(target), inputs, SamplingParams(max_new_tokens=40)).tokens
    for eos in {whole[3], whole[10], whole[20]}:
        cut = whole[: whole.index(eos) + 1]
        params = SamplingParams(max_new_tokens=40, eos_token_ids=(eos, 7))
        if 7 not in cut[:-1]:
            for policy in policies():
                made = generate(Engine(target, hivis_drafter(), policy), inputs, params)
                assert made.tokens == cut


def test_a_broken_drafter_changes_no_text(target):
    inputs, params = random_inputs(3), SamplingParams(max_new_tokens=30, temperature=1.0)
    plain = generate(Engine(target), inputs, params)
    for bad in (math.nan, math.inf, -math.inf):
        drafter = hivis_drafter()
        drafter.tensors["fc.weight"][0] = bad
        for policy in policies():
            made = generate(Engine(target, drafter, policy), inputs, params)
            assert made.tokens == plain.tokens


def test_the_default_measures_now_and_then_and_keeps_what_it_learned(target):
    inputs = random_inputs(1)
    length = LEAST_ROUNDS * SPACING + 30
    params = SamplingParams(max_new_tokens=length, eos_token_ids=())
    plain = generate(Engine(target), inputs, params)
    drafter = hivis_drafter()
    first = generate(Engine(target, drafter), inputs, params)
    fixed = LEAST_ROUNDS * SPACING
    assert first.statistics.tree_sizes[:fixed] == ((16, 7),) * fixed
    more = [generate(Engine(target, drafter), inputs, params) for _ in range(4)]
    assert all(made.tokens == plain.tokens for made in (first, *more))
    assert ["measure" in made.statistics.phases_ms for made in (first, more[-1])] == [True, False]
    planner = default_policy().planner(target, drafter, CPU)
    assert isinstance(planner, CostPlanner) and planner._rounds == ROUNDS
    assert set(planner.times.verify) == set(SIZES)


def test_a_drafter_without_scores_keeps_the_fallback(target):
    inputs = random_inputs(1)
    engine = Engine(target, RandomDrafter(VOCAB), CostPolicy(times=times()))
    made = generate(engine, inputs, SamplingParams(max_new_tokens=30))
    assert set(made.statistics.tree_sizes[1:]) == {(16, 7)}
