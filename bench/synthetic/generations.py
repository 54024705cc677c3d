"""Whole texts of a model with random weights, by Hugging Face and by hivis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.progress import SequenceProgress as Bar

from bench.headline.methods import HUGGING_FACE, hugging_face_method
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
    """A whole text: its times in ms, the accepted length of every cycle, and memory at its peak.

    ``peak`` is in bytes, those of the weights included; ``None`` on a CPU.
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


def watched(pair: Pair, make: Callable[[], SyntheticOutput]) -> SyntheticOutput:
    """The text, with what the device's allocator had given out at most."""
    pair.wait()
    if pair.device.type != "cuda":
        return make()
    torch.cuda.reset_peak_memory_stats(pair.device)
    return replace(make(), peak=torch.cuda.max_memory_allocated(pair.device))


def own_text(
    pair: Pair, kind: str, mode: str, inputs: Inputs, params: SamplingParams
) -> SyntheticOutput:
    """A text of hivis, as :class:`hivis.engine.generate.Stream` generates it."""
    text = SequenceProgress(params, ())
    loop = pair.loop(kind, mode)
    text.begin(loop.add(inputs, params, text.ends))
    while not text.finished:
        text.check()
        (step,) = loop.cycle()
        text.add(step)
    done = text.result({}).statistics
    accepted = done.accepted_lengths if kind == DRAFTED else ()
    return SyntheticOutput(len(text.tokens), done.first_token_ms, done.total_ms, accepted)


@contextmanager
def as_published(target: HuggingFaceTarget) -> Iterator[None]:
    """The model with the attention that transformers gives it."""
    target.language_model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        target.language_model.set_attn_implementation(attention.NAME)


def their_text(pair: Pair, inputs: Inputs, params: SamplingParams, **extra: Any) -> SyntheticOutput:
    """A text of Hugging Face ``generate``; ``extra`` is of its configuration."""
    target = pair.target
    more = target.family.token_features(target.model, inputs.tokens)
    with as_published(target):
        method = hugging_face_method(HUGGING_FACE, target.model, **extra)
        run = method.run(Inputs(inputs.tokens, inputs.features | more), params)
    return SyntheticOutput(len(run.tokens), run.first_token_ms, run.total_ms)


def measure_texts(
    pair: Pair,
    inputs: Inputs,
    params: SamplingParams,
    repeat: int,
    hugging_face: bool,
    static: bool,
    bar: Bar,
) -> list[dict[str, Any]]:
    """Texts of all methods in turn, in an order that rotates; one of each that does not count.

    Of every method the median time of each kind; ``accepted_length`` (simulated) is that of the
    last text, as all have the same.
    """
    methods: dict[tuple[str, str], Callable[[], SyntheticOutput]] = {}
    if hugging_face:
        methods[HUGGING_FACE, EAGER] = lambda: their_text(pair, inputs, params)
    if static:
        methods[STATIC, EAGER] = lambda: their_text(
            pair, inputs, params, cache_implementation="static"
        )
    for kind in (PLAIN, DRAFTED):
        for mode in modes(pair.device):
            methods[kind, mode] = partial(own_text, pair, kind, mode, inputs, params)
    names = list(methods)
    found: dict[tuple[str, str], list[SyntheticOutput]] = {name: [] for name in names}
    for turn in bar.track(range(repeat + 1), description="texts"):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            text = watched(pair, methods[name])
            if turn:
                found[name].append(text)
    return [_row(name, mode, texts) for (name, mode), texts in found.items()]


def _row(name: str, mode: str, texts: list[SyntheticOutput]) -> dict[str, Any]:
    return {
        "method": name,
        "mode": mode,
        "tokens": texts[0].tokens,
        "first_token_ms": median(text.first_token_ms for text in texts),
        "total_ms": median(text.total_ms for text in texts),
        "ms_per_token": median(text.ms_per_token for text in texts),
        "accepted_length": mean_of(texts[-1].accepted) if name == DRAFTED else None,
        "peak_bytes": texts[-1].peak,
    }
