"""A cycle's ops captured in a CUDA graph: replays equal eager calls, with others in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hivis import ops
from hivis.core.tree import ancestor_words

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")

NODES, VOCAB, ROWS, TOP_K = 20, 5000, 1200, 6
LENGTHS = (0, 700, 1, 64, 1100, 383)


class Cycle:
    """Attention, acceptance and compaction on one slab, in place."""

    def __init__(self, seed: int) -> None:
        on = {"device": "cuda", "generator": torch.Generator("cuda").manual_seed(seed)}
        self.kv = torch.randn(3, 2, 2, 2, ROWS, 128, **on).bfloat16()
        self.q = torch.randn(2, NODES, 8, 128, **on).bfloat16()
        self.kv_len = torch.zeros(2, dtype=torch.int32, device="cuda")
        self.logits = torch.randn(2, NODES, VOCAB, **on).bfloat16()
        self.tokens = torch.randint(VOCAB, (2, NODES), **on)
        parents = torch.tensor([[-1] + [(n - 1) // 2 for n in range(1, NODES)]] * 2)
        self.parents = parents.int().cuda()
        self.ancestors = ancestor_words(parents).cuda()
        self.seed = torch.tensor([3, 4], device="cuda")
        one = torch.ones(2, device="cuda")
        self.rule = (one, (one * 50).int(), one * 0.9, one * 0)

    def change(self, turn: int) -> None:
        length = LENGTHS[turn % len(LENGTHS)]
        self.kv_len.copy_(torch.tensor([length, 1100 - length], dtype=torch.int32))

    def run(self) -> tuple[Tensor, ...]:
        k, v = self.kv[1]
        out = ops.tree_attention(self.q, k, v, self.kv_len, self.ancestors, 0.1)
        path, path_len, token, emitted = ops.tree_accept(
            self.logits, self.tokens, self.parents, self.seed, self.kv_len.long(), *self.rule, 4
        )
        ops.kv_compact_(self.kv, self.kv_len, path, path_len)
        return out, path, path_len, token, emitted

    def state(self, results: tuple[Tensor, ...]) -> list[Tensor]:
        return [t.clone() for t in (*results, self.kv, self.kv_len)]


class Growth:
    """Two levels of a tree, the tree, and noise, in place."""

    def __init__(self, seed: int, device: str = "cuda") -> None:
        on = {"device": device}
        make = {"generator": torch.Generator(device).manual_seed(seed), **on}
        rows, pool = (1, 2, TOP_K), (2, 1 + TOP_K + TOP_K**2)
        self.pool = (
            torch.zeros(pool, **on),
            torch.zeros(pool, dtype=torch.int64, **on),
            torch.full(pool, -1, dtype=torch.int32, **on),
        )
        self.frontier = (
            torch.zeros(rows, dtype=torch.int32, **on),
            torch.zeros(rows, dtype=torch.int64, **on),
            torch.zeros(rows, dtype=torch.int64, **on),
            torch.zeros(rows, **on),
            torch.zeros((*rows, 1), dtype=torch.int64, **on),
            torch.zeros((*rows, 64), dtype=torch.bfloat16, **on),
        )
        self.logits = [torch.randn(2, k, VOCAB, **make).bfloat16() for k in (1, TOP_K)]
        self.outputs = [torch.randn(2, k, 64, **make).bfloat16() for k in (1, TOP_K)]
        self.seed = torch.tensor([3, 4], **on)
        self.position = torch.zeros(2, dtype=torch.int64, **on)
        self.rule = (torch.tensor([0.0, 0.9], **on), torch.tensor([7], **on))

    def change(self, turn: int) -> None:
        self.position.fill_(100 * turn + 1)

    def run(self) -> tuple[Tensor, ...]:
        for level, (logits, output) in enumerate(zip(self.logits, self.outputs, strict=True), 1):
            given = (logits, self.seed, self.position, *self.rule, output)
            ops.tree_grow_(*given, *self.pool, *self.frontier, level, 1.0, True)
        tree = ops.tree_prune(*self.pool, TOP_K, 2, NODES)
        return (*tree, ops.shared_noise(self.seed, self.position, 2, VOCAB))

    def state(self, results: tuple[Tensor, ...]) -> list[Tensor]:
        return [t.clone() for t in (*results, *self.pool, *self.frontier)]


@pytest.mark.parametrize("kind", [Cycle, Growth])
def test_replays_equal_eager_calls(kind: type[Cycle] | type[Growth]):
    captured, eager, other = kind(0), kind(0), kind(1)
    other.run()  # a kernel's first launch loads it, which no capture allows
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = captured.run()
    streams = [torch.cuda.Stream(), torch.cuda.current_stream()]
    for turn in range(6):
        for cycle in (captured, eager):
            cycle.change(turn)
        torch.cuda.synchronize()
        with torch.cuda.stream(streams[turn % 2]):
            graph.replay()
        other.change(turn + 1)
        other.run()  # at the same time, on its own stream
        wanted = eager.state(eager.run())
        torch.cuda.synchronize()
        for a, b in zip(captured.state(results), wanted, strict=True):
            assert torch.equal(a, b)


def test_in_somebody_elses_graphs():
    """``torch.compile(mode="reduce-overhead")`` keeps a pool of its own, and refuses to go on when
    it finds memory there that is no output."""
    cycle = Cycle(0)
    k, v = cycle.kv[1]

    def attend(q: Tensor) -> Tensor:
        return ops.tree_attention(q * 2, k, v, cycle.kv_len, cycle.ancestors, 0.1) + 1

    compiled = torch.compile(attend, mode="reduce-overhead")
    cycle.change(1)
    for turn in range(4):
        q = cycle.q + turn
        assert torch.equal(compiled(q).clone(), attend(q))
