"""From conversations to captured answers: loads the target, and lets it answer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from hivis.core.hub import resolve_model
from hivis.core.target import Inputs
from hivis.drafters.registry import method_of
from hivis.models.draft_model import load_draft_model
from hivis.models.families.registry import family_of
from hivis.models.load import load_model
from hivis.models.processor import PromptProcessor
from hivis.models.target import HuggingFaceTarget
from hivis.training.data.answers import Answerer
from hivis.training.data.capture import CaptureReport, CaptureSettings, write_capture
from hivis.training.data.conversations import Conversation, prompts_of, read_conversations
from hivis.training.data.files import fingerprint
from hivis.training.data.samples import Columns
from hivis.training.options import CollectOptions

#: Prompts in a file, or nearly: a whole number of batches.
SHARD = 128


def columns_of(methods: Iterable[str]) -> Columns:
    """The least columns that serve all of ``methods``, which are named."""
    return Columns.covering(Columns(**method_of(name).columns) for name in methods)


def collect(options: CollectOptions, columns: Columns) -> CaptureReport:
    """Capture into ``options.out``, or go on with the capture that was begun there.

    Raises:
        HivisError: target or data missing or not readable, or another capture in the folder.
    """
    left_out: list[str] = []
    conversations = read_conversations(
        options.data, options.images, turns=options.turns, count=options.count, left_out=left_out
    )
    prompts = prompts_of(conversations, options.turns)
    target = resolve_model(options.target)
    draft = None if options.draft is None else resolve_model(options.draft)
    answerer = load_answerer(options, target, draft)
    settings = CaptureSettings(
        columns=columns,
        sampled=options.sampled,
        max_new_tokens=options.max_new_tokens,
        batch=options.answer_batch,
        seed=options.seed,
        shard=-(-SHARD // options.answer_batch) * options.answer_batch,
    )
    sources = {"data": fingerprint(options.data), "target": fingerprint(target)}
    if answerer.look is not None and draft is not None:
        sources["look"] = fingerprint(draft)
    report = write_capture(options.out, answerer, prompts, settings, sources)
    console = Console()
    console.print(f"{report.samples} answers in {options.out}")
    if left_out:
        console.print(f"{len(left_out)} conversations without a question, the first: {left_out[0]}")
    if report.skipped:
        first = report.skipped[0]
        console.print(f"{len(report.skipped)} prompts skipped, the first: {first.why}")
    return report


def load_answerer(
    options: CollectOptions, folder: Path, draft_folder: Path | None
) -> Answerer[Conversation]:
    """The target; images are seen by the draft model's own vision tower, if it has one."""
    model = load_model(folder, getattr(torch, options.dtype), options.device)
    family = family_of(model.config.model_type)
    processor = PromptProcessor.load(folder, model)

    def prepare(prompt: Conversation) -> Inputs:
        return processor.conversation(prompt.turns, prompt.images)

    look = None
    if draft_folder is not None:
        target = HuggingFaceTarget(model, family)
        draft = load_draft_model(draft_folder, target, processor)
        if draft.rows == "all" and not draft.shares_vision:
            look = partial(draft.family.look, draft.model)
    return Answerer(model, family, prepare, lambda prompt: prompt.number, look)
