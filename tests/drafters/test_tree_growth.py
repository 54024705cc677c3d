"""Tree growth against a brute-force oracle, with a drafter that is a pure function of the path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hivis import ops
from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.tree_growth import NodeScores
from tests.emulation.library import emulated_ops
from tests.helpers.tree_oracle import (
    GREEDY,
    VOCAB,
    check_valid,
    grow,
    oracle,
    path_logits,
    paths,
    scored,
)

SHAPES = [
    TreeShape(nodes=16, depth=5, top_k=4),
    TreeShape(nodes=2, depth=1, top_k=1),
    TreeShape(nodes=4, depth=1, top_k=5),
    TreeShape(nodes=6, depth=5, top_k=1),
    TreeShape(nodes=7, depth=2, top_k=3),
    TreeShape(nodes=70, depth=6, top_k=5),
    TreeShape(nodes=60, depth=8, top_k=10),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grows_the_best_nodes_of_the_pool(shape: TreeShape) -> None:
    token = torch.tensor([3, 20])
    tree = grow(shape, token, "random")
    check_valid(tree, shape)
    for b in range(2):
        pool = oracle(shape, int(token[b]), "random", lambda x, path: torch.log_softmax(x, -1))
        best = sorted(pool, key=lambda path: -pool[path])[: shape.nodes - 1]
        assert set(paths(tree, b)) == {(int(token[b]),), *best}


@pytest.mark.parametrize("kind", ["certain", "flat", "broken"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tree_is_valid_on_ties_and_nan(shape: TreeShape, kind: str) -> None:
    check_valid(grow(shape, torch.tensor([3, 20]), kind), shape)


def test_scores_use_the_noise_of_the_depth() -> None:
    shape = TreeShape(nodes=12, depth=4, top_k=3, sharpness=1.5)
    token, position = torch.tensor([3, 20]), torch.tensor([17, 4])
    sampling = SamplingState.of(SamplingParams(temperature=0.7, seed=11), 2, "cpu")
    tree = grow(shape, token, "random", NodeScores.of(sampling, position, shape))
    check_valid(tree, shape)
    for b in range(2):

        def score(logits: Tensor, path: tuple[int, ...], b: int = b) -> Tensor:
            at = position[b : b + 1] + len(path) - 1
            noise = ops.shared_noise(sampling.seed[b : b + 1], at, 1, VOCAB)[0, 0]
            return torch.log_softmax(1.5 * (logits / 0.7 + noise), -1)

        pool = oracle(shape, int(token[b]), "random", score)
        best = sorted(pool, key=lambda path: -pool[path])[: shape.nodes - 1]
        assert set(paths(tree, b)) == {(int(token[b]),), *best}


def test_scores_know_of_repetitions_in_text_and_path() -> None:
    shape = TreeShape(nodes=30, depth=5, top_k=4)
    token = torch.tensor([3, 20, 8, 14])
    seen = torch.rand(4, VOCAB, generator=torch.Generator().manual_seed(5)) < 0.1
    seen.scatter_(1, token.unsqueeze(1), True)
    penalties = [3.0, 0.3, 4.0, 0.2]
    params = [SamplingParams(repetition_penalty=penalty) for penalty in penalties]
    sampling = SamplingState.of_each(params, "cpu", seen)
    tree = grow(shape, token, "random", NodeScores.of(sampling, token, shape))
    check_valid(tree, shape)
    for b, penalty in enumerate(penalties):

        def score(
            logits: Tensor, path: tuple[int, ...], b: int = b, penalty: float = penalty
        ) -> Tensor:
            for said in set(path) | set(seen[b].nonzero().flatten().tolist()):
                logits[said] *= penalty if logits[said] < 0 else 1 / penalty
            return torch.log_softmax(logits, -1)

        pool = oracle(shape, int(token[b]), "random", score)
        best = sorted(pool, key=lambda path: -pool[path])[: shape.nodes - 1]
        assert set(paths(tree, b)) == {(int(token[b]),), *best}


def test_a_greedy_sequence_among_sampled_ones_gets_no_noise() -> None:
    shape = TreeShape(nodes=12, depth=4, top_k=3)
    token, position = torch.tensor([3, 20]), torch.tensor([17, 4])
    state = SamplingState.of(SamplingParams(temperature=1.0, seed=11), 2, "cpu")
    state.temperature[1] = 0
    mixed = grow(shape, token, "random", NodeScores.of(state, position, shape))
    plain = grow(shape, token, "random")
    assert torch.equal(mixed.tokens[1], plain.tokens[1])
    assert not torch.equal(mixed.tokens[0], plain.tokens[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_low_precision_logits_are_fp32(dtype: torch.dtype) -> None:
    shape = TreeShape(nodes=VOCAB + 1, depth=1, top_k=VOCAB)
    state = SamplingState.of(SamplingParams(temperature=0.8), 1, "cpu")
    logits, position = torch.randn(1, VOCAB).to(dtype), torch.tensor([5])
    noise = ops.shared_noise(state.seed, position, 1, VOCAB)[0, 0]
    for scores, exact in (
        (GREEDY, logits[0].float()),
        (NodeScores.of(state, position, shape), logits[0].float() / 0.8 + noise),
    ):
        found = scored(scores, logits, shape)
        assert found.dtype == torch.float32
        assert torch.allclose(found.exp().sum(), torch.ones(()), atol=1e-5)
        torch.testing.assert_close(found, exact.log_softmax(0))


@pytest.mark.parametrize("ends", [(5,), (5, 11, 30)])
def test_nothing_is_expanded_after_an_end(ends: tuple[int, ...]) -> None:
    shape = TreeShape(nodes=30, depth=6, top_k=5)
    seen = 0
    for root in range(0, VOCAB, 2):
        token = torch.tensor([root, (root + 17) % VOCAB])
        tree = grow(GrowthPlan(shape, ends), token, "random")
        check_valid(tree, shape)
        for b in range(2):
            # The oracle: the frontier is chosen among the paths that go on.
            frontier, pool = {(int(token[b]),): 0.0}, {}
            for _ in range(shape.depth):
                level = {}
                for path, total in frontier.items():
                    gains = torch.log_softmax(path_logits(path, "random"), -1)
                    for child in gains.topk(shape.top_k).indices.tolist():
                        level[(*path, child)] = total + float(gains[child])
                pool |= level
                going = {path: s for path, s in level.items() if path[-1] not in ends}
                frontier = dict(sorted(going.items(), key=lambda x: -x[1])[: shape.top_k])
            best = sorted(pool, key=lambda path: -pool[path])[: shape.nodes - 1]
            found = paths(tree, b)
            assert set(found) == {(int(token[b]),), *best}
            seen += sum(path[-1] in ends for path in found[1:])
            torch.testing.assert_close(
                tree.scores[b], torch.tensor([pool.get(path, 0.0) for path in found])
            )
    assert seen > 5


def test_a_governor_ends_growth_and_sets_n() -> None:
    class Stops:
        def deeper(self, level: int, best: Tensor) -> bool:
            assert best.shape == (2, 4)
            return level < 3

        def keep(self, depth: int, ranked: Tensor) -> int:
            assert depth == 3 and (ranked.diff(dim=1) <= 0).all()
            return 9

    token = torch.tensor([3, 20])
    mine = grow(GrowthPlan(TreeShape(40, 9, 4), governor=Stops()), token, "random")
    check_valid(mine, TreeShape(9, 3, 4))
    theirs = grow(TreeShape(9, 3, 4), token, "random")
    assert torch.equal(mine.tokens, theirs.tokens) and torch.equal(mine.parents, theirs.parents)


@pytest.mark.parametrize("kind", ["random", "flat", "broken"])
def test_the_cuda_kernels_grow_the_same_trees(kind: str) -> None:
    plan, token = GrowthPlan(TreeShape(20, 5, 4), ends=(5,)), torch.tensor([3, 20])
    state = SamplingState.of(SamplingParams(temperature=0.9, seed=2), 2, "cpu")
    scores = NodeScores.of(state, torch.tensor([17, 4]), plan.shape)
    wanted = grow(plan, token, kind, scores)
    with emulated_ops(seed=len(kind)):
        found = grow(plan, token, kind, scores)
    for name in ("tokens", "parents", "depths", "ancestors", "scores"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
