"""The losses, by their definitions and in parts; which rows a feedback pass trains on."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from hivis.training.learners import losses
from hivis.training.learners.losses import (
    LossWeights,
    RowLosses,
    TargetRows,
    logit_losses,
    masked_mean,
    row_losses,
)
from hivis.training.learners.self_feedback import select_rows
from tests.helpers.learner_checks import HIDDEN, VOCAB, toy_target


def test_losses_by_definition() -> None:
    target = toy_target()
    make = torch.Generator().manual_seed(6)
    true, guess = torch.randn(2, 5, HIDDEN, generator=make)
    # One row is right, so that there is a hit among them.
    guess[3] = true[3]
    got = row_losses(guess, TargetRows.of(true, target.head), target.head)
    p = torch.softmax(true @ target.head.T, -1)
    log_q = torch.log_softmax(guess @ target.head.T, -1)
    for row in range(5):
        best = p[row].topk(10).indices.tolist()
        assert float(got.soft[row]) == pytest.approx(float(-(p[row] * log_q[row]).sum()), 1e-4)
        top = -sum(float(p[row, v] * log_q[row, v]) for v in best)
        assert float(got.top[row]) == pytest.approx(top, 1e-4)
        wanted = float(F.smooth_l1_loss(guess[row], true[row]))
        assert float(got.feature[row]) == pytest.approx(wanted, 1e-5)
        guesses = log_q[row].topk(5).indices.tolist()
        assert bool(got.hit[row]) == (best[0] in guesses)
        assert bool(got.first[row]) == (best[0] == guesses[0])
    assert got.first.tolist() == [row == 3 for row in range(5)]
    keep = torch.tensor([True, False, False, True, False])
    each = 2 * got.feature + 3 * got.soft + 5 * got.top
    total = got.total(LossWeights(2, 3, 5), keep)
    assert float(total) == pytest.approx(float((each[0] + each[3]) / 2), 1e-5)
    assert float(masked_mean(got.soft, torch.zeros(5, dtype=torch.bool))) == 0


@pytest.mark.parametrize("rank", [1, 5, 6])
def test_a_hit_is_among_the_best_five(rank: int) -> None:
    logits = torch.arange(VOCAB, 0, -1.0).unsqueeze(0)
    likely = torch.zeros(1, VOCAB)
    likely[0, rank - 1] = 9.0
    got = logit_losses(logits, TargetRows.of(likely, torch.eye(VOCAB)))
    assert bool(got.hit) == (rank <= 5) and bool(got.first) == (rank == 1)
    assert float(got.feature) == 0
    assert not bool(
        logit_losses(logits * float("nan"), TargetRows.of(likely, torch.eye(VOCAB))).hit
    )


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_parts_of_a_large_vocabulary_change_nothing(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = toy_target().head
    make = torch.Generator().manual_seed(6)
    true, guess = torch.randn(2, rows, HIDDEN, generator=make)
    results = []
    for most in (1 << 26, 3 * VOCAB, VOCAB - 1):
        monkeypatch.setattr(losses, "MAX_LOGITS", most)
        tried = guess.clone().requires_grad_()
        got = row_losses(tried, TargetRows.of(true, head), head)
        got.total(LossWeights(), torch.ones(rows, dtype=torch.bool)).backward()
        results.append((got, tried.grad))
    whole, gradient = results[0]
    for got, own in results[1:]:
        for field in fields(RowLosses):
            one, two = getattr(whole, field.name), getattr(got, field.name)
            assert one.shape == two.shape == (rows,)
            assert torch.allclose(one.float(), two.float(), atol=1e-5), field.name
        assert torch.allclose(gradient, own, atol=1e-6)


def test_row_selection_by_hand() -> None:
    answer = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]]).bool()
    hit_0 = torch.tensor([[0, 0, 1, 1, 0, 1, 1, 1]]).bool()
    kept_1 = select_rows(1, hit_0, answer)
    assert kept_1.int().tolist() == [[0, 0, 1, 1, 0, 1, 1, 1]]
    hit_1 = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 1]]).bool()
    kept_2 = select_rows(2, hit_1, kept_1)
    # Row 2: nothing before it. 3, 4: hit, and the row before was kept. 5: row 4 was not kept.
    # 6: no hit. 7: hit after a kept row.
    assert kept_2.int().tolist() == [[0, 0, 0, 1, 1, 0, 0, 1]]
