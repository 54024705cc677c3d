"""The repetition penalty in generation: what transformers does, drafted or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import hivis
from hivis.api.settings import resolve
from hivis.bundled import paths
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.policies.fixed import FixedPolicy
from tests.helpers.family_prompts import FAMILIES, ask, asked_of
from tests.helpers.small_drafters import family_drafters
from tests.helpers.small_llava import VOCAB, random_inputs, random_target
from tests.helpers.toy_drafters import OracleDrafter, RandomDrafter

PENALTIES = [0.6, 1.05, 1.8]
POLICY = FixedPolicy(nodes=14, depth=5, top_k=3)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", FAMILIES)
def test_plain_greedy_is_generate(family_target: Any, kind: str, penalty: float) -> None:
    target, processor = family_target(kind)
    changed = False
    for seed in range(2):
        inputs = ask(processor, "one", seed)
        theirs = target.model.generate(
            **asked_of(target, inputs),
            max_new_tokens=30,
            do_sample=False,
            repetition_penalty=penalty,
        )
        params = SamplingParams(max_new_tokens=30, repetition_penalty=penalty)
        ours = generate(Engine(target), inputs, params).tokens
        assert list(ours) == theirs[0, inputs.length :].tolist()
        changed |= (
            ours != generate(Engine(target), inputs, replace(params, repetition_penalty=1.0)).tokens
        )
    assert changed or penalty == 1.05
    one = ask(processor, "one")
    plain = generate(Engine(target), one, params).tokens
    for name, drafter in family_drafters().items():
        assert generate(Engine(target, drafter, POLICY), one, params).tokens == plain, name


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_any_drafter_gives_the_plain_text(temperature: float, penalty: float) -> None:
    target = random_target()
    for seed in range(3):
        inputs = random_inputs(seed)
        params = SamplingParams(
            temperature=temperature, seed=seed, max_new_tokens=40, repetition_penalty=penalty
        )
        plain = generate(Engine(target), inputs, params).tokens
        for name, drafter in {
            "random": RandomDrafter(VOCAB),
            "right": OracleDrafter(VOCAB, inputs.length, plain, right=True),
            "wrong": OracleDrafter(VOCAB, inputs.length, plain, right=False),
        }.items():
            drafted = generate(Engine(target, drafter, POLICY), inputs, params)
            assert drafted.tokens == plain, name
            if name == "right":  # long paths, in which the penalty is the path's own
                assert max(drafted.statistics.accepted_lengths) > 3


def test_a_drafter_knows_of_the_penalty() -> None:
    """Else it would go on proposing what the target has just been made to avoid."""
    model = hivis.load(dtype="float32", device="cpu", policy="fixed")
    accepted = {}
    for penalty in (1.0, 1.3):
        lengths = []
        for scene in range(3):
            text = model.generate(
                "Describe the image in detail.",
                paths.EVAL / f"scene0{scene}.png",
                repetition_penalty=penalty,
                max_new_tokens=60,
            )
            lengths.append(text.statistics.accepted_length)
        accepted[penalty] = sum(lengths) / 3
    assert accepted[1.3] > 0.5 * accepted[1.0] > 1


def test_a_models_own_penalty_is_honored() -> None:
    own = {"repetition_penalty": 1.05, "do_sample": False}
    assert resolve(own, {}, 5, 100).params.repetition_penalty == 1.05
    assert resolve(own, {"repetition_penalty": 1.0}, 5, 100).params.repetition_penalty == 1.0
    assert resolve({}, {}, 5, 100).params.repetition_penalty == 1.0
