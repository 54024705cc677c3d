"""Many texts one after the other: nothing is left behind by any of them."""

from __future__ import annotations

import gc
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.models.target import HuggingFaceTarget
from hivis.policies.cost import default_policy
from tests.helpers.small_drafters import pair
from tests.helpers.small_llava import random_inputs

STATM = Path("/proc/self/statm")
WARM_UP = 1000
#: Allowed to come and go between two looks: interned strings, caches of regular expressions.
SPARE_OBJECTS = 200
SPARE_MB = 8.0


class Memory(NamedTuple):
    """What is alive."""

    mb: float
    tensors: int
    objects: int


def memory() -> Memory:
    gc.collect()
    alive = gc.get_objects()
    # isinstance would ask proxies for their class, and so import what they stand for.
    tensors = sum(issubclass(type(one), torch.Tensor) for one in alive)
    pages = int(STATM.read_text().split()[1]) if STATM.exists() else 0
    return Memory(pages * 4096 / 1e6, tensors, len(alive))


def texts(target: HuggingFaceTarget, drafter: Drafter, policy: Policy, cycles: int) -> int:
    """Texts of many lengths, greedy and sampled, with and without images; how many there were."""
    done = number = 0
    while done < cycles:
        params = SamplingParams(
            max_new_tokens=(8, 40, 90, 25)[number % 4], temperature=float(number % 2), seed=number
        )
        inputs = random_inputs(number % 50, text=5 + number % 23, images=number % 3)
        done += generate(Engine(target, drafter, policy), inputs, params).statistics.cycles
        number += 1
    return number


def soak(kind: str, cycles: int) -> tuple[Memory, Memory]:
    """Memory after the warm-up and after so many cycles more."""
    target, drafter = pair(kind)
    policy = default_policy()
    texts(target, drafter, policy, WARM_UP)
    before = memory()
    texts(target, drafter, policy, cycles)
    return before, memory()


def check_flat(before: Memory, after: Memory) -> None:
    assert after.tensors <= before.tensors, (before, after)
    assert after.objects <= before.objects + SPARE_OBJECTS, (before, after)
    assert after.mb <= before.mb + SPARE_MB, (before, after)


@pytest.mark.slow
def test_memory_is_flat_over_10_000_cycles():
    check_flat(*soak("hivis", 10_000))


@pytest.mark.parametrize("kind", ["vispec", "draft-vlm"])
def test_memory_is_flat_over_300_cycles(kind: str):
    check_flat(*soak(kind, 300))


@pytest.mark.parametrize("leak", ["a tensor", "an object", "bytes"])
def test_a_leak_is_found(leak: str, monkeypatch: pytest.MonkeyPatch):
    target, drafter = pair("hivis")
    policy, kept = default_policy(), []
    texts(target, drafter, policy, 100)
    commit = drafter.commit

    def leaks(*args):
        pages = mmap(-1, 1 << 20)  # of their own, whatever the heap has free
        pages.write(b"x" * (1 << 20))
        kept.append({"a tensor": args[0][0, 0, :1], "an object": [[], []], "bytes": pages}[leak])
        commit(*args)

    before = memory()
    monkeypatch.setattr(drafter, "commit", leaks)
    texts(target, drafter, policy, 100)
    with pytest.raises(AssertionError):
        check_flat(before, memory())
