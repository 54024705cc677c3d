"""The whole loop on the kernels that a GPU runs, emulated."""

from __future__ import annotations

import pytest

from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.policies.fixed import FixedPolicy
from tests.emulation.library import emulated_ops
from tests.helpers.small_llava import VOCAB, random_inputs, random_target
from tests.helpers.toy_drafters import OracleDrafter


@pytest.mark.parametrize("rule", [{}, {"temperature": 1.0}, {"temperature": 1.3, "top_p": 0.9}])
def test_the_cuda_kernels_give_the_plain_text(rule: dict[str, float]):
    target, inputs = random_target(), random_inputs(0, text=5, images=0)
    sampling = SamplingParams(max_new_tokens=6, **rule)
    plain = generate(Engine(target), inputs, sampling)
    drafter = OracleDrafter(VOCAB, inputs.length, plain.tokens, right=True)
    with emulated_ops(seed=len(rule)):
        assert generate(Engine(target), inputs, sampling).tokens == plain.tokens
        drafted = generate(Engine(target, drafter, FixedPolicy(12, 5, 4)), inputs, sampling)
    assert drafted.tokens == plain.tokens
    assert drafted.statistics.accepted_length > 0
