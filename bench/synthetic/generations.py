"""Whole outputs of a model with random weights, by transformers and by hivis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.progress import Progress

from bench.common.generation import HUGGING_FACE, generate_with_transformers
from bench.synthetic.accepted_lengths import mean_of
from bench.synthetic.cycles import DRAFTED, EAGER, PLAIN, Pair, modes
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.engine.results import SequenceProgress
from hivis.models import tree_attention as attention
from hivis.models.target import HuggingFaceTarget

STATIC = "HF, static cache"


@dataclass(frozen=True)
class SyntheticOutput:
    """A whole output.

    Attributes:
        first_token_ms: from the start to the first token.
        total_ms: from the start to the last token.
        accepted: the accepted length of every cycle.
        peak: bytes that the device's allocator had given out at most, weights included; ``None`` on
            a CPU.
    """

    tokens: int
    first_token_ms: float
    total_ms: float
    accepted: tuple[int, ...] = ()
    peak: int | None = None

    @property
    def ms_per_token(self) -> float:
        """Of the tokens after the first."""
        return (self.total_ms - self.first_token_ms) / max(1, self.tokens - 1)


def with_peak(pair: Pair, make: Callable[[], SyntheticOutput]) -> SyntheticOutput:
    """The output that ``make`` generates, with the peak of the device's memory."""
    pair.wait()
    if pair.device.type != "cuda":
        return make()
    torch.cuda.reset_peak_memory_stats(pair.device)
    return replace(make(), peak=torch.cuda.max_memory_allocated(pair.device))


def hivis_output(
    pair: Pair, kind: str, mode: str, inputs: Inputs, params: SamplingParams
) -> SyntheticOutput:
    """An output of hivis, generated as by :class:`hivis.engine.generate.Stream`."""
    progress = SequenceProgress(params, ())
    loop = pair.loop(kind, mode)
    progress.begin(loop.add(inputs, params, progress.ends))
    while not progress.finished:
        progress.check()
        (step,) = loop.cycle()
        progress.add(step)
    done = progress.result({}).statistics
    accepted = done.accepted_lengths if kind == DRAFTED else ()
    return SyntheticOutput(len(progress.tokens), done.first_token_ms, done.total_ms, accepted)


@contextmanager
def with_sdpa(target: HuggingFaceTarget) -> Iterator[None]:
    """The model with the attention that transformers gives it by default."""
    target.language_model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        target.language_model.set_attn_implementation(attention.NAME)


def transformers_output(
    pair: Pair, inputs: Inputs, params: SamplingParams, **extra: Any
) -> SyntheticOutput:
    """An output of transformers' ``generate``; ``extra`` goes into its ``GenerationConfig``."""
    target = pair.target
    more = target.family.token_features(target.model, inputs.tokens)
    with with_sdpa(target):
        prompt = Inputs(inputs.tokens, inputs.features | more)
        timed = generate_with_transformers(target.model, prompt, params, **extra)
    return SyntheticOutput(len(timed.tokens), timed.first_token_ms, timed.total_ms)


def measure_outputs(
    pair: Pair,
    inputs: Inputs,
    params: SamplingParams,
    repeat: int,
    hugging_face: bool,
    static: bool,
    bar: Progress,
) -> list[dict[str, Any]]:
    """Outputs by all methods in turn, in an order that rotates; the first of each is not counted.

    A method's times are medians; ``accepted_length`` (simulated) is the same in all its outputs.
    """
    methods: dict[tuple[str, str], Callable[[], SyntheticOutput]] = {}
    if hugging_face:
        methods[HUGGING_FACE, EAGER] = lambda: transformers_output(pair, inputs, params)
    if static:
        methods[STATIC, EAGER] = lambda: transformers_output(
            pair, inputs, params, cache_implementation="static"
        )
    for kind in (PLAIN, DRAFTED):
        for mode in modes(pair.device):
            methods[kind, mode] = partial(hivis_output, pair, kind, mode, inputs, params)
    names = list(methods)
    found: dict[tuple[str, str], list[SyntheticOutput]] = {name: [] for name in names}
    for turn in bar.track(range(repeat + 1), description="outputs"):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            output = with_peak(pair, methods[name])
            if turn:
                found[name].append(output)
    return [_row(name, mode, outputs) for (name, mode), outputs in found.items()]


def _row(name: str, mode: str, outputs: list[SyntheticOutput]) -> dict[str, Any]:
    return {
        "method": name,
        "mode": mode,
        "tokens": outputs[0].tokens,
        "first_token_ms": median(output.first_token_ms for output in outputs),
        "total_ms": median(output.total_ms for output in outputs),
        "ms_per_token": median(output.ms_per_token for output in outputs),
        "accepted_length": mean_of(outputs[-1].accepted) if name == DRAFTED else None,
        "peak_bytes": outputs[-1].peak,
    }
