"""The ops within torch.compile: traced as one graph, with the results that they have without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hivis import ops

BATCH, NODES, VOCAB, K = 2, 4, 16, 2


def compact() -> list[Tensor]:
    kv = torch.arange(2 * BATCH * 12 * 4.0).view(1, 2, BATCH, 1, 12, 4)
    kv_len = torch.tensor([3, 5], dtype=torch.int32)
    path = torch.tensor([[0, 2], [0, 1]], dtype=torch.int32)
    ops.kv_compact_(kv, kv_len, path, torch.full((BATCH,), 2, dtype=torch.int32))
    return [kv, kv_len]


def accept() -> list[Tensor]:
    make = torch.linspace(-2, 3, BATCH * NODES * VOCAB).sin() * 5
    one = torch.ones(BATCH)
    return list(
        ops.tree_accept(
            make.view(BATCH, NODES, VOCAB),
            torch.arange(NODES).repeat(BATCH, 1),
            torch.tensor([[-1, 0, 0, 1]] * BATCH, dtype=torch.int32),
            torch.arange(BATCH),
            torch.arange(BATCH),
            one,
            one.int() * 5,
            one,
            one * 0,
            2,
        )
    )


def grow() -> list[Tensor]:
    """Two levels, and the tree that they make."""

    def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    logits = (torch.arange(BATCH * K * VOCAB) * 0.7).cos().view(BATCH, K, VOCAB) * 3
    rule = (torch.arange(BATCH), torch.arange(BATCH), torch.ones(BATCH), zeros(0))
    pool = (
        zeros(BATCH, 1 + K + K * K, dtype=torch.float32),
        zeros(BATCH, 1 + K + K * K),
        zeros(BATCH, 1 + K + K * K, dtype=torch.int32) - 1,
    )
    rows = (
        zeros(1, BATCH, K, dtype=torch.int32),
        zeros(1, BATCH, K),
        zeros(1, BATCH, K),
        zeros(1, BATCH, K, dtype=torch.float32),
        zeros(1, BATCH, K, 1),
        zeros(1, BATCH, K, 3, dtype=torch.float32),
    )
    for level, nodes in ((1, 1), (2, K)):
        output = logits[:, :nodes, :3]
        ops.tree_grow_(logits[:, :nodes], *rule, output, *pool, *rows, level, 1.5, True)
    return [*pool, *rows, *ops.tree_prune(*pool, K, 2, NODES)]


@pytest.mark.parametrize("work", [compact, accept, grow])
def test_one_graph(work):
    wanted = work()
    got = torch.compile(work, fullgraph=True, backend="eager")()
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)
