"""The training loop: runs the stages of any Learner, and goes on exactly where it was stopped.

What an update does depends on the seed, the stage and its number alone: which samples it sees, the
noise on them, the learning rate. So a checkpoint is the weights, the optimizer's state and two
numbers, and a run that was killed and resumed ends in the very weights of one that was not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hivis.core.tree_shape import TreeShape
from hivis.errors import HivisError
from hivis.training.data.files import fingerprint
from hivis.training.data.samples import Capture, Sample, batch_order, split
from hivis.training.learners.learner import Learner, Stage
from hivis.training.learners.losses import RowLosses, TargetTables, masked_mean
from hivis.training.replay import mean_accepted_length
from hivis.training.run_state import Checkpoint, RunProgress

#: Trees that held-out answers are replayed with: a chain of five, and a small tree.
MEASURED = (TreeShape(6, 5, 1), TreeShape(16, 5, 4))
_QUICK = MEASURED[1]
NAMES = ("feature", "soft", "top", "hit", "first")
#: Updates between two reports of the losses, each of which reads some twenty numbers.
REPORT_EVERY = 10


@dataclass(frozen=True)
class TrainerSettings:
    """How all stages run.

    Attributes:
        held_out: samples that are never trained on (at most a fifth of all).
        warmup: updates over which the learning rate rises, in every stage.
        clip: largest norm of the gradient.
        bf16: autocast; the weights and the optimizer's state stay in float32.
        checks: how often in a stage a few held-out answers are replayed.
        checked: how many.
    """

    batch: int = 16
    seed: int = 0
    held_out: int = 64
    warmup: int = 50
    clip: float = 1.0
    bf16: bool = True
    checks: int = 4
    checked: int = 6


@dataclass
class StageProgress:
    """Where a run is, for a progress bar.

    Attributes:
        stage: its name; ``updates`` of ``total`` are done.
        losses: per pass, the means over the rows that count.
        accepted: accepted length on a few held-out answers, when last looked at.
    """

    stage: str
    total: int
    updates: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    accepted: float | None = None


def run(
    learner: Learner,
    target: TargetTables,
    capture: Capture,
    settings: TrainerSettings,
    recipe: dict[str, Any],
    checkpoint: Checkpoint,
    report: Callable[[StageProgress], None] = lambda _: None,
) -> dict[str, Any]:
    """Train through all stages that are not done yet; returns the metrics of each.

    Every finished stage leaves its drafter in ``checkpoint``'s folder.

    Args:
        recipe: what else decides what comes out, as JSON: a run is only resumed with the same.

    Raises:
        HivisError: too few answers, a checkpoint of another run, or a loss that is not finite.
    """
    stages = list(learner.stages())
    training, held_out = split(capture.conversations, settings.held_out, settings.seed)
    if not held_out:
        raise HivisError(
            "captured data: wanted at least 5 times as many answers as a conversation has, so that "
            f"one conversation can be held out, got {len(capture)}"
        )
    description = {
        "recipe": recipe,
        "settings": asdict(settings),
        "stages": [asdict(stage) for stage in stages],
        "drafter": learner.description(),
        "samples": len(training),
        "held_out": len(held_out),
        "data": fingerprint(capture.directory, pieces=4),
    }
    progress = checkpoint.open(description, learner.module)
    unseen = [capture[i] for i in held_out]
    while progress.stage < len(stages):
        stage = stages[progress.stage]
        _run_stage(
            learner,
            target,
            capture,
            training,
            unseen,
            stage,
            settings,
            checkpoint,
            progress,
            report,
        )
        drafter = learner.drafter()
        progress.metrics[stage.name] = {
            "updates": stage.updates,
            "held_out_passes": measure(learner, unseen, replace(stages[-1], noise=0.0), settings),
            "accepted_length": {
                f"{shape.nodes}/{shape.depth}/{shape.top_k}": mean_accepted_length(
                    drafter, target.embedding, unseen, shape
                )
                for shape in MEASURED
            },
        }
        checkpoint.finish_stage(learner, progress, last=progress.stage + 1 == len(stages))
    return description | {"metrics": progress.metrics}


def _run_stage(
    learner: Learner,
    target: TargetTables,
    capture: Capture,
    training: Sequence[int],
    unseen: Sequence[Sample],
    stage: Stage,
    settings: TrainerSettings,
    checkpoint: Checkpoint,
    progress: RunProgress,
    report: Callable[[StageProgress], None],
) -> None:
    parameters = [p for p in learner.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.95), weight_decay=0.01)
    if progress.optimizer is not None:
        optimizer.load_state_dict(progress.optimizer)
    state = StageProgress(stage.name, stage.updates, progress.update)
    few = [sample for sample in unseen if sample.greedy][: settings.checked]
    check_every = max(1, stage.updates // max(1, settings.checks))
    learner.module.train()
    device = target.head.device
    for batch in _batches(learner, capture, training, stage, settings, progress):
        update = progress.update
        torch.manual_seed(_seed(settings.seed, progress.stage, update))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage, settings.warmup, update)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            passes = learner.losses(batch, stage)
        loss = torch.stack([x.total(stage.weights, keep) for x, keep in passes]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        if not bool(torch.isfinite(norm)):
            raise HivisError(
                f"{stage.name}, update {update}: wanted a finite gradient, got {float(norm)}; the "
                "last checkpoint stands. A lower --lr may help"
            )
        optimizer.step()
        progress.update = state.updates = update + 1
        if update % REPORT_EVERY == 0 or state.updates == stage.updates:
            state.losses = [_brief(x, keep) for x, keep in passes]
        if state.updates % check_every == 0 and few:
            drafter = learner.drafter()
            state.accepted = mean_accepted_length(drafter, target.embedding, few, _QUICK)
            learner.module.train()
        report(state)
        checkpoint.save_if_due(learner.module, optimizer, progress)


def _batches(
    learner: Learner,
    capture: Capture,
    training: Sequence[int],
    stage: Stage,
    settings: TrainerSettings,
    progress: RunProgress,
) -> Iterator[Any]:
    """The rest of the stage's batches, each made while the one before is trained on."""
    lengths = [capture.lengths[i] for i in training]
    of_stage = progress.stage
    order: dict[int, list[list[int]]] = {}

    def make(update: int) -> Any:
        per_epoch = -(-len(lengths) // settings.batch)
        epoch, place = divmod(update, per_epoch)
        if epoch not in order:
            order.clear()
            order[epoch] = batch_order(
                lengths, settings.batch, _seed(settings.seed, of_stage, ~epoch)
            )
        chosen = [capture[training[i]] for i in order[epoch][place]]
        return learner.batch(chosen, stage)

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(make, progress.update)
        for update in range(progress.update, stage.updates):
            batch = coming.result()
            if update + 1 < stage.updates:
                coming = ahead.submit(make, update + 1)
            yield batch


def _seed(*parts: int) -> int:
    """A seed for torch and random from some numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def learning_rate(stage: Stage, warmup: int, update: int) -> float:
    """Linear warm-up, then a cosine to zero over the stage."""
    warm = min(1.0, (update + 1) / warmup)
    return stage.lr * warm * 0.5 * (1 + math.cos(math.pi * update / stage.updates))


@torch.no_grad()
def _brief(losses: RowLosses, keep: Tensor) -> dict[str, float]:
    return {name: float(masked_mean(getattr(losses, name).float(), keep)) for name in NAMES}


@torch.no_grad()
def measure(
    learner: Learner, samples: Sequence[Sample], stage: Stage, settings: TrainerSettings
) -> list[dict[str, float]]:
    """Means over all answer rows of ``samples`` (no row selection), for each pass of ``stage``."""
    learner.module.eval()
    sums: list[dict[str, float]] = []
    rows = 0
    for start in range(0, len(samples), settings.batch):
        batch = learner.batch(samples[start : start + settings.batch], stage)
        for i, (losses, keep) in enumerate(learner.losses(batch, stage)):
            if i == len(sums):
                sums.append(dict.fromkeys(NAMES, 0.0))
            rows += len(keep) if i == 0 else 0
            for name in NAMES:
                sums[i][name] += float(getattr(losses, name).float().sum())
    return [{name: total / max(rows, 1) for name, total in one.items()} for one in sums]
