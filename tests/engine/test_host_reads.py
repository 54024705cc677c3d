"""Cycles on a CPU, watched: the host learns no value of a tensor before the cycle is at its end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.running_batch import RunningBatch
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy
from hivis.policies.fixed import FixedPolicy
from hivis.policies.times import Times
from tests.helpers.small_drafters import eagle_drafter, pair
from tests.helpers.small_llava import random_inputs, random_target

TIMES = Times({8: 1.0, 16: 1.1, 32: 1.3, 60: 1.7}, 0.1, 0.3)
POLICIES: dict[str, Policy] = {
    "fixed": FixedPolicy(12, 4, 3),
    "cost": CostPolicy(times=TIMES, ahead=True),
    "confidence": ConfidencePolicy(ahead=True),
}
SAMPLING = {
    "greedy": SamplingParams(max_new_tokens=100),
    "sampled": SamplingParams(temperature=0.8, top_k=20, top_p=0.9, seed=3, max_new_tokens=100),
    "penal": SamplingParams(temperature=1.0, repetition_penalty=1.3, seed=4, max_new_tokens=100),
}
DRAFTERS = ("hivis", "eagle", "vispec", "draft-vlm")
LOOPS = [("none", "fixed"), *itertools.product(DRAFTERS, POLICIES)]
#: What may be asked of a tensor, for it says nothing of what it holds.
SHAPES = (
    "dim", "ndimension", "numel", "size", "stride", "element_size", "storage_offset", "data_ptr",
    "get_device", "is_contiguous", "is_floating_point", "is_complex", "is_inference", "__len__",
)  # fmt: skip


class Calls(TorchFunctionMode):
    """Notes calls that turn tensors into anything else, whatever their names; and ``cpu``."""

    def __init__(self, reads: list[str]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", str(func))
        of_tensors = isinstance(result, (Tensor, tuple, type(None)))
        if name == "cpu" or not (of_tensors or name == "__get__" or name in SHAPES):
            self.reads.append(name)
        return result


class Operations(TorchDispatchMode):
    """Notes operations whose result the host has to know, or whose shape depends on values."""

    def __init__(self, reads: list[str]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        result, tags = func(*args, **kwargs), func.tags
        dynamic = torch.Tag.dynamic_output_shape in tags
        if dynamic and func.overloadpacket.__name__.startswith("index"):
            dynamic = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if dynamic or torch.Tag.data_dependent_output in tags or not _of_tensors(result):
            self.reads.append(func.overloadpacket.__name__)
        return result


def _of_tensors(result: Any) -> bool:
    return isinstance(result, (Tensor, tuple, list, type(None)))


@contextmanager
def watched() -> Iterator[list[str]]:
    """What was read within it, by the names of calls and operations."""
    reads: list[str] = []
    with Operations(reads), Calls(reads):
        yield reads


def loop_of(kind: str, policy: str, sampling: str, texts: int) -> RunningBatch:
    if kind == "none":
        target, drafter = random_target(), None
    elif kind == "eagle":
        target, drafter = random_target(), eagle_drafter()
    else:
        target, drafter = pair(kind)
    loop = RunningBatch(Engine(target, drafter, POLICIES[policy]), slots=texts)
    for text in range(texts):
        loop.add(random_inputs(text, text=7 + text, images=text % 2), SAMPLING[sampling], (2,))
    return loop


def watch_advance(loop: RunningBatch) -> list[str]:
    """From now on what is read while a cycle is handed to the device joins this list."""
    reads: list[str] = []
    advance = loop.cycles.advance

    def advance_watched(*args: Any) -> Any:
        with watched() as found:
            report = advance(*args)
        reads.extend(found)
        return report

    loop.cycles.advance = advance_watched  # type: ignore[method-assign]
    return reads


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("kind, policy", LOOPS)
def test_a_cycle_reads_nothing(kind: str, policy: str, sampling: str, texts: int) -> None:
    loop = loop_of(kind, policy, sampling, texts)
    reads = watch_advance(loop)
    for _ in range(4):
        assert len(loop.cycle()) == texts
        assert reads == []


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("texts", [1, 3])
def test_its_report_is_the_only_read(policy: str, texts: int) -> None:
    loop = loop_of("hivis", policy, "sampled", texts)
    loop.cycle()
    with watched() as reads:
        loop.cycle()
    assert reads == ["tolist"]


def test_a_policy_that_looks_at_the_growing_tree_is_seen() -> None:
    POLICIES["looks"] = CostPolicy(times=TIMES, ahead=False)
    try:
        loop = loop_of("hivis", "looks", "greedy", 1)
    finally:
        del POLICIES["looks"]
    reads = watch_advance(loop)
    loop.cycle()
    assert set(reads) == {"tolist"}


PLANTS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "bool": lambda x: bool((x > 0).all()),
    "if": lambda x: 1 if (x > 0).any() else 0,
    "int": lambda x: int(x.max()),
    "float": lambda x: float(x[0]),
    "index": lambda x: [0] * 9 if range(9)[x[0] : x[0] + 1] else 0,
    "in": lambda x: 3 in x,
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "str": lambda x: f"{x[0]}",
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "unique": lambda x: x.unique(),
    "repeats": lambda x: torch.repeat_interleave(x, x),
    "bincount": lambda x: torch.bincount(x),
    "slice": lambda x: torch.arange(9)[: x[0]],
    "arange": lambda x: torch.arange(x[0]),
    "for": lambda x: [int(v) for v in x],
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_read_is_seen(name: str) -> None:
    loop = loop_of("hivis", "fixed", "greedy", 1)
    loop.cycle()
    accept = loop.cycles.accept

    def peeking(*args: Any) -> Any:
        acceptance = accept(*args)
        PLANTS[name](acceptance.path_len)
        return acceptance

    reads = watch_advance(loop)
    loop.cycle()
    assert reads == []
    loop.cycles.accept = peeking
    loop.cycle()
    assert reads
