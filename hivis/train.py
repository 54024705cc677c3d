"""From conversations to a drafter: the target answers, and the drafter learns from its answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hivis.collect import COLUMNS, CollectOptions, collect
from hivis.drafters.config import HiViSConfig, ViSpecConfig
from hivis.errors import HivisError
from hivis.training.capture_settings import fingerprint
from hivis.training.layer_learner import LayerLearner, LayerSettings
from hivis.training.learner import Learner
from hivis.training.loop import LoopSettings, Report, run
from hivis.training.losses import Target
from hivis.training.samples import Capture
from hivis.training.state import Checkpoint
from hivis.training.tables import family_defaults, layer_sizes, read_tables
from hivis.training.vispec_learner import ViSpecLearner

RESIDUAL_ROWS = {"hivis": 3, "eagle": 0}
#: Where in a run's folder the target's answers go.
ANSWERS = "answers"
LINE_SECONDS = 60.0


@dataclass(frozen=True)
class TrainOptions:
    """What the command line chooses; see ``python -m hivis train --help``."""

    method: str
    target: str
    data: Path
    out: Path
    resume: bool = False
    device: str = "cpu"
    seed: int = 0
    draft: Path | None = None
    updates: int = 4000
    batch: int = 16
    lr: float | None = None
    soft: float = 0.1
    noise: float = 0.1
    residual_rows: int | None = None
    held_out: int = 64
    fp32: bool = False


def train(options: TrainOptions, answers: CollectOptions | None = None) -> dict[str, Any]:
    """Train a drafter; returns and prints its metrics.

    Args:
        answers: how the target answers, where ``options.data`` is not a capture already.

    Raises:
        HivisError: target, data or draft model missing or not fitting together, or a folder that
            holds another run.
    """
    console = Console()
    recipe = {
        name: value
        for name, value in asdict(options).items()
        if name in ("method", "lr", "soft", "noise", "residual_rows", "fp32")
    }
    if options.draft is not None:
        recipe["draft"] = fingerprint(options.draft)
    checkpoint = Checkpoint(options.out, recipe, options.resume)
    folder = _local(options.target)
    target = read_tables(folder, options.device)
    capture = Capture(_captured(options, answers), COLUMNS[options.method])
    if capture.hidden_size != target.head.shape[1]:
        raise HivisError(
            f"captured data: wanted hidden states of the target's size, {target.head.shape[1]}, "
            f"got {capture.hidden_size}"
        )
    settings = LoopSettings(
        batch=options.batch, seed=options.seed, held_out=options.held_out, bf16=not options.fp32
    )
    learner = make_learner(options, folder, target)
    with _Bars(console) as show:
        made = run(learner, target, capture, settings, checkpoint, show)
    for stage, metrics in made["metrics"].items():
        for tree, length in metrics["accepted_length"].items():
            console.print(f"{stage}: accepted length {length:.2f} (tree {tree}, greedy, held out)")
    return made


def _local(target: str) -> Path:
    """The folder of a target that is given by folder or by hub name."""
    if Path(target).is_dir():
        return Path(target)
    try:
        return Path(snapshot_download(target, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub and its transport raise kinds of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HivisError(f"target {target}: wanted a folder or a hub name, got: {reason}") from None


def _captured(options: TrainOptions, answers: CollectOptions | None) -> Path:
    """The folder of captured answers; those to conversations are captured now."""
    if options.data.is_dir():
        return options.data
    if not options.data.exists():
        raise HivisError(f"--data: wanted a file or a folder of answers, got {options.data}")
    folder = options.out / ANSWERS
    if folder.exists() and not options.resume:
        raise HivisError(f"--out {options.out}: wanted no {ANSWERS} in it, or --resume, got some")
    collect(
        replace(answers or CollectOptions(options.target, options.data, folder), out=folder),
        COLUMNS[options.method],
    )
    return folder


def make_learner(options: TrainOptions, folder: Path, target: Target) -> Learner:
    """The method's learner with fresh weights, which the seed alone decides."""
    torch.manual_seed(options.seed)
    if options.method == "draft-vlm":
        return _draft_learner(options, folder, target)
    settings = LayerSettings(updates=options.updates, soft=options.soft, noise=options.noise)
    if options.lr is not None:
        settings = LayerSettings(**(asdict(settings) | {"lr": options.lr}))
    sizes = layer_sizes(folder) | family_defaults(folder, options.method)
    if options.method == "vispec":
        return ViSpecLearner(ViSpecConfig(**sizes), target, settings)
    residual = options.residual_rows
    config = HiViSConfig(
        **sizes,
        rows="all" if options.method == "eagle" else "text",
        residual_rows=RESIDUAL_ROWS[options.method] if residual is None else residual,
    )
    return LayerLearner(config, target, settings)


def _draft_learner(options: TrainOptions, folder: Path, target: Target) -> Learner:
    from hivis.targets.load import load_target
    from hivis.targets.trainable_draft import load_trainable_draft
    from hivis.training.distill import DraftLearner

    assert options.draft is not None
    model, processor = load_target(folder, torch.float32, options.device)
    draft = load_trainable_draft(options.draft, model, processor)
    if options.lr is None:
        return DraftLearner(draft, target, updates=options.updates)
    return DraftLearner(draft, target, updates=options.updates, lr=options.lr)


class _Bars:
    """A bar for each stage, with losses and accepted length; where there is no terminal, lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.fields[stage]}"), BarColumn(8), MofNCompleteColumn(),
            TimeRemainingColumn(compact=True), TextColumn("{task.description}"), console=console,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}
        self._said = time.monotonic()

    def __enter__(self) -> Callable[[Report], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, now: Report) -> None:
        text = _described(now)
        if now.stage not in self._tasks:
            self._tasks[now.stage] = self._progress.add_task("", total=now.total, stage=now.stage)
        self._progress.update(self._tasks[now.stage], completed=now.updates, description=text)
        last = now.updates == now.total
        if not self._console.is_terminal and (last or time.monotonic() - self._said > LINE_SECONDS):
            self._console.print(f"{now.stage} {now.updates}/{now.total} {text}", soft_wrap=True)
            self._said = time.monotonic()


def _described(now: Report) -> str:
    """Losses of the first pass, top-1 of every pass, accepted length: short, for 80 columns."""
    if not now.losses:
        return ""
    first = " ".join(f"{one['first']:.2f}" for one in now.losses)
    text = f"feature {now.losses[0]['feature']:.2f} ce {now.losses[0]['soft']:.2f} top-1 {first}"
    return text if now.accepted is None else f"{text} accepted {now.accepted:.2f}"
