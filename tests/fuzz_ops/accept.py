"""Cases of tree_accept."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from hivis.ops import noise, reference
from tests.fuzz_ops.arena import Slots, extent, hostile
from tests.fuzz_ops.case import Case, spoil_tensor
from tests.fuzz_ops.noise import HIGH, LOW, words

NAMES = (
    "logits",
    "tokens",
    "parents",
    "seed",
    "position",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "max_depth",
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INF, NAN = float("inf"), float("nan")
TOP = (1 << 31) - 1
#: How far the mass that top-p and min-p compare with may lie from the oracle's: the op sums
#: exponentials of single precision.
NEAR = 1e-6


@dataclass
class Rule:
    """How the tokens of one sequence are drawn."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float


def rule(random: Random, vocab: int) -> Rule:
    temperature = random.choice((0.0, 0.0, 1.0, 1.0, 0.7, 0.3, 2.0, 50.0, 1e-30, 1e-42))
    if random.random() < 0.4:
        return Rule(temperature, 0, 1.0, 0.0)
    return Rule(
        temperature,
        random.choice((0, 0, 1, 2, 5, vocab, vocab + 1, TOP)),
        random.choice((1.0, 1.0, 0.9, 0.5, 0.01, 1e-38, 1e-44, 1 - 2**-24)),
        random.choice((0.0, 0.0, 0.02, 0.3, 1.0, 1e-44)),
    )


def case(random: Random, slots: Slots) -> Case:
    batch, nodes = random.choice((0, 1, 1, 1, 2, 3)), random.choice((1, 2, 3, 5, 8, 12, 20, 64))
    vocab = random.choice((1, 2, 3, 5, 17, 63, 64, 65, 100, 200))
    if random.random() < 0.01:
        nodes, vocab = random.choice(((256, 3), (1, 20_000), (256, 64)))
    depth = random.choice((0, 1, 2, 3, 6, nodes, 256))
    shape = (batch, nodes, vocab)
    strides = hostile(random, shape, repeats=True)
    flat = values(random, extent(shape, strides)).to(random.choice(DTYPES))
    logits = slots.place(random, "logits", flat, shape, strides)
    rules = [rule(random, vocab) for _ in range(batch)]
    parents = [_parents(random, nodes) for _ in range(batch)]
    seed, position = words(random, batch), words(random, batch)
    tokens = torch.randint(-1, vocab + 1, (batch, nodes))
    spoiled = random.random() < 0.35
    noised = (seed, position)
    walk = [] if spoiled else _walk(random, logits, tokens, parents, noised, rules, depth)
    made = {
        "tokens": tokens,
        "parents": torch.tensor(parents, dtype=torch.int32).reshape(batch, nodes),
        "seed": seed,
        "position": position,
    }
    for name in NAMES[5:9]:
        dtype = torch.int32 if name == "top_k" else torch.float32
        made[name] = torch.tensor([getattr(each, name) for each in rules], dtype=dtype)
    placed = [slots.put(random, name, made[name]) for name in NAMES[1:9]]
    args = [logits, *placed, depth]

    def check(result: Any) -> str | None:
        return _compare(result, walk, args, whole=random.random() < 0.02)

    built = Case("tree_accept", NAMES, args, check)
    if spoiled:
        while not _spoil(built, random):
            pass
    return built


def values(random: Random, size: int) -> Tensor:
    """Logits: normal ones, many that tie, few that are left, or some that are no numbers."""
    flat = torch.randn(size) * random.choice((0.5, 3.0, 3.0, 20.0))
    how = random.random()
    if how < 0.15:
        flat = flat.round()
    elif how < 0.3:
        flat[torch.rand(size) < 0.6] = -INF
    elif how < 0.4:
        flat[torch.rand(size) < 0.02] = random.choice((NAN, INF, -INF))
    elif how < 0.43:
        flat.fill_(random.choice((0.0, -INF, 1.0, -0.0)))
    return flat


def _parents(random: Random, nodes: int) -> list[int]:
    shape = random.random()
    if shape < 0.3:
        return list(range(-1, nodes - 1))
    return [-1] + [0 if shape < 0.4 else random.randrange(n) for n in range(1, nodes)]


def _depth(parents: list[int]) -> int:
    """Of the deepest node."""
    depths = [0]
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
    return max(depths)


def _walk(
    random: Random,
    logits: Tensor,
    tokens: Tensor,
    parents: list[list[int]],
    noised: tuple[Tensor, Tensor],
    rules: list[Rule],
    max_depth: int,
) -> list[tuple[list[int], int]]:
    """Walk each tree with the oracle's draws: (path, next token). Most drawn tokens are planted at
    a child on the way, so that walks are long."""
    batch, nodes, vocab = logits.shape
    found = []
    if batch:
        g = noise.gumbel(*noised, min(max_depth, max(map(_depth, parents))) + 1, vocab)
    for b in range(batch):
        path, mine = [0], tokens[b].tolist()
        while True:
            node = path[-1]
            token = _draw(logits[b, node], g[b, len(path) - 1], rules[b])
            children = [n for n in range(node + 1, nodes) if parents[b][n] == node]
            if children and token >= 0 and random.random() < 0.8:
                mine[random.choice(children)] = token
            same = [n for n in children if mine[n] == token and token >= 0]
            if not same or len(path) > max_depth:
                break
            path.append(same[0])
        tokens[b] = torch.tensor(mine)
        found.append((path, token))
    return found


def _draw(row: Tensor, g: Tensor, by: Rule) -> int:
    # As the op gets them: in single precision.
    as_op = torch.tensor([by.temperature, by.top_p, by.min_p], dtype=torch.float32).tolist()
    return reference.draw(row, g, as_op[0], by.top_k, as_op[1], as_op[2])


def _compare(
    result: Any, walk: list[tuple[list[int], int]], args: list[Any], whole: bool
) -> str | None:
    path, path_len, token, emitted = result
    batch, width = len(walk), args[9] + 1
    kinds = (
        (path, torch.int32, (batch, width)),
        (path_len, torch.int32, (batch,)),
        (token, torch.int64, (batch,)),
        (emitted, torch.int64, (batch, width)),
    )
    for t, dtype, shape in kinds:
        if t.dtype != dtype or tuple(t.shape) != shape:
            return f"got {t.dtype} {list(t.shape)}, wanted {dtype} {list(shape)}"
    for b, (nodes, drawn) in enumerate(walk):
        got = (path[b].tolist(), int(path_len[b]), int(token[b]))
        wanted = (nodes + nodes[-1:] * (width - len(nodes)), len(nodes), drawn)
        if got != wanted and not _near(args, b, got):
            return f"sequence {b}: wanted {wanted[1:]} {wanted[0][:9]}, got {got[1:]} {got[0][:9]}"
        # Of the path that was taken: the children's tokens, then the last draw to the end.
        said = [int(args[1][b, n]) for n in got[0][1 : got[1]]]
        said += [got[2]] * (width - len(said))
        if emitted[b].tolist() != said:
            return f"emitted[{b}]: wanted {said[:9]}, got {emitted[b].tolist()[:9]}"
    if whole and batch and width <= 32:
        g = noise.gumbel(args[3], args[4], width, args[0].shape[2])
        oracle = reference.tree_accept(*args[:3], g, *args[5:])
        if [(p[:n].tolist(), int(t)) for p, n, t, _ in zip(*oracle, strict=True)] != walk:
            return "the walk of these tests is not the oracle's"
    return None


def _near(args: list[Any], b: int, got: tuple[list[int], int, int]) -> bool:
    """Whether each step is the oracle's for a top-p and min-p that differ by next to nothing."""
    logits, tokens, parents, seed, position, temperature, top_k, top_p, min_p, depth = args
    path, count, token = got
    drawn = [int(tokens[b, n]) for n in path[1:count]] + [token]
    g = noise.gumbel(seed[b : b + 1], position[b : b + 1], count, logits.shape[2])[0]
    for level, (node, wanted) in enumerate(zip(path[:count], drawn, strict=True)):
        tried = set()
        for p in (-NEAR, 0.0, NEAR):
            for m in (-NEAR, 0.0, NEAR):
                tried.add(
                    reference.draw(
                        logits[b, node],
                        g[level],
                        float(temperature[b]),
                        int(top_k[b]),
                        float(top_p[b]) * (1 + p),
                        float(min_p[b]) * (1 + m),
                    )
                )
        if wanted not in tried:
            return False
    last = path[count - 1]
    ahead = [n for n in range(len(parents[b])) if parents[b, n] == last and tokens[b, n] == token]
    return token < 0 or not ahead or count > depth


def _spoil(case: Case, random: Random) -> bool:
    logits, parents = case.args[0], case.args[2]
    batch, nodes, vocab = logits.shape
    how = random.choice(("tensor", "tensor", "rule", "rule", "parents", "depth", "sizes"))
    if how == "tensor":
        name = random.choice(NAMES[:9])
        dims = {"logits": (0, 1), "tokens": (0, 1), "parents": (0, 1)}.get(name, (0,))
        return spoil_tensor(case, random, name, dims)
    if how == "rule":
        if not batch:
            return False
        name = random.choice(NAMES[5:9])
        bad = {
            "temperature": (-1.0, -1e-30, NAN, INF, -INF),
            "top_k": (-1, -TOP - 1),
            "top_p": (0.0, -0.1, 1.0001, NAN, INF),
            "min_p": (-0.1, 1.1, NAN, INF),
        }
        place = random.randrange(batch)
        case.get(name)[place] = random.choice(bad[name])
        case.spoil(name, case.get(name), f"{name}[{place}] = {float(case.get(name)[place])}")
        return True
    if how == "parents":
        if not batch:
            return False
        b, n = random.randrange(batch), random.randrange(nodes)
        parents[b, n] = random.choice((-2, n, n + 1, nodes, TOP, -TOP - 1, -1 if n else 0))
        case.spoil("parents", parents, f"parents[{b}, {n}] = {int(parents[b, n])}")
        return True
    if how == "depth":
        value, ours = random.choice(
            ((-1, True), (257, True), (LOW, True), (HIGH, True), (None, False), (1.5, False))
        )
        case.spoil("max_depth", value, f"max_depth = {value}", ours)
        return True
    shape = random.choice(
        ((batch, 0, vocab), (batch, 257, vocab), (batch, nodes, 0), (0, nodes, (1 << 20) + 1))
    )
    case.spoil("logits", torch.zeros(shape), f"logits of {shape}")
    for name in ("tokens", "parents"):
        value = torch.zeros(shape[:2], dtype=case.get(name).dtype)
        case.spoil(name, value, f"logits of {shape}")
    return True
