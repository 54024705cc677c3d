"""From conversations to a drafter: the target answers, and the drafter learns from its answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hivis.core.hub import resolve_model
from hivis.drafters.registry import call, method_of
from hivis.errors import HivisError
from hivis.models.drafter_sizes import read_sizes
from hivis.training.answer import collect
from hivis.training.data.capture import check_finished
from hivis.training.data.files import fingerprint
from hivis.training.data.samples import Capture
from hivis.training.learners.learner import Learner, LearnerRequest
from hivis.training.learners.losses import TargetTables
from hivis.training.options import CollectOptions, TrainOptions
from hivis.training.progress_bars import ProgressBars
from hivis.training.run_state import Checkpoint
from hivis.training.target_tables import read_target_tables
from hivis.training.trainer import TrainerSettings, run

#: Where in a run's folder the target's answers go.
ANSWERS = "answers"


def train(options: TrainOptions, answers: CollectOptions | None = None) -> dict[str, Any]:
    """Train a drafter; returns and prints its metrics.

    Args:
        answers: how the target answers, where ``options.data`` is not a capture already.

    Raises:
        HivisError: target, data or draft model missing or not fitting together, or a folder that
            holds something else.
    """
    console = Console()
    _check_data(options)
    checkpoint = Checkpoint(options.out, options.resume)
    folder = resolve_model(options.target)
    draft = None if options.draft is None else resolve_model(options.draft)
    learner, target = make_learner(options, folder, draft)
    sources = {"target": fingerprint(folder)}
    if draft is not None and getattr(learner, "own_tower", False):
        sources["look"] = fingerprint(draft)
    captured = options.data
    if not captured.is_dir():
        captured = options.out / ANSWERS
        collect(
            replace(
                answers or CollectOptions(options.target, options.data, captured), out=captured
            ),
            learner.columns,
        )
    check_finished(captured, sources)
    capture = Capture(captured, learner.columns)
    recipe = {"method": options.method, "sources": sources}
    if draft is not None:
        recipe["draft"] = fingerprint(draft)
    settings = TrainerSettings(
        batch=options.batch, seed=options.seed, held_out=options.held_out, bf16=not options.fp32
    )
    with ProgressBars(console) as show:
        made = run(learner, target, capture, settings, recipe, checkpoint, show)
    for stage, metrics in made["metrics"].items():
        for tree, length in metrics["accepted_length"].items():
            if length is not None:
                nodes, depth, top_k = tree.split("/")
                shape = f"trees of {nodes} nodes, depth {depth}, top-k {top_k}"
                console.print(f"{stage}: accepted length {length:.2f} ({shape})", soft_wrap=True)
    if length is None:
        console.print("accepted length: unknown, as none of the answers held out is greedy")
    return made


def _check_data(options: TrainOptions) -> None:
    if not options.data.exists():
        raise HivisError(f"--data: wanted a file or a folder of answers, got {options.data}")
    folder = options.out / ANSWERS
    if folder.exists() and not options.resume and not options.data.is_dir():
        raise HivisError(f"--out {options.out}: wanted no {ANSWERS} in it, or --resume, got some")


def make_learner(
    options: TrainOptions, folder: Path, draft: Path | None
) -> tuple[Learner, TargetTables]:
    """The method's learner with fresh weights, which the seed alone decides, and its target."""
    method = method_of(options.method)
    if method.learner is None:
        raise HivisError(f"--method: wanted one that is trained, got {method.name}")
    sizes = read_sizes(folder)
    target = read_target_tables(folder, options.device, sizes.tied)
    torch.manual_seed(options.seed)
    request = LearnerRequest(options, sizes, target, folder, draft)
    return call(method.learner, request), target
