"""Decoding loops of a model with random weights, and the times of their cycles."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from rich.progress import Progress

from bench.synthetic.accepted_lengths import mean_of
from bench.synthetic.simulated_acceptance import FixedTree, Replay
from hivis.core.clock import PhaseClock
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.engine.engine import Engine
from hivis.engine.running_batch import RunningBatch
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy

PLAIN, DRAFTED = "plain", "drafted"
EAGER, GRAPH = "eager", "graph"
MODES = (EAGER, GRAPH)


@dataclass(frozen=True)
class Pair:
    """A target and its drafter with the fixed tree and the accepted lengths of their loops."""

    target: HuggingFaceTarget
    drafter: OneLayerDrafter
    tree: FixedTree
    replay: Replay

    @property
    def device(self) -> torch.device:
        return self.target.device

    def loop(self, kind: str, mode: str) -> RunningBatch:
        """A new loop; a drafted one begins with the first of the accepted lengths."""
        drafted = kind == DRAFTED
        drafter = self.drafter if drafted else None
        policy = FixedPolicy(**asdict(self.tree.shape))
        loop = RunningBatch(Engine(self.target, drafter, policy, graphs=mode == GRAPH))
        if drafted:
            self.replay.restart()
            loop.cycles.accept = self.replay.accept
        return loop

    def park(self) -> None:
        """Keep the next prefill from reusing the slabs of the sequence before."""
        self.target.cache = self.target.cache.for_sequences(0, 0)
        if hasattr(self.drafter, "_cache"):
            self.drafter.cache = self.drafter.cache.for_sequences(0, 0)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def modes(device: torch.device) -> list[str]:
    """The modes that loops can run in on this device."""
    return [mode for mode in MODES if mode == EAGER or device.type == "cuda"]


class RewindableLoop:
    """A loop in the middle of a sequence, which returns to the same state before every round.

    A plain and a drafted loop may share a target: each puts its caches in place before it runs.
    """

    def __init__(self, pair: Pair, kind: str, mode: str, inputs: Inputs, params: SamplingParams):
        pair.park()
        self.pair = pair
        self.loop = pair.loop(kind, mode)
        self.loop.add(inputs, params, ())
        models: list[Any] = [pair.target] + ([pair.drafter] if kind == DRAFTED else [])
        self._places = [(model, model.cache, model.cache.kv_len.clone()) for model in models]

    @torch.inference_mode()
    def rewind(self) -> None:
        for model, cache, lengths in self._places:
            model.cache = cache
            cache.kv_len.copy_(lengths)

    def round(self, cycles: int) -> tuple[float, dict[str, float], list[int]]:
        """Milliseconds per cycle, the same by phase, and the accepted lengths."""
        self.rewind()
        self.loop.cycles.clock = PhaseClock(self.pair.device)
        accepted = []
        self.pair.wait()
        start = time.perf_counter()
        for _ in range(cycles):
            (step,) = self.loop.cycle()
            accepted.append(step.outcome.emitted - 1)
        self.pair.wait()
        spent = (time.perf_counter() - start) * 1e3 / cycles
        phases = {name: ms / cycles for name, ms in self.loop.clock.totals().items()}
        return spent, phases, accepted


@dataclass(frozen=True)
class CycleTimes:
    """Times of a cycle, medians over rounds in ms, and the mean accepted length."""

    ms: float
    phases_ms: Mapping[str, float]
    accepted_length: float


def measure_cycles(
    loops: Mapping[str, RewindableLoop], cycles: int, rounds: int, bar: Progress
) -> dict[str, CycleTimes]:
    """Rounds of all loops in turn, in a new random order each time; the first is not counted."""
    order, names = random.Random(0), list(loops)
    found: dict[str, list[Any]] = {name: [] for name in names}
    for turn in bar.track(range(rounds + 1), description="cycles"):
        order.shuffle(names)
        for name in names:
            done = loops[name].round(cycles)
            if turn:
                found[name].append(done)
    return {name: _typical(done) for name, done in found.items()}


def _typical(rounds: Sequence[tuple[float, dict[str, float], list[int]]]) -> CycleTimes:
    names = dict.fromkeys(name for _, part, _ in rounds for name in part)
    phases = {name: median(part.get(name, 0.0) for _, part, _ in rounds) for name in names}
    accepted = [length for _, _, lengths in rounds for length in lengths]
    return CycleTimes(median(ms for ms, _, _ in rounds), phases, mean_of(accepted))
