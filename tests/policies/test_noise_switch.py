"""Trees that are grown without knowing the noise: other trees, and the very same texts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.tree_shape import TreeShape
from hivis.drafters import checkpoint
from hivis.drafters.config import HiViSConfig
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.tree_growth import NodeScores
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy
from hivis.policies.fixed import FixedPolicy
from hivis.policies.times import Times
from tests.helpers.small_llava import random_inputs, random_target
from tests.helpers.tree_oracle import VOCAB, check_valid, grow, oracle, paths, scored

POSITION = torch.tensor([17, 4])
TIMES = Times({8: 2.0, 16: 2.2, 32: 2.5, 60: 3.0}, 0.2, 0.5)
PARAMS = SamplingParams(temperature=0.8, seed=5, max_new_tokens=24)


@pytest.fixture(scope="module")
def target():
    return random_target()


@pytest.fixture(scope="module")
def drafter(target):
    vocab, size = target.head.shape
    config = HiViSConfig(
        hidden_size=size,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        vocab_size=vocab,
    )
    return HiViSDrafter(config, checkpoint.random_tensors(config, seed=3, scale=0.3))


@pytest.mark.parametrize(("sharpness", "temperature"), [(1.0, 1.0), (1.5, 0.7)])
def test_without_noise_a_tree_holds_the_most_probable_paths(sharpness, temperature):
    shape = TreeShape(12, 4, 3, sharpness, noise=False)
    token = torch.tensor([3, 20])
    state = SamplingState.of(SamplingParams(temperature=temperature, seed=11), 2, "cpu")
    scores = NodeScores.of(state, POSITION, shape)
    assert scores.noise is None
    tree = grow(shape, token, "random", scores)
    check_valid(tree, shape)

    def score(logits: Tensor, depth: int) -> Tensor:
        return torch.log_softmax(logits * (sharpness / temperature), -1)

    for b in range(2):
        pool = oracle(shape, int(token[b]), "random", score)
        best = sorted(pool, key=lambda path: -pool[path])[: shape.nodes - 1]
        assert set(paths(tree, b)) == {(int(token[b]),), *best}
    aware = TreeShape(12, 4, 3, sharpness)
    other = grow(aware, token, "random", NodeScores.of(state, POSITION, aware))
    assert not torch.equal(tree.tokens, other.tokens)


def test_a_greedy_sequence_is_ranked_alike_with_and_without():
    token = torch.tensor([3, 20])
    state = SamplingState.of(SamplingParams(temperature=1.0, seed=11), 2, "cpu")
    state.temperature[1] = 0
    trees = []
    for noise in (True, False):
        shape = TreeShape(12, 4, 3, 1.5, noise=noise)
        trees.append(grow(shape, token, "random", NodeScores.of(state, POSITION, shape)))
    assert torch.equal(trees[0].tokens[1], trees[1].tokens[1])
    assert not torch.equal(trees[0].tokens[0], trees[1].tokens[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scores_without_noise_are_fp32_probabilities(dtype):
    shape = TreeShape(VOCAB + 1, 1, VOCAB, noise=False)
    state = SamplingState.of(SamplingParams(temperature=0.8), 1, "cpu")
    logits = torch.randn(1, VOCAB).to(dtype)
    found = scored(NodeScores.of(state, torch.tensor([5]), shape), logits, shape)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(), torch.ones(()))
    torch.testing.assert_close(found, (logits[0].float() / 0.8).log_softmax(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda noise: FixedPolicy(12, 5, 3, noise=noise),
        lambda noise: ConfidencePolicy(0.05, noise=noise),
        lambda noise: CostPolicy(times=TIMES, noise=noise),
        lambda noise: CostPolicy(noise=noise),  # the fallback's trees
    ],
    ids=["fixed", "confidence", "cost", "fallback"],
)
def test_the_text_is_plain_decodings_either_way(target, drafter, make):
    seen: list[bool] = []
    grow_it = drafter.grow

    def watched(token, position, sampling, plan):
        seen.append(plan.shape.noise)
        return grow_it(token, position, sampling, plan)

    drafter.grow = watched
    try:
        inputs = random_inputs(3)
        plain = generate(Engine(target), inputs, PARAMS).tokens
        for noise in (True, False):
            seen.clear()
            assert generate(Engine(target, drafter, make(noise)), inputs, PARAMS).tokens == plain
            assert set(seen) == {noise}
    finally:
        del drafter.grow
