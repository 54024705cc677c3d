"""The self-feedback passes, and which rows each trains on (HiViS, arXiv 2509.23928, after HASS,
arXiv 2408.15766).

Pass 0 is teacher-forced: every row gets the target's hidden state and predicts the next one. In
pass s >= 1 a row gets the drafter's own output of pass s - 1, one row back, as it does at level s
of a tree. Fed-back features are detached, so that each pass learns to work with what it gets;
later passes train only on rows that drafting is likely to reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from hivis.training.learners.attention import rotary_factors
from hivis.training.learners.losses import RowLosses, TargetRows, row_losses
from hivis.training.learners.one_layer_model import OneLayerModel
from hivis.training.learners.rows import RowBatch

#: What enters the layer at the rows from ``start`` on: ``join(start, hidden [B, m, E], step)``.
Join = Callable[[int, Tensor, int], Tensor]


def first_row(batch: RowBatch, steps: int) -> int:
    """Where the outputs start: the last pass's first answer row reads ``steps - 1`` rows back."""
    return max(0, batch.first - (steps - 1))


def forward_steps(
    model: OneLayerModel, join: Join, batch: RowBatch, steps: int, noise: float = 0.0
) -> Iterator[Tensor]:
    """Yield the predicted hidden states ``[B, m, E]`` of each pass, from :func:`first_row` on."""
    start = first_row(batch, steps)
    hidden = noisy(batch, noise) if noise else batch.hidden
    layer, c = model.layer, model.config
    turn = rotary_factors(batch.positions, c.head_dim, c.rope_theta)
    out, keys = layer(join(0, hidden, 0), turn, start, [])
    yield out
    earlier = [keys]
    for step in range(1, steps):
        hidden = torch.cat([batch.hidden[:, start : start + 1], out[:, :-1].detach().float()], 1)
        out, keys = layer(join(start, hidden, step), turn, 0, earlier)
        yield out
        earlier.append(keys)


def noisy(batch: RowBatch, noise: float) -> Tensor:
    """Hidden states with uniform noise, up to this part of their sample's root mean square."""
    squares = batch.hidden.pow(2).mean(2).sum(1) / batch.real.sum(1).clamp(min=1)
    size = squares.sqrt()[:, None, None] * noise
    return batch.hidden + (torch.rand_like(batch.hidden) * 2 - 1) * size


def select_rows(step: int, hit: Tensor, kept: Tensor) -> Tensor:
    """Rows that ``step`` >= 1 trains on, from the step before: hits and kept rows, ``[B, n]`` bool.

    Step 1 keeps a row whose true token was among the drafter's best five at step 0. Step 2 keeps
    row j if it was such a hit at step 1 and row j - 1 was kept there: its path was still alive.
    """
    if step == 1:
        return hit & kept
    return hit & F.pad(kept, (1, 0))[:, :-1]


def pass_losses(
    outs: Iterable[Tensor], batch: RowBatch, steps: int, head: Tensor
) -> list[tuple[RowLosses, Tensor]]:
    """Per pass: losses of the answer's rows ``[R]``, and which of these count ``[R]``."""
    rows = batch.answer[:, first_row(batch, steps) :]
    wanted = TargetRows.of(batch.next_hidden, head)
    kept, result = rows, []
    for step, out in enumerate(outs):
        losses = row_losses(out[rows], wanted, head)
        result.append((losses, kept[rows]))
        hit = torch.zeros_like(rows)
        hit[rows] = losses.hit
        kept = select_rows(step + 1, hit, kept) & rows
    return result
