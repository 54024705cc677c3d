"""Cases of tree_attention."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor

from hivis.ops import reference
from tests.fuzz_ops.arena import Slots, extent, hostile
from tests.fuzz_ops.case import Case, spoil_tensor

NAMES = ("q", "k", "v", "kv_len", "ancestors", "scale")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAN = float("nan")
LOW, HIGH = -(1 << 31), (1 << 31) - 1
#: Multiply-adds of the slow oracle that one case may cost.
MOST_WORK = 60_000


def case(random: Random, slots: Slots) -> Case:
    batch = random.choice((0, 1, 1, 1, 1, 2, 3))
    nodes = random.choice((1, 1, 2, 3, 5, 7, 8, 9, 12, 16, 17, 33, 63, 64, 65, 130, 256))
    heads, group = random.choice((1, 1, 2, 3)), random.choice((1, 1, 1, 2, 3, 7))
    dim = random.choice((8, 8, 16, 16, 24, 32, 40, 64, 72, 80, 96, 128, 136, 256))
    lengths = [random.choice((0, 1, 7, 15, 31, 33, 60, 130, 1100)) for _ in range(batch)]
    spare = random.choice((0, 0, 1, 5))
    while batch * heads * group * nodes * (max(lengths, default=0) + nodes) * dim > MOST_WORK:
        lengths = [length // 4 for length in lengths]
        nodes, group = max(1, nodes // 2), max(1, group // 2)
        dim = dim if nodes < 4 else 8
    rows = max(lengths, default=0) + nodes + spare
    dtype = random.choice(DTYPES)
    sharp = random.choice((0.3, 1.0, 1.0, 3.0))

    def floats(name: str, shape: tuple[int, ...]) -> Tensor:
        strides = hostile(random, shape, repeats=True)
        flat = torch.randn(extent(shape, strides)) * (sharp if name == "q" else 1.0)
        return slots.place(random, name, flat.to(dtype), shape, strides)

    q = floats("q", (batch, nodes, heads * group, dim))
    k, v = (floats(name, (batch, heads, rows, dim)) for name in "kv")
    words = _words(random, batch, nodes)
    seen = _seen(words, lengths, rows)
    apart = all(_apart(t) for t in (q, k, v))
    if apart:
        # What no node of a sequence sees may hold anything.
        unseen = (~seen.any(1))[:, None, :, None]
        for t in (k, v):
            t.masked_fill_(unseen, NAN)
    special = bool(batch) and apart and random.random() < 0.04
    if special:  # in a row that every node sees, or none but its own
        chosen = random.choice((k, v, q) if lengths[0] else (q,))
        chosen[(0,) * 4] = random.choice((NAN, float("inf"), -float("inf")))
    kv_len = slots.put(random, "kv_len", torch.tensor(lengths, dtype=torch.int32))
    ancestors = slots.put(random, "ancestors", words)
    scale = random.choice((dim**-0.5, dim**-0.5, 1.0 / dim, 0.0, -(dim**-0.5)))
    args = [q, k, v, kv_len, ancestors, scale]

    def check(result: Tensor) -> str | None:
        return _compare(args, seen, result, whole=special or random.random() < 0.02)

    made = Case("tree_attention", NAMES, args, check)
    if random.random() < 0.4:
        while not _spoil(made, random):
            pass
    return made


def _apart(tensor: Tensor) -> bool:
    """No element in the place of another, as far as sorted strides tell."""
    pairs = sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1)
    reach = 0
    for stride, n in pairs:
        if stride <= reach:
            return False
        reach += (n - 1) * stride
    return True


def _words(random: Random, batch: int, nodes: int) -> Tensor:
    """[B, N, W] i64: trees with padding, or any bits at all, with more of them beyond the last."""
    count = -(-nodes // 64)
    if random.random() < 0.3:
        words = torch.randint(-(1 << 62), 1 << 62, (batch, nodes, count))
        words[torch.rand(batch, nodes) < 0.1] = 0
        return words
    rows = []
    for _ in range(batch):
        bits: list[int] = []
        shape = random.random()
        for node in range(nodes):
            above = node - 1 if shape < 0.2 else 0 if shape < 0.4 else random.randrange(node + 1)
            bits.append(1 << node | (bits[min(above, node - 1)] if node else 0))
        for node in range(nodes - random.choice((0, 0, 1, nodes)), nodes):
            bits[node] = 0
        beyond = (1 << 64 * count) - (1 << nodes) if random.random() < 0.2 else 0
        rows.append([_signed((each | beyond) >> 64 * w) for each in bits for w in range(count)])
    return torch.tensor(rows, dtype=torch.int64).reshape(batch, nodes, count)


def _signed(word: int) -> int:
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


def _seen(words: Tensor, lengths: list[int], rows: int) -> Tensor:
    """[B, N, S] bool."""
    nodes = words.shape[1]
    index = torch.arange(nodes)
    bits = ((words[:, :, index // 64] >> (index % 64)) & 1).bool()
    seen = torch.zeros(len(lengths), nodes, rows, dtype=torch.bool)
    for b, length in enumerate(lengths):
        seen[b, :, :length] = True
        seen[b, :, length : length + nodes] = bits[b]
    return seen & bits.any(2, keepdim=True)


def _attend(args: list[Any], seen: Tensor, dtype: torch.dtype) -> Tensor:
    """The oracle for all nodes at a time; what no node sees counts as zero."""
    q, k, v, scale = (a.to(dtype) if isinstance(a, Tensor) else a for a in (*args[:3], args[5]))
    group = q.shape[2] // k.shape[1]
    unseen = (~seen.any(1))[:, None, :, None]
    k, v = (t.masked_fill(unseen, 0).repeat_interleave(group, 1) for t in (k, v))
    scores = torch.matmul(q.transpose(1, 2), k.transpose(2, 3)) * scale  # [B, H, N, S]
    masked = scores.masked_fill(~seen[:, None], -torch.inf)
    out = torch.matmul(masked.softmax(3), v).transpose(1, 2)
    return out.masked_fill(~seen.any(2)[:, :, None, None], 0)


def _compare(args: list[Any], seen: Tensor, got: Tensor, whole: bool) -> str | None:
    """The project's rule: at most twice the error of plain torch in the same dtype, plus 1e-5.

    One node of eight numbers may be lucky in plain torch. So before it counts, the error is held
    against plain torch's at the same problem with q a little different, where rounding differs.
    """
    q = args[0]
    if got.shape != q.shape or got.dtype != q.dtype or not got.is_contiguous():
        return f"got {got.dtype} {list(got.shape)}, strides {got.stride()}"
    if not q.numel():
        return None
    if whole:  # one node at a time: no weight of zero meets a NaN that is not seen
        exact = reference.tree_attention(*args)
        plain = reference.tree_attention(*args, dtype=q.dtype)
    else:
        exact, plain = _attend(args, seen, torch.float64), _attend(args, seen, q.dtype)
    if not torch.equal(got.isnan(), exact.isnan()):
        return f"NaN in other places than the oracle: {int((got.isnan() != exact.isnan()).sum())}"
    error, allowed = _distance(got, exact), 2 * _distance(plain, exact) + 1e-5
    for _ in range(0 if error <= allowed else 8):
        near = [(q * (1 + torch.randn(q.shape) / 64)).to(q.dtype), *args[1:]]
        exact, plain = (_attend(near, seen, dtype) for dtype in (torch.float64, q.dtype))
        allowed = max(allowed, 2 * _distance(plain, exact) + 1e-5)
    return None if error <= allowed else f"error {error:.3g}, allowed {allowed:.3g}"


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).detach().nan_to_num(0).abs().max())


def _spoil(case: Case, random: Random) -> bool:
    q, k, v, kv_len, ancestors, _ = case.args
    batch, nodes, _, dim = q.shape
    rows = k.shape[2]
    how = random.choice(("tensor", "tensor", "length", "length", "dtype", "scale", "sizes"))
    if how == "tensor":
        name = random.choice(NAMES[:5])
        every = {"q": (0, 1, 3), "kv_len": (0,), "ancestors": (0, 1, 2)}
        return spoil_tensor(case, random, name, every.get(name, (0, 1, 2, 3)))
    if how == "length":
        if not batch:
            return False
        values, place = case.get("kv_len"), random.randrange(batch)
        values[place] = random.choice((-1, rows - nodes + 1, rows + 1, LOW, HIGH, HIGH - nodes))
        case.spoil("kv_len", values, f"kv_len[{place}] = {int(values[place])}, S {rows}, N {nodes}")
        return True
    if how == "dtype":
        name = random.choice("qkv")
        other = random.choice([d for d in DTYPES if d != q.dtype])
        case.spoil(name, case.get(name).to(other), f"{name} of {other} among {q.dtype}")
        return True
    if how == "scale":
        case.spoil("scale", random.choice((None, "1", [1.0])), "scale of another type", ours=False)
        return True
    sizes = {"B": batch, "N": nodes, "H": q.shape[2], "Hkv": k.shape[1], "S": rows, "D": dim}
    name, value = random.choice(
        (
            ("D", 4),
            ("D", 12),
            ("D", 264),
            ("D", 0),
            ("N", 257),
            ("N", 0),
            ("S", nodes - 1),
            ("Hkv", 0),
            ("H", 0),
            ("Hkv", sizes["H"] + 1),
        )
    )
    sizes[name] = value
    for each in NAMES[:5]:
        shape = {
            "q": "B N H D",
            "k": "B Hkv S D",
            "v": "B Hkv S D",
            "kv_len": "B",
            "ancestors": "B N",
        }[each]
        wanted = [sizes[letter] for letter in shape.split()]
        if each == "ancestors":
            wanted.append(-(-sizes["N"] // 64))
        old = case.get(each)
        case.spoil(each, torch.zeros(wanted, dtype=old.dtype), f"{name} = {value}")
    return True
