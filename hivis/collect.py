"""From conversations to captured answers: loads the target, and lets it answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from hivis.targets.base import Inputs
from hivis.targets.load import PromptProcessor, family_of, load_model
from hivis.training.answers import Answerer
from hivis.training.capture import CaptureSettings, Report, write_capture
from hivis.training.capture_settings import fingerprint
from hivis.training.conversations import Conversation, asked, read_conversations
from hivis.training.samples import Columns

#: What each method needs of a capture.
COLUMNS = {
    "hivis": Columns("text"),
    "vispec": Columns("edges", pictures=True),
    "eagle": Columns("all", pictures=True),
    "draft-vlm": Columns("text", seen=True),
}
#: Prompts in a file, or nearly: a whole number of batches.
SHARD = 512


@dataclass(frozen=True)
class CollectOptions:
    """What the command line chooses; see ``python -m hivis capture --help``."""

    target: str
    data: Path
    out: Path
    images: Path | None = None
    count: int | None = None
    turns: int = 1
    sampled: float = 0.5
    max_new_tokens: int = 512
    answer_batch: int = 16
    dtype: str = "bfloat16"
    device: str = "cpu"
    seed: int = 0


def columns_of(methods: Iterable[str]) -> Columns:
    """The least columns that serve all of ``methods``."""
    needed = [COLUMNS[method] for method in methods]
    hidden = next(
        each.hidden
        for each in (COLUMNS["eagle"], COLUMNS["vispec"], COLUMNS["hivis"])
        if any(one.hidden == each.hidden for one in needed)
    )
    return Columns(hidden, any(one.pictures for one in needed), any(one.seen for one in needed))


def collect(options: CollectOptions, columns: Columns) -> Report:
    """Capture into ``options.out``, or go on with the capture that was begun there.

    Raises:
        HivisError: target or data missing or not readable, or another capture in the folder.
    """
    left_out: list[str] = []
    conversations = read_conversations(
        options.data, options.images, turns=options.turns, count=options.count, left_out=left_out
    )
    prompts = asked(conversations, options.turns)
    model = load_model(options.target, getattr(torch, options.dtype), options.device)
    processor = PromptProcessor.load(options.target, model)

    def prepare(prompt: Conversation) -> Inputs:
        return processor.conversation(prompt.turns, prompt.pictures)

    settings = CaptureSettings(
        columns=columns, sampled=options.sampled, max_new_tokens=options.max_new_tokens,
        batch=options.answer_batch, seed=options.seed,
        shard=-(-SHARD // options.answer_batch) * options.answer_batch,
    )  # fmt: skip
    sources = {"data": fingerprint(options.data), "target": fingerprint(options.target)}
    answerer = Answerer(model, family_of(model.config.model_type), prepare)
    report = write_capture(options.out, answerer, prompts, settings, sources)
    console = Console()
    console.print(f"{report.samples} answers in {options.out}")
    if left_out:
        console.print(f"{len(left_out)} conversations without a question, the first: {left_out[0]}")
    if report.skipped:
        first = report.skipped[0]
        console.print(f"{len(report.skipped)} prompts skipped, the first: {first.why}")
    return report
