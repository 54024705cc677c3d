"""A text that ends anywhere in an error or in Ctrl-C leaves target and drafter as good as new."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hivis.core.clock import PhaseClock
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.engine.results import Generation
from hivis.policies.cost import default_policy
from hivis.policies.fixed import FixedPolicy
from tests.helpers.small_drafters import KINDS, pair
from tests.helpers.small_llava import random_inputs

PHASES = ("prefill", "draft", "verify", "accept", "compact", "commit", "read")
PROMPT = random_inputs(1, text=11, images=1)
OTHER = random_inputs(2, text=17, images=2)
PARAMS = SamplingParams(max_new_tokens=14, temperature=1.0, seed=5)
LONG = SamplingParams(max_new_tokens=120, temperature=1.0, seed=5)


class Watch(TorchDispatchMode):
    """Counts the operations of torch by phase; raises ``error`` in place of number ``at``."""

    def __init__(
        self, phase: str = "", at: int = -1, error: type[BaseException] = KeyboardInterrupt
    ) -> None:
        super().__init__()
        self.stop, self.error = (phase, at), error
        self.phase = ""
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if (self.phase, self.seen[self.phase]) == self.stop:
            raise self.error("stopped here")
        self.seen[self.phase] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def watched_phases(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Watch]]:
    """Tells the watch in this list in which phase the text is."""
    current: list[Watch] = []

    phase = PhaseClock.phase

    @contextmanager
    def told(clock: PhaseClock, name: str) -> Iterator[None]:
        for watch in current:
            watch.phase = name
        with phase(clock, name):
            yield
        for watch in current:
            watch.phase = "between"

    monkeypatch.setattr(PhaseClock, "phase", told)
    yield current


def text(target, drafter, policy: Policy, inputs=PROMPT, params=PARAMS) -> Generation:
    return generate(Engine(target, drafter, policy), inputs, params)


def stopped(target, drafter, policy: Policy, watch: Watch, watched: list[Watch], **how) -> None:
    watched[:] = [watch]
    with pytest.raises(watch.error, match="stopped here"), watch:
        text(target, drafter, policy, OTHER, **how)


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_in_each_phase(kind: str, error: type[BaseException], watched_phases: list[Watch]):
    """At the first and last operation of each and at some between; the prefill is the longest."""
    target, drafter = pair(kind)
    policy = FixedPolicy(12, 4, 3)
    wanted = text(target, None, policy).tokens
    for inputs in (OTHER, PROMPT):  # what is done once has been done
        text(target, drafter, policy, inputs)
    with Watch() as watch:
        watched_phases.append(watch)
        assert text(target, drafter, policy, OTHER).tokens
    for phase in PHASES:
        count, parts = watch.seen[phase], 8 if phase == "prefill" else 2
        assert count
        for at in {(count - 1) * part // parts for part in range(parts + 1)}:
            stopped(target, drafter, policy, Watch(phase, at, error), watched_phases)
            assert text(target, drafter, policy).tokens == wanted, (phase, at)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_measures_is_stopped(kind: str, watched_phases: list[Watch]):
    """The cost model times the pair in the first texts; what it has learned by then stays good."""
    target, drafter = pair(kind)
    wanted = text(target, None, FixedPolicy()).tokens
    for at in (0, 50, 500):
        policy = default_policy()
        watch = Watch("measure", at)
        stopped(target, drafter, policy, watch, watched_phases, params=LONG)
        assert text(target, drafter, policy).tokens == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_at_any_time(kind: str):
    """Between any two steps of Python, as Ctrl-C comes."""
    target, drafter = pair(kind)
    policy = FixedPolicy(12, 4, 3)
    wanted = text(target, None, policy).tokens
    begun = time.perf_counter()
    text(target, drafter, policy, OTHER)
    took = time.perf_counter() - begun
    stopped = 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for part in range(1, 16):
            signal.setitimer(signal.ITIMER_REAL, took * part / 16)
            try:
                text(target, drafter, policy, OTHER)
                time.sleep(took)  # a text that was quicker than the first
            except KeyboardInterrupt:
                stopped += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert text(target, drafter, policy).tokens == wanted
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stopped >= 10
