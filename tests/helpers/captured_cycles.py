"""Sequences made on a CPU as on a GPU: cycles captured, replayed and read late."""

from __future__ import annotations

from typing import Any

import pytest

from hivis.core.drafter import Drafter
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.engine.results import Generation
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from tests.helpers.captured_graphs import CpuCapturer
from tests.helpers.small_llava import random_inputs, random_target

TREE = FixedPolicy(12, 4, 3)
GREEDY = SamplingParams(max_new_tokens=24)
SAMPLING = {
    "greedy": GREEDY,
    "sampled": SamplingParams(temperature=0.8, top_k=20, seed=3, max_new_tokens=24),
    "penal": SamplingParams(temperature=1.0, repetition_penalty=1.3, seed=4, max_new_tokens=24),
}
PROMPTS = [random_inputs(seed, text=7 + seed, images=seed % 3) for seed in range(6)]
ROW_MULTIPLE = 64


class OnGpu:
    """Texts as they are made on a GPU: captured by ``capturer``, and read ``late`` cycles late."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.capturer: Any = CpuCapturer()
        self.late = 1
        patch.setattr("hivis.engine.cycle.capturer_for", lambda device, wanted: self.capturer)
        patch.setattr("hivis.engine.running_batch.cycles_in_flight", lambda device: self.late)


def roomy(target: HuggingFaceTarget, drafter: Drafter | None) -> None:
    """Let caches serve texts of several lengths."""
    for model in (target, drafter, getattr(drafter, "model", None)):
        if model is not None:
            model.row_multiple = ROW_MULTIPLE


def parts(made: Generation) -> tuple[Any, ...]:
    """All that must not depend on how a text was made."""
    s = made.statistics
    return (
        made.tokens,
        s.cycles,
        s.accepted_lengths,
        s.tree_sizes,
        s.prompt_rows,
        s.drafter_rows,
        s.trace,
    )


def plainly(target: HuggingFaceTarget, inputs: Any, params: SamplingParams) -> tuple[int, ...]:
    """The text of plain decoding on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hivis.engine.cycle.capturer_for", lambda device, wanted: None)
        patch.setattr("hivis.engine.running_batch.cycles_in_flight", lambda device: 0)
        return generate(Engine(target), inputs, params).tokens


def all_plainly(params: SamplingParams) -> list[tuple[int, ...]]:
    return [plainly(random_target(), inputs, params) for inputs in PROMPTS]
