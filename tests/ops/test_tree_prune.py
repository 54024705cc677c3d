"""tree_prune: the oracle on pools of any kind, ties, and pools that no growth leaves behind."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hivis import ops
from hivis.core.tree import ancestor_words
from hivis.ops import reference


def random_pool(
    batch: int, k: int, depth: int, seed: int, kind: str = "", spare: int = 0
) -> tuple[list[Tensor], Tensor]:
    """Scores, tokens and parents of a pool as growth leaves it, and the level of every entry."""
    random = torch.Generator().manual_seed(seed)
    depths = [0] + [1] * k + [level for level in range(2, depth + 1) for _ in range(k * k)]
    count = len(depths)
    scores = torch.zeros(batch, count + spare)
    parents = torch.full((batch, count + spare), -1, dtype=torch.int32)
    tokens = torch.randint(1000, (batch, count + spare), generator=random)
    gains = -torch.rand(batch, count, generator=random) * 3
    if kind == "flat":
        gains.zero_()
    if kind == "rounded":
        gains.round_()
    if kind == "-inf":
        gains[torch.rand(gains.shape, generator=random) < 0.5] = -torch.inf
    for b in range(batch):
        frontier, first = [0], 1
        for level in range(1, depth + 1):
            for i in range(len(frontier) * k):
                parent = frontier[i // k]
                scores[b, first + i] = scores[b, parent] + gains[b, first + i]
                parents[b, first + i] = parent
            size = len(frontier) * k
            chosen = torch.randperm(size, generator=random)[:k].tolist()
            frontier = [first + i for i in chosen] if level > 1 else list(range(1, k + 1))
            first += size
    scores[:, count:] = math.nan
    return [scores, tokens, parents], torch.tensor(depths)


def check(device: torch.device, pool: list[Tensor], depths: Tensor, k: int, nodes: int) -> None:
    depth = int(depths[-1])
    got = ops.tree_prune(*(t.to(device) for t in pool), k, depth, nodes)
    wanted = reference.tree_prune(*(t[:, : len(depths)] for t in pool), depths, nodes)
    for name, a, b in zip(
        ("tokens", "parents", "depths", "ancestors", "scores"), got, wanted, strict=True
    ):
        assert a.dtype == b.dtype and torch.equal(a.cpu(), b), f"{name}: {a} is not {b}"
    assert torch.equal(got[3].cpu(), ancestor_words(got[1].cpu()))


@pytest.mark.parametrize(
    "k, depth, nodes",
    [(1, 1, 1), (1, 1, 2), (1, 9, 7), (3, 2, 7), (4, 7, 16), (5, 6, 70), (10, 8, 60),
     (10, 8, 256), (4, 1, 5), (4, 3, 37), (100, 2, 200), (256, 1, 256)],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["", "flat", "rounded"])
def test_oracle(device: torch.device, k: int, depth: int, nodes: int, kind: str):
    pool, depths = random_pool(2, k, depth, nodes, kind, spare=5)
    check(device, pool, depths, k, nodes)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the same device for all
)
@given(
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(0, 300),
    st.integers(0, 2**31),
    st.sampled_from(["", "flat", "rounded", "-inf"]),
)
def test_oracle_on_any_pool(
    device: torch.device, k: int, depth: int, nodes: int, seed: int, kind: str
):
    pool, depths = random_pool(1, k, depth, seed, kind)
    check(device, pool, depths, k, 1 + nodes % min(256, len(depths)))


def test_whatever_the_scores_hold_a_tree_comes_out(device: torch.device):
    """NaN counts as -inf; scores above a parent's or the root's still give parents that come
    first."""
    pool, depths = random_pool(3, 4, 5, 1)
    random = torch.Generator().manual_seed(2)
    pool[0][:, : len(depths)] = torch.randn(3, len(depths), generator=random)
    pool[0][torch.rand(pool[0].shape, generator=random) < 0.2] = math.nan
    tokens, parents, _, ancestors, _ = ops.tree_prune(*(t.to(device) for t in pool), 4, 5, 20)
    assert torch.equal(tokens[:, 0].cpu(), pool[1][:, 0])
    assert (parents[:, 0] == -1).all() and (parents[:, 1:] >= 0).all()
    assert (parents.cpu() < torch.arange(20)).all()
    assert torch.equal(ancestors.cpu(), ancestor_words(parents.cpu()))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(pool_scores=torch.zeros(8)), "pool_scores: wanted 2 dimensions, got 1"),
        (dict(pool_scores=torch.zeros(2, 8).double()), "pool_scores: wanted Float, got Double"),
        (dict(pool_scores=torch.zeros(8, 2).T), "pool_scores: wanted a contiguous tensor"),
        (dict(pool_tokens=torch.zeros(2, 8)), "pool_tokens: wanted Long, got Float"),
        (dict(pool_tokens=torch.zeros(2, 9).long()), r"pool_tokens: wanted shape \[2, 8\]"),
        (dict(pool_parents=torch.zeros(2, 8).long()), "pool_parents: wanted Int, got Long"),
        (dict(children=0), "children: wanted 1..256, got 0"),
        (dict(children=257), "children: wanted 1..256, got 257"),
        (dict(depth=0), "depth: wanted 1..256, got 0"),
        (dict(depth=3), "pool_scores: wanted at least 11 entries, got 8"),
        (dict(nodes=0), "nodes: wanted 1..7, got 0"),
        (dict(nodes=8), "nodes: wanted 1..7, got 8"),
    ],
)
def test_bad_input_is_named(device: torch.device, change: dict, message: str):
    pool, _ = random_pool(2, 2, 2, 0, spare=1)
    given = dict(zip(("pool_scores", "pool_tokens", "pool_parents"), pool, strict=True))
    given |= {"children": 2, "depth": 2, "nodes": 4} | change
    given = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in given.items()}
    with pytest.raises(RuntimeError, match=message):
        ops.tree_prune(**given)


@pytest.mark.parametrize("parent", [-1, 3, 99])
def test_bad_parents_are_named_on_the_cpu(parent: int):
    pool, _ = random_pool(2, 2, 2, 0)
    pool[2][1, 3] = parent
    with pytest.raises(RuntimeError, match=rf"pool_parents\[1, 3\]: wanted 0..2 .* got {parent}"):
        ops.tree_prune(*pool, 2, 2, 4)


def test_empty_batch(device: torch.device):
    pool = [t[:0].to(device) for t in random_pool(1, 2, 2, 0)[0]]
    assert [tuple(t.shape) for t in ops.tree_prune(*pool, 2, 2, 4)] == [
        (0, 4),
        (0, 4),
        (0, 4),
        (0, 4, 1),
        (0, 4),
    ]


def test_opcheck(device: torch.device):
    pool = [t.to(device) for t in random_pool(2, 2, 2, 0)[0]]
    torch.library.opcheck(torch.ops.hivis.tree_prune.default, (*pool, 2, 2, 4))
