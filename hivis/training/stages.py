"""The two training stages (HiViS, arXiv 2509.23928; self-feedback after HASS, arXiv 2408.15766).

Stage 1 is teacher-forced: every row gets the target's hidden state and predicts the next one.
Stage 2 lets the drafter feed on itself for three steps, as it does in a tree: step s reads its own
output of step s - 1, one row back. Fed-back features are detached, so that each step learns to
work with what it gets; later steps train only on rows that drafting is likely to reach.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from hivis.training.data import Batch, Sample, shuffled_batches
from hivis.training.losses import LossWeights, RowLosses, Wanted, masked_mean, row_losses
from hivis.training.model import HiViSModel, Rows


@dataclass(frozen=True)
class Target:
    """The parts of the target that a drafter shares, both ``[V, E]`` fp32 and frozen."""

    embedding: Tensor
    head: Tensor


@dataclass(frozen=True)
class StageSettings:
    """How a stage runs.

    Attributes:
        steps: self-feedback steps, 1 in stage 1.
        weights: of the loss terms.
        noise: uniform noise on the target's hidden states, as a part of their root mean square.
        minutes: how long, by the clock; the learning rate falls to zero over it.
        max_updates: an upper limit on top of it.
    """

    steps: int
    weights: LossWeights
    lr: float
    minutes: float
    batch: int = 16
    noise: float = 0.0
    warmup: int = 50
    clip: float = 1.0
    max_updates: int = 1 << 30
    bf16: bool = False
    seed: int = 0


@dataclass
class StepMetrics:
    """Sums over rows of one self-feedback step."""

    sums: dict[str, float] = field(default_factory=dict)
    rows: int = 0

    def add(self, losses: RowLosses, keep: Tensor) -> None:
        self.rows += int(keep.sum())
        for name in ("feature", "soft", "top", "hit", "first"):
            value = float((getattr(losses, name).float() * keep).sum())
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        return {name: total / max(self.rows, 1) for name, total in self.sums.items()}


def forward_steps(
    model: HiViSModel, target: Target, batch: Batch, steps: int, noise: float = 0.0
) -> Iterator[Tensor]:
    """Yield the predicted hidden states ``[B, n - 1, E]`` of each self-feedback step.

    Row t gets the embedding of token t + 1 and, at step 0, the target's hidden state of row t; at
    step s the drafter's own prediction of that state, made at row t - 1 of step s - 1.
    """
    if batch.embeddings is None:
        following = F.embedding(batch.tokens[:, 1:], target.embedding)
    else:
        following = batch.embeddings[:, 1:]
    hidden = batch.hidden[:, :-1]
    if noise:
        size = hidden.pow(2).mean().sqrt() * noise
        hidden = hidden + (torch.rand_like(hidden) * 2 - 1) * size
    earlier: list[Rows] = []
    for step in range(steps):
        out, rows = model(following, hidden, step, earlier)
        yield out
        earlier.append(rows)
        hidden = torch.cat([batch.hidden[:, :1], out[:, :-1].detach().float()], 1)


def select_rows(step: int, hit: Tensor, kept: Tensor) -> Tensor:
    """Rows that ``step`` >= 1 trains on, from the step before: hits and kept rows, ``[B, n]`` bool.

    Step 1 keeps a row whose true token was among the drafter's best five at step 0. Step 2 keeps
    row j if it was such a hit at step 1 and row j - 1 was kept there: its path was still alive.
    """
    if step == 1:
        return hit & kept
    return hit & F.pad(kept, (1, 0))[:, :-1]


def batch_losses(
    model: HiViSModel, target: Target, batch: Batch, steps: int, noise: float = 0.0
) -> list[tuple[RowLosses, Tensor]]:
    """Per step: losses of the answer's rows, and which of these rows count."""
    # Row t predicts the hidden state of row t + 1; only those of answer tokens are ever asked for.
    rows = batch.answer[:, 1:]
    wanted = Wanted.of(batch.hidden[:, 1:][rows], target.head)
    kept, result = rows, []
    for step, out in enumerate(forward_steps(model, target, batch, steps, noise)):
        losses = row_losses(out[rows], wanted, target.head)
        result.append((losses, kept[rows]))
        hit = torch.zeros_like(rows)
        hit[rows] = losses.hit
        kept = select_rows(step + 1, hit, kept) & rows
    return result


def learning_rate(settings: StageSettings, update: int, progress: float) -> float:
    """Linear warm-up by updates, then a cosine to zero over the stage's ``progress`` 0..1."""
    warm = min(1.0, (update + 1) / settings.warmup)
    return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def run_stage(
    model: HiViSModel,
    target: Target,
    samples: Sequence[Sample],
    settings: StageSettings,
    report: Callable[[int, float, list[dict[str, float]]], None] | None = None,
) -> int:
    """Train in place; returns the number of updates.

    ``report(update, progress, metrics per step)`` is called after every update.
    """
    torch.manual_seed(settings.seed)
    device = target.head.device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.01
    )
    model.train()
    start, update, epoch = time.monotonic(), 0, 0
    while True:
        for batch in shuffled_batches(samples, settings.batch, settings.seed + epoch, device):
            progress = (time.monotonic() - start) / (settings.minutes * 60)
            progress = max(progress, update / settings.max_updates)
            if progress >= 1:
                return update
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, update, progress)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
                steps = batch_losses(model, target, batch, settings.steps, settings.noise)
            loss = torch.stack([x.total(settings.weights, keep) for x, keep in steps]).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            update += 1
            if report is not None:
                report(update, progress, [_brief(x, keep) for x, keep in steps])
        epoch += 1


@torch.no_grad()
def _brief(losses: RowLosses, keep: Tensor) -> dict[str, float]:
    names = ("feature", "soft", "top", "hit", "first")
    return {name: float(masked_mean(getattr(losses, name).float(), keep)) for name in names}


@torch.no_grad()
def measure(
    model: HiViSModel, target: Target, samples: Sequence[Sample], steps: int, batch: int = 16
) -> list[dict[str, float]]:
    """Held-out means per self-feedback step, over all answer rows (no row selection)."""
    model.eval()
    metrics = [StepMetrics() for _ in range(steps)]
    for part in shuffled_batches(samples, batch, 0, target.head.device):
        for step, (losses, _) in enumerate(batch_losses(model, target, part, steps)):
            metrics[step].add(losses, torch.ones_like(losses.hit))
    model.train()
    return [step.means() for step in metrics]
