"""Cases of tree_prune."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor

from hivis.core.tree import ancestor_words
from hivis.ops import reference
from tests.fuzz_ops.accept import INF, NAN
from tests.fuzz_ops.arena import Slots
from tests.fuzz_ops.case import Case, spoil_tensor
from tests.fuzz_ops.grow import first_of
from tests.fuzz_ops.noise import HIGH, LOW

NAMES = ("pool_scores", "pool_tokens", "pool_parents", "children", "depth", "nodes")
RESULTS = ("tokens", "parents", "depths", "ancestors", "scores")
DTYPES = (torch.int64, torch.int32, torch.int64, torch.int64, torch.float32)


def case(random: Random, slots: Slots) -> Case:
    batch, k = random.choice((0, 1, 1, 2, 3)), random.choice((1, 1, 2, 3, 5, 9))
    depth = random.choice((1, 1, 2, 3, 5)) if k > 1 else random.choice((1, 2, 9, 70, 256))
    entries = first_of(depth + 1, k)
    most = min(256, entries)
    nodes = random.choice((1, 2, most, most, random.randint(1, most)))
    shape = (batch, entries + random.choice((0, 0, 1, 30)))
    grown = random.random() < 0.7  # as tree_grow_ leaves it: no child is above its parent
    parents = torch.tensor([-1] + [random.randrange(i) for i in range(1, shape[1])])
    scores = -torch.rand(shape) * random.choice((0.0, 1.0, 3.0))
    if random.random() < 0.3:
        scores.round_()
    if random.random() < 0.3:
        scores[torch.rand(shape) < 0.3] = random.choice((-INF, -INF, NAN) if grown else (NAN, INF))
    if grown:
        scores[:, 0] = 0.0
        for i in range(1, shape[1]):
            scores[:, i] += scores[:, int(parents[i])]
    tokens = torch.randint(LOW // 2, HIGH // 2, shape)
    made = (scores, tokens, parents.int().expand(shape).contiguous())
    placed = [slots.put(random, name, own) for name, own in zip(NAMES[:3], made, strict=True)]
    args: list[Any] = [*placed, k, depth, nodes]

    def check(result: Any) -> str | None:
        return _compare(result, args, grown)

    built = Case("tree_prune", NAMES, args, check)
    if random.random() < 0.35:
        while not _spoil(built, random, entries):
            pass
    return built


def _compare(result: Any, args: list[Any], grown: bool) -> str | None:
    scores, tokens, parents, k, depth, nodes = args
    batch, entries = scores.shape[0], first_of(depth + 1, k)
    shapes = [(batch, nodes)] * 3 + [(batch, nodes, -(-nodes // 64)), (batch, nodes)]
    for name, got, dtype, shape in zip(RESULTS, result, DTYPES, shapes, strict=True):
        if got.dtype != dtype or tuple(got.shape) != shape:
            return f"{name}: got {got.dtype} {list(got.shape)}, wanted {dtype} {list(shape)}"
    levels = [0] + [1] * k + [level for level in range(2, depth + 1) for _ in range(k * k)]
    own = torch.tensor(levels)
    whole = (scores[:, :entries], tokens[:, :entries], parents[:, :entries])
    if grown:
        wanted = list(reference.tree_prune(*whole, own, nodes))
    else:
        # Whose parent is not kept gets another one: what must hold is that it comes first.
        above = result[1]
        if batch and not ((above[:, 0] == -1).all() and _come_first(above)):
            return f"parents: wanted them to come first, got {above[0].tolist()[:20]}"
        wanted = [*_kept(whole, own, nodes), ancestor_words(above), above]
        wanted = [wanted[0], wanted[4], wanted[1], wanted[3], wanted[2]]
    for name, got, want in zip(RESULTS, result, wanted, strict=True):
        if not torch.equal(_bits(got), _bits(want)):
            return f"{name}: wanted {want.tolist()}, got {got.tolist()}"[:900]
    return None


def _kept(whole: tuple[Tensor, ...], own: Tensor, nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, depths and scores of the root and the best, in the order of the pool."""
    scores, tokens, _ = whole
    places = torch.zeros(scores.shape[0], nodes, dtype=torch.int64)
    for b in range(scores.shape[0]):
        best = reference.best_places(scores[b, 1:], nodes - 1) + 1
        places[b, 1:] = best.sort().values
    return tokens.gather(1, places), own[places], scores.gather(1, places)


def _come_first(parents: Tensor) -> bool:
    drafted, index = parents[:, 1:], torch.arange(1, parents.shape[1])
    return bool(((drafted >= 0) & (drafted < index)).all())


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor


def _spoil(case: Case, random: Random, entries: int) -> bool:
    if random.random() < 0.5:
        return spoil_tensor(case, random, random.choice(NAMES[:3]), (0, 1))
    parents = case.get("pool_parents")
    if random.random() < 0.4 and parents.numel() and entries > 1:
        b, i = random.randrange(parents.shape[0]), random.randrange(1, entries)
        parents[b, i] = random.choice((i, i + 1, -1, -(1 << 31), (1 << 31) - 1))
        case.spoil("pool_parents", parents, f"pool_parents[{b}, {i}] = {int(parents[b, i])}")
        return True
    name, value, ours = random.choice(
        (
            ("children", 0, True),
            ("children", -3, True),
            ("children", 257, True),
            ("children", HIGH, True),
            ("children", 2.5, False),
            ("depth", 0, True),
            ("depth", -1, True),
            ("depth", 257, True),
            ("depth", HIGH, True),
            ("nodes", 0, True),
            ("nodes", min(256, entries) + 1, True),
            ("nodes", LOW, True),
            ("nodes", None, False),
        )
    )
    case.spoil(name, value, f"{name} = {value}", ours)
    return True
