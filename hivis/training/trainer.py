"""The training loop: runs the stages of any Learner, and resumes exactly where it was stopped.

The samples, noise and learning rate of an update depend only on the seed, the stage and the number
of the update. So a checkpoint is the weights, the optimizer's state and two numbers, and a run that
was killed and resumed ends with the same weights as one that was not.
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

#: Trees with which held-out answers are replayed: a chain of five, and a small tree.
REPLAY_TREES = (TreeShape(6, 5, 1), TreeShape(16, 5, 4))
#: The tree for the replays within a stage.
_CHECK_TREE = REPLAY_TREES[1]
NAMES = ("feature", "soft", "top", "hit", "first")
#: Updates between two reports of the losses; each reads about twenty numbers from the device.
REPORT_EVERY = 10


@dataclass(frozen=True)
class TrainerSettings:
    """The settings of all stages.

    Attributes:
        batch: samples per update.
        held_out: samples that are not trained on, at most a fifth of all.
        warmup: updates at the start of each stage over which the learning rate rises.
        clip: the largest norm of the gradient.
        bf16: whether to autocast to bfloat16; weights and optimizer state stay in float32.
        checks: how often a stage replays some held-out answers.
        checked: how many answers it replays.
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
    """The progress of a stage, for a progress bar.

    Attributes:
        stage: the name of the stage.
        total: its updates.
        updates: its finished updates.
        losses: for each pass, the means over the rows that count.
        accepted: accepted length on some held-out answers, at the last replay.
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
    """Run all stages that are not finished; returns the description of the run and its metrics.

    Every finished stage writes its drafter into ``checkpoint``'s folder.

    Args:
        recipe: further inputs that the result depends on, as JSON; a run is resumed only with the
            same recipe.
        report: called after every update.

    Raises:
        HivisError: there are too few answers, the checkpoint is of another run, or a gradient is
            not finite.
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
    held_out_samples = [capture[i] for i in held_out]
    while progress.stage < len(stages):
        stage = stages[progress.stage]
        _run_stage(
            learner,
            target,
            capture,
            training,
            held_out_samples,
            stage,
            settings,
            checkpoint,
            progress,
            report,
        )
        drafter = learner.drafter()
        progress.metrics[stage.name] = {
            "updates": stage.updates,
            "held_out_passes": measure(
                learner, held_out_samples, replace(stages[-1], noise=0.0), settings
            ),
            "accepted_length": {
                f"{shape.nodes}/{shape.depth}/{shape.top_k}": mean_accepted_length(
                    drafter, target.embedding, held_out_samples, shape
                )
                for shape in REPLAY_TREES
            },
        }
        checkpoint.finish_stage(learner, progress, last=progress.stage + 1 == len(stages))
    return description | {"metrics": progress.metrics}


def _run_stage(
    learner: Learner,
    target: TargetTables,
    capture: Capture,
    training: Sequence[int],
    held_out: Sequence[Sample],
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
    replayed = [sample for sample in held_out if sample.greedy][: settings.checked]
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
                "last checkpoint is kept. A lower --lr may help"
            )
        optimizer.step()
        progress.update = state.updates = update + 1
        if update % REPORT_EVERY == 0 or state.updates == stage.updates:
            state.losses = [_means(x, keep) for x, keep in passes]
        if state.updates % check_every == 0 and replayed:
            drafter = learner.drafter()
            state.accepted = mean_accepted_length(drafter, target.embedding, replayed, _CHECK_TREE)
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
    """The remaining batches of the stage; each is made during the update before."""
    lengths = [capture.lengths[i] for i in training]
    stage_index = progress.stage
    order: dict[int, list[list[int]]] = {}

    def make(update: int) -> Any:
        per_epoch = -(-len(lengths) // settings.batch)
        epoch, index = divmod(update, per_epoch)
        if epoch not in order:
            order.clear()
            order[epoch] = batch_order(
                lengths, settings.batch, _seed(settings.seed, stage_index, ~epoch)
            )
        chosen = [capture[training[i]] for i in order[epoch][index]]
        return learner.batch(chosen, stage)

    with ThreadPoolExecutor(1) as executor:
        next_batch = executor.submit(make, progress.update)
        for update in range(progress.update, stage.updates):
            batch = next_batch.result()
            if update + 1 < stage.updates:
                next_batch = executor.submit(make, update + 1)
            yield batch


def _seed(*parts: int) -> int:
    """A seed for torch and random from several numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def learning_rate(stage: Stage, warmup: int, update: int) -> float:
    """Linear warm-up, then a cosine to zero over the stage."""
    warm = min(1.0, (update + 1) / warmup)
    return stage.lr * warm * 0.5 * (1 + math.cos(math.pi * update / stage.updates))


@torch.no_grad()
def _means(losses: RowLosses, keep: Tensor) -> dict[str, float]:
    return {name: float(masked_mean(getattr(losses, name).float(), keep)) for name in NAMES}


@torch.no_grad()
def measure(
    learner: Learner, samples: Sequence[Sample], stage: Stage, settings: TrainerSettings
) -> list[dict[str, float]]:
    """For each pass of ``stage``, means over all answer rows of ``samples`` (no row selection)."""
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
