"""Cases of tree_grow_."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor

from hivis.ops import noise, reference
from tests.fuzz_ops.accept import DTYPES, INF, NAN, values
from tests.fuzz_ops.arena import Slots, dense, extent, hostile
from tests.fuzz_ops.case import Case, spoil_tensor
from tests.fuzz_ops.noise import HIGH, words

STATE = (
    "pool_scores",
    "pool_tokens",
    "pool_parents",
    "nodes",
    "slots",
    "tokens",
    "scores",
    "words",
    "carried",
)
NAMES = (
    "logits",
    "seed",
    "position",
    "temperature",
    "ends",
    "output",
    *STATE,
    "level",
    "sharpness",
    "noise",
)
#: Dimensions that go with one size only.
FIXED = {
    "logits": (0, 1),
    "seed": (0,),
    "position": (0,),
    "temperature": (0,),
    "ends": (),
    "output": (0, 1, 2),
    "words": (0, 1, 2, 3),
    "carried": (0, 1, 2, 3),
    "pool_scores": (0, 1),
    "pool_tokens": (0, 1),
    "pool_parents": (0, 1),
}
OUTPUTS = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.complex64,
)


def first_of(level: int, k: int) -> int:
    """Where a level begins in the pool."""
    return 1 if level == 1 else 1 + k + (level - 2) * k * k


def case(random: Random, slots: Slots) -> Case:
    batch, k = random.choice((0, 1, 1, 2, 3)), random.choice((1, 1, 2, 3, 4, 8, 17))
    depth, vocab = random.choice((1, 2, 2, 3, 4, 9)), k + random.choice((0, 1, 5, 30, 64, 190, 300))
    level, width = random.randint(1, depth), random.choice((0, 1, 3, 8, 40))
    nodes, frontiers, dtype = 1 if level == 1 else k, depth - 1, random.choice(OUTPUTS)
    size = torch.empty((), dtype=dtype).element_size()

    def view(name: str, shape: tuple[int, ...], flat: Any) -> Tensor:
        strides = hostile(random, shape, repeats=True)
        return slots.place(random, name, flat(extent(shape, strides)), shape, strides)

    def anything(count: int) -> Tensor:
        return torch.randint(256, (count * size,), dtype=torch.uint8).view(dtype)

    which = random.choice(DTYPES)
    inputs = [
        view("logits", (batch, nodes, vocab), lambda count: values(random, count).to(which)),
        slots.put(random, "seed", words(random, batch)),
        slots.put(random, "position", words(random, batch)),
        slots.put(
            random,
            "temperature",
            torch.tensor(
                [random.choice((0.0, 0.0, 1.0, 0.7, 2.0, 50.0, 1e-30, 1e-42)) for _ in range(batch)]
            ),
        ),
        slots.put(random, "ends", torch.randint(-3, vocab + 3, (random.choice((0, 1, 2, 9)),))),
        view("output", (batch, nodes, width), anything),
    ]
    pool = (batch, first_of(depth + 1, k) + random.choice((0, 0, 1, 7)))
    row = (frontiers, batch, k)
    scores = -torch.rand(row) * random.choice((1.0, 5.0))
    scores[torch.rand(row) < 0.1] = random.choice((-INF, NAN, 0.0))
    made = (
        torch.randn(pool),
        torch.randint(-9, 9, pool),
        torch.randint(-9, 9, pool).int(),
        torch.randint(-9, 1 << 20, row).int(),
        torch.randint(-9, 9, row),
        torch.randint(-9, vocab, row),
        scores,
        torch.randint(-(1 << 62), 1 << 62, (*row, max(1, -(-frontiers * k // 64)))),
    )
    state = [slots.put(random, name, own) for name, own in zip(STATE[:-1], made, strict=True)]
    held = (*row, width)
    carried = slots.place(random, "carried", anything(extent(held, dense(held))), held, dense(held))
    sharpness = random.choice((1.0, 1.0, 0.5, 1.7, 1e-3, 100.0))
    args: list[Any] = [*inputs, *state, carried, level, sharpness, random.random() < 0.6]

    def check(result: object) -> str | None:
        return f"returned {result}" if result is not None else _compare(slots, args)

    built = Case("tree_grow_", NAMES, args, check, outputs=frozenset(STATE))
    if random.random() < 0.35:
        while not _spoil(built, random):
            pass
    return built


def _compare(slots: Slots, args: list[Any]) -> str | None:
    """Every byte of the state, and around it: what the oracle says, and else as it was."""
    given = dict(zip(NAMES, args, strict=True))
    twins = {name: slots.used[name].twin(given[name]) for name in STATE}
    wanted = {name: view for name, (_, view) in twins.items()}
    wrong = _level(given, wanted)
    if wrong is not None:
        return wrong
    for name, (whole, _) in twins.items():
        if not torch.equal(slots.used[name].region, whole):
            return f"{name}: other bytes in or around it than the oracle's"
    return None


def _level(given: dict[str, Any], wanted: dict[str, Tensor]) -> str | None:
    """Do to ``wanted``, the state before the call, what the oracle does."""
    logits, level, ends = given["logits"], given["level"], given["ends"]
    (batch, nodes, vocab), (frontiers, _, k) = logits.shape, given["nodes"].shape
    first, last = first_of(level, k), first_of(level + 1, k)
    g = torch.zeros(batch, vocab)
    if given["noise"]:
        g = noise.gumbel(given["seed"], given["position"] + (level - 1), 1, vocab)[:, 0]
    for b in range(batch):
        for slot in range(nodes):
            tokens, gains = reference.children(
                logits[b, slot], g[b], given["temperature"][b], given["sharpness"], k
            )
            above, node = 0.0, 0
            if level > 1:
                above = float(wanted["scores"][level - 2, b, slot])
                node = int(wanted["nodes"][level - 2, b, slot])
            # Of a row that is no distribution it does not matter whose child it would be.
            scores = gains if gains.isneginf().all() else gains + above
            here = slice(first + slot * k, first + slot * k + k)
            found = given["pool_scores"][b, here]
            if not torch.allclose(found.double(), scores, rtol=2e-6, atol=2e-6, equal_nan=True):
                return f"pool_scores[{b}]: wanted {scores[:9].tolist()}, got {found[:9].tolist()}"
            wanted["pool_scores"][b, here] = found
            wanted["pool_tokens"][b, here] = tokens
            wanted["pool_parents"][b, here] = node
        if level > frontiers:
            continue
        tokens = wanted["pool_tokens"][b, first:last]
        scores = wanted["pool_scores"][b, first:last].masked_fill(torch.isin(tokens, ends), -INF)
        places = reference.best_places(scores, k) if level > 1 else torch.arange(k)
        at = (level - 1, b)
        wanted["nodes"][at] = (first + places).int()
        wanted["slots"][at] = places // k
        wanted["tokens"][at] = tokens[places]
        wanted["scores"][at] = scores[places]
        wanted["carried"][at] = given["output"][b][places // k]
        rows = torch.arange(k) + (level - 1) * k
        bits = torch.zeros_like(wanted["words"][at])
        bits[torch.arange(k), rows // 64] = torch.ones_like(rows) << (rows % 64)
        if level > 1:
            bits |= wanted["words"][level - 2, b][places // k]
        wanted["words"][at] = bits
    return None


def _spoil(case: Case, random: Random) -> bool:
    how = random.choice(("tensor", "tensor", "tensor", "value", "number", "number"))
    if how == "tensor":
        name = random.choice(NAMES[:15])
        return spoil_tensor(case, random, name, FIXED.get(name, (0, 1, 2)))
    if how == "value":
        temperature = case.get("temperature")
        if not len(temperature):
            return False
        place = random.randrange(len(temperature))
        temperature[place] = random.choice((-1.0, NAN, INF, -INF))
        case.spoil("temperature", temperature, f"temperature[{place}] = {temperature[place]}")
        return True
    frontiers, batch, k = case.get("nodes").shape
    name, value, ours = random.choice(
        (
            ("level", 0, True),
            ("level", -1, True),
            ("level", frontiers + 2, True),
            ("level", HIGH, True),
            ("level", 1 << 64, False),
            ("level", 1.5, False),
            ("sharpness", 0.0, True),
            ("sharpness", -1.0, True),
            ("sharpness", NAN, True),
            ("sharpness", INF, True),
            ("sharpness", None, False),
            ("nodes", torch.zeros(256 // k + 1, batch, k, dtype=torch.int32), True),
            ("nodes", torch.zeros(frontiers, batch, 0, dtype=torch.int32), True),
            ("logits", case.get("logits")[..., : k - 1], True),
        )
    )
    case.spoil(
        name, value, f"{name} = {value if not isinstance(value, Tensor) else value.shape}", ours
    )
    return True
