"""The self-feedback passes, and the rows that each of them trains on (HiViS, arXiv 2509.23928,
after HASS, arXiv 2408.15766).

Pass 0 is teacher-forced: every row reads the target's hidden state and predicts the next one. In
pass s >= 1 a row reads the drafter's own output of pass s - 1, one row back, as at level s of a
tree. These features are detached, so that each pass learns to work with the features it is given.
Later passes train only on rows that drafting is likely to reach.
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

#: ``join(start, hidden [B, m, E], step)``: the input of the layer at the rows from ``start`` on.
Join = Callable[[int, Tensor, int], Tensor]


def first_row(batch: RowBatch, steps: int) -> int:
    """The first row with an output: the last pass reads ``steps - 1`` rows before the answer."""
    return max(0, batch.first - (steps - 1))


def forward_steps(
    model: OneLayerModel, join: Join, batch: RowBatch, steps: int, noise: float = 0.0
) -> Iterator[Tensor]:
    """Yield the predicted hidden states ``[B, m, E]`` of each pass, from :func:`first_row` on."""
    start = first_row(batch, steps)
    hidden = noisy(batch, noise) if noise else batch.hidden
    layer, c = model.layer, model.config
    factors = rotary_factors(batch.positions, c.head_dim, c.rope_theta)
    out, keys = layer(join(0, hidden, 0), factors, start, [])
    yield out
    earlier = [keys]
    for step in range(1, steps):
        hidden = torch.cat([batch.hidden[:, start : start + 1], out[:, :-1].detach().float()], 1)
        out, keys = layer(join(start, hidden, step), factors, 0, earlier)
        yield out
        earlier.append(keys)


def noisy(batch: RowBatch, noise: float) -> Tensor:
    """Hidden states with uniform noise of at most ``noise`` times the sample's root mean square."""
    squares = batch.hidden.pow(2).mean(2).sum(1) / batch.real.sum(1).clamp(min=1)
    size = squares.sqrt()[:, None, None] * noise
    return batch.hidden + (torch.rand_like(batch.hidden) * 2 - 1) * size


def select_rows(step: int, hit: Tensor, kept: Tensor) -> Tensor:
    """The rows that pass ``step`` >= 1 trains on, ``[B, n]`` bool.

    Pass 1 trains on a row if its true token was among the drafter's best five in pass 0. Pass 2
    trains on row j if it was such a hit in pass 1, and pass 1 trained on row j - 1: only then can
    drafting reach it.

    Args:
        hit: ``[B, n]`` bool, the hits of the pass before.
        kept: ``[B, n]`` bool, the rows that the pass before trained on.
    """
    if step == 1:
        return hit & kept
    return hit & F.pad(kept, (1, 0))[:, :-1]


def pass_losses(
    outs: Iterable[Tensor], batch: RowBatch, steps: int, head: Tensor
) -> list[tuple[RowLosses, Tensor]]:
    """For each pass: losses of the answer's rows ``[R]``, and which of them count ``[R]`` bool."""
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
