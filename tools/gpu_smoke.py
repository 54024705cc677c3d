"""Every op on a few small inputs, against `hivis.ops.reference`, in seconds.

    python -m tools.gpu_smoke [--device cuda]

For compute-sanitizer, under which the test suite would take too long, and for machines without
pytest. Unused rows of the cache hold NaN, lengths are ragged and sizes odd, so that an access
out of place is noticed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hivis import ops
from hivis.core.tree import ancestor_words
from hivis.errors import first_line
from hivis.ops import noise, reference

Check = tuple[str, Callable[[torch.device], bool]]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def random_parents(batch: int, nodes: int) -> Tensor:
    """[B, N] i32: every node's parent is any earlier node."""
    parents = torch.full((batch, nodes), -1, dtype=torch.int32)
    for node in range(1, nodes):
        parents[:, node] = torch.randint(0, node, (batch,), dtype=torch.int32)
    return parents


def attention(
    dtype: torch.dtype, nodes: int, heads: int, kv_heads: int, dim: int, lengths: list[int]
) -> Check:
    def check(device: torch.device) -> bool:
        batch, rows = len(lengths), max(lengths) + nodes + 3
        q = torch.randn(batch, nodes, heads, dim).to(dtype)
        k, v = torch.randn(2, batch, kv_heads, rows, dim).to(dtype)
        for b, length in enumerate(lengths):
            k[b, :, length + nodes :] = v[b, :, length + nodes :] = torch.nan
        kv_len = torch.tensor(lengths, dtype=torch.int32)
        ancestors = ancestor_words(random_parents(batch, nodes))
        inputs = [q, k, v, kv_len, ancestors]
        out = ops.tree_attention(*(x.to(device) for x in inputs), dim**-0.5).cpu().double()
        wanted = reference.tree_attention(*inputs, dim**-0.5)
        return bool((out - wanted).norm() <= TOLERANCE[dtype] * wanted.norm())

    shape = f"N={nodes} H={heads}/{kv_heads} D={dim} S={lengths}"
    return f"tree_attention {short(dtype)} {shape}", check


def compact(dtype: torch.dtype, dim: int) -> Check:
    def check(device: torch.device) -> bool:
        kv = torch.randn(3, 2, 2, 2, 40, dim).to(dtype)
        kv_len = torch.tensor([0, 21], dtype=torch.int32)
        path = torch.tensor([[0, 1, 5, 6, 17], [0, 3, 4, 4, 4]], dtype=torch.int32)
        path_len = torch.tensor([5, 3], dtype=torch.int32)
        inputs = [kv, kv_len, path, path_len]
        ours = [x.to(device, copy=True) for x in inputs]
        ops.kv_compact_(*ours)
        reference.kv_compact_(*inputs)
        return all(torch.equal(a.cpu(), b) for a, b in zip(ours, inputs, strict=True))

    return f"kv_compact_ {short(dtype)} D={dim}", check


def shared_noise(vocab: int) -> Check:
    def check(device: torch.device) -> bool:
        seed, position = torch.tensor([7, -3]), torch.tensor([0, 2**40])
        out = ops.shared_noise(seed.to(device), position.to(device), 3, vocab).cpu()
        return torch.equal(out, noise.gumbel(seed, position, 3, vocab))

    return f"shared_noise V={vocab}", check


def accept(dtype: torch.dtype, vocab: int, top_k: int, top_p: float, min_p: float) -> Check:
    def check(device: torch.device) -> bool:
        batch, nodes, depth = 2, 21, 6
        logits = (torch.randn(batch, nodes, vocab) * 3).to(dtype)
        parents = random_parents(batch, nodes)
        seed, position = torch.tensor([11, 12]), torch.tensor([100, 5])
        temperature = torch.tensor([0.0, 0.7])
        settings = [
            temperature,
            torch.full((batch,), top_k, dtype=torch.int32),
            torch.full((batch,), top_p),
            torch.full((batch,), min_p),
        ]
        gumbel = noise.gumbel(seed, position, depth + 1, vocab)
        # Half of the nodes hold what the target draws at their parent, so that walks are long.
        tokens = torch.randint(0, vocab, (batch, nodes))
        for b in range(batch):
            depths = [0] * nodes
            for node in range(1, nodes):
                parent = int(parents[b, node])
                depths[node] = depths[parent] + 1
                if node % 2 and depths[parent] <= depth:
                    tokens[b, node] = reference.draw(
                        logits[b, parent],
                        gumbel[b, depths[parent]],
                        float(temperature[b]),
                        top_k,
                        top_p,
                        min_p,
                    )
        inputs = [logits, tokens, parents, seed, position, *settings]
        ours = ops.tree_accept(*(x.to(device) for x in inputs), depth)
        wanted = reference.tree_accept(logits, tokens, parents, gumbel, *settings, depth)
        return all(torch.equal(a.cpu(), b) for a, b in zip(ours, wanted, strict=True))

    return f"tree_accept {short(dtype)} V={vocab} k={top_k} p={top_p} min={min_p}", check


def grow(dtype: torch.dtype, vocab: int, k: int, nodes: int) -> Check:
    """Two levels and their tree: tokens and parents exactly, scores up to rounding."""

    def check(device: torch.device) -> bool:
        rows, pool = (1, 2, k), (2, 1 + k + k * k)
        state = [
            torch.zeros(pool),
            torch.zeros(pool, dtype=torch.int64),
            torch.full(pool, -1, dtype=torch.int32),
            torch.zeros(rows, dtype=torch.int32),
            torch.zeros(rows, dtype=torch.int64),
            torch.zeros(rows, dtype=torch.int64),
            torch.zeros(rows),
            torch.zeros((*rows, 1), dtype=torch.int64),
            torch.zeros((*rows, 24), dtype=dtype),
        ]
        state = [x.to(device) for x in state]
        seed, position = torch.tensor([11, 12]), torch.tensor([100, 5])
        temperature, ends = torch.tensor([0.0, 0.7]), torch.tensor([3])
        gumbel = noise.gumbel(seed, position, 2, vocab)
        right, scores = True, torch.zeros(2, 1, 1)
        for level in (1, 2):
            logits = (torch.randn(2, 1 if level == 1 else k, vocab) * 3).to(dtype)
            output = torch.randn(*logits.shape[:2], 24).to(dtype)
            rule = [x.to(device) for x in (logits, seed, position, temperature, ends, output)]
            ops.tree_grow_(*rule, *state, level, 1.0, True)
            if level == 1:
                right &= torch.equal(state[8][0].cpu(), output.expand(-1, k, -1))
            found = [
                [reference.children(row, gumbel[b, level - 1], temperature[b], 1.0, k) for row in x]
                for b, x in enumerate(logits)
            ]
            tokens = torch.stack([torch.cat([t for t, _ in row]) for row in found])
            gains = torch.stack([torch.stack([g for _, g in row]) for row in found])
            here = slice(1, 1 + k) if level == 1 else slice(1 + k, None)
            right &= torch.equal(state[1][:, here].cpu(), tokens)
            wanted = (scores + gains).flatten(1)
            right &= torch.allclose(state[0][:, here].cpu().double(), wanted, 1e-6, 1e-6)
            scores = state[6][0].cpu().double().unsqueeze(2)
        tree = ops.tree_prune(*state[:3], k, 2, nodes)
        depths = torch.tensor([0] + [1] * k + [2] * k * k)
        wanted_tree = reference.tree_prune(*(x.cpu() for x in state[:3]), depths, nodes)
        return right and all(
            torch.equal(a.cpu(), b) for a, b in zip(tree, wanted_tree, strict=True)
        )

    return f"tree_grow_ and tree_prune {short(dtype)} V={vocab} k={k} N={nodes}", check


def checks() -> Iterator[Check]:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield attention(dtype, 17, 4, 2, 64, [0, 70])
    yield attention(torch.bfloat16, 1, 4, 4, 128, [300])
    yield attention(torch.bfloat16, 60, 7, 1, 128, [1, 700])
    yield attention(torch.bfloat16, 60, 4, 4, 128, [1, 700, 2100])  # as LLaVA-1.5-7B has it
    yield attention(torch.float16, 20, 6, 2, 72, [5, 130])  # any head dimension
    yield attention(torch.bfloat16, 130, 2, 2, 80, [65])
    yield attention(torch.float16, 64, 2, 2, 256, [64])
    for dtype, dim in ((torch.bfloat16, 128), (torch.float32, 7), (torch.int8, 5)):
        yield compact(dtype, dim)
    yield shared_noise(1000)
    yield shared_noise(1)
    for dtype in (torch.float32, torch.bfloat16):
        yield accept(dtype, 5003, 0, 1.0, 0.0)
        yield accept(dtype, 5003, 50, 0.9, 0.05)
    yield accept(torch.float32, 37, 0, 0.3, 0.0)
    for dtype, vocab in ((torch.float32, 37), (torch.bfloat16, 5003), (torch.float16, 5000)):
        yield grow(dtype, vocab, 10, 60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    torch.manual_seed(0)
    failed = 0
    for name, check in checks():
        try:
            verdict = "ok" if check(device) else "WRONG"
        except Exception as error:  # of the op, or of the reference on what an op left behind
            verdict = f"FAILED: {first_line(error)}"
        failed += verdict != "ok"
        print(f"{name}: {verdict}", flush=True)
    print(f"gpu_smoke on {device}: {failed} failed" if failed else f"gpu_smoke on {device}: all ok")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
