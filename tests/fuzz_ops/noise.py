"""Cases of shared_noise."""

from __future__ import annotations

from random import Random
from typing import Any

import torch

from hivis.ops import noise
from tests.fuzz_ops.arena import Slots
from tests.fuzz_ops.case import Case, spoil_tensor

NAMES = ("seed", "position", "count", "vocab")
LOW, HIGH = -(1 << 63), (1 << 63) - 1
WORDS = (0, 1, -1, 17, (1 << 32) - 1, 1 << 32, LOW, HIGH, HIGH - 1)


def words(random: Random, batch: int) -> torch.Tensor:
    """[B] i64 that may be any."""
    values = [
        random.choice(WORDS) if random.random() < 0.4 else random.randint(LOW, HIGH)
        for _ in range(batch)
    ]
    return torch.tensor(values, dtype=torch.int64)


def case(random: Random, slots: Slots) -> Case:
    batch, count = random.choice((0, 1, 1, 2, 3)), random.choice((0, 1, 1, 2, 5))
    vocab = random.choice((1, 2, 3, 5, 63, 64, 65, 127, 200))
    seed = slots.put(random, "seed", words(random, batch))
    position = slots.put(random, "position", words(random, batch))

    args: list[Any] = [seed, position, count, vocab]

    def check(result: Any) -> str | None:
        wanted = noise.gumbel(*args)
        if result.dtype != torch.float32 or not torch.equal(result, wanted):
            return f"other noise than the oracle's, of shape {list(result.shape)}"
        return None

    made = Case("shared_noise", NAMES, args, check)
    if random.random() < 0.5:
        while not _spoil(made, random):
            pass
    return made


def _spoil(case: Case, random: Random) -> bool:
    if random.random() < 0.5:
        return spoil_tensor(case, random, random.choice(NAMES[:2]), (0,))
    name, value, ours = random.choice(
        (
            ("count", -1, True),
            ("count", LOW, True),
            ("vocab", 0, True),
            ("vocab", -5, True),
            ("vocab", (1 << 20) + 1, True),
            ("vocab", HIGH, True),
            ("count", HIGH, False),  # more than there is memory or address space for
            ("count", 1 << 60, False),
            ("count", 1 << 48, False),
            ("count", 1.5, False),
            ("vocab", None, False),
            ("count", 1 << 64, False),
        )
    )
    if value in (HIGH, 1 << 60, 1 << 48) and name == "count" and not case.get("seed").numel():
        return False  # so many rows of no sequence are no memory at all
    case.spoil(name, value, f"{name} = {value}", ours)
    return True
