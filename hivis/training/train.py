"""From conversations to a drafter: the target answers, and the drafter learns from its answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hivis.drafters.config import HiViSConfig, ViSpecConfig
from hivis.errors import HivisError
from hivis.models.drafter_sizes import read_sizes
from hivis.models.load import load_target
from hivis.models.trainable_draft import load_trainable_draft
from hivis.training.answer import collect, local_model
from hivis.training.bars import Bars
from hivis.training.data.capture import check_finished
from hivis.training.data.files import fingerprint
from hivis.training.data.samples import Capture
from hivis.training.learners.distill import DraftLearner
from hivis.training.learners.learner import Learner
from hivis.training.learners.losses import TargetTables
from hivis.training.learners.one_layer import LayerLearner, LayerSettings
from hivis.training.learners.vispec import ViSpecLearner
from hivis.training.options import CollectOptions, TrainOptions
from hivis.training.run_state import Checkpoint
from hivis.training.tables import read_tables
from hivis.training.trainer import TrainerSettings, run

RESIDUAL_ROWS = {"hivis": 3, "eagle": 0}
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
    folder = local_model(options.target)
    draft = None if options.draft is None else local_model(options.draft)
    learner, target = make_learner(options, folder, draft)
    sources = {"target": fingerprint(folder)}
    if isinstance(learner, DraftLearner) and learner.own_tower and draft is not None:
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
    with Bars(console) as show:
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
    sizes = read_sizes(folder)
    target = read_tables(folder, options.device, sizes.tied)
    torch.manual_seed(options.seed)
    chosen = {
        name: value
        for name in ("updates", "lr", "soft", "noise")
        if (value := getattr(options, name)) is not None
    }
    if options.method == "draft-vlm":
        assert draft is not None
        # In half precision: of the target only its tower and its vocabulary are looked at.
        model, processor = load_target(folder, torch.bfloat16, options.device)
        return DraftLearner(load_trainable_draft(draft, model, processor), target, **chosen), target
    settings = LayerSettings(**chosen)
    if options.method == "vispec":
        return ViSpecLearner(ViSpecConfig(**sizes.layer), target, settings), target
    residual = options.residual_rows
    config = HiViSConfig(
        **sizes.layer,
        **(sizes.hiding if options.method == "hivis" else {}),
        rows="all" if options.method == "eagle" else "text",
        residual_rows=RESIDUAL_ROWS[options.method] if residual is None else residual,
    )
    return LayerLearner(config, target, settings), target
