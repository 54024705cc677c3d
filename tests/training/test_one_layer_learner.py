"""HiViS and EAGLE-2 in training: attention, rows, passes as at inference, and that they learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hivis.drafters.config import HiViSConfig
from hivis.drafters.hivis import HiViSDrafter
from hivis.errors import HivisError
from hivis.training.data.samples import Columns
from hivis.training.learners.attention import aligned_attention, visible_keys
from hivis.training.learners.losses import TargetTables
from hivis.training.learners.one_layer import LayerLearner, LayerSettings
from hivis.training.learners.rows import hivis_rows
from tests.helpers.learner_checks import (
    SIZES,
    answer_outputs,
    assert_no_row_sees_the_future,
    assert_padding_does_not_leak,
    assert_passes_equal_inference,
    counting_samples,
    feedback,
    make_sample,
    scrambled,
    toy_target,
    train,
)

IMAGE = [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
LAYOUTS = {
    "no image": [0] * 6,
    "one": IMAGE,
    "two": [0, 0, 1, 1, 1, 0, 0, 0, 2, 2, 2, 0],
    "at row 0": [1, 1, 1, 0, 0, 0],
    "at the end": [0, 0, 0, 1, 1, 1],
}
CONFIGS = {
    "hivis": HiViSConfig(**SIZES),
    "one residual row": HiViSConfig(**SIZES, residual_rows=1),
    "no residual": HiViSConfig(**SIZES, residual_rows=0),
    "biases": HiViSConfig(**SIZES, attention_bias=True),
    "eagle": HiViSConfig(**SIZES, residual_rows=0, rows="all"),
    "original": HiViSConfig(**SIZES, positions="original"),
    "markers": HiViSConfig(**SIZES, positions="original", hide_before=1, hide_after=1),
    "markers, kept": HiViSConfig(**SIZES, hide_before=1, hide_after=2),
}


def make_learner(name: str = "hivis", updates: int = 100) -> LayerLearner:
    torch.manual_seed(3)
    return LayerLearner(CONFIGS[name], toy_target(), LayerSettings(updates, lr=3e-3))


def scrambled_learner(name: str) -> LayerLearner:
    learner = make_learner(name)
    scrambled(learner.module)
    return learner


# Attention of the self-feedback passes


def test_which_keys_a_step_sees() -> None:
    # Row 3 of step 2: step 0 up to row 1, its parent (row 2 of step 1), itself (row 3 of step 2).
    mask = visible_keys(4, 2)
    assert mask[3].tolist() == [True, True, False, False] + [False, False, True, False] + [
        False,
        False,
        False,
        True,
    ]
    assert torch.equal(visible_keys(5, 0), torch.ones(5, 5, dtype=torch.bool).tril())
    # Too early for two steps back: the rows that do not exist are not seen.
    assert mask[0].nonzero().flatten().tolist() == [8]
    # From row 1 on, the later steps have no key of row 0.
    assert torch.equal(visible_keys(4, 2, first=1)[2], mask[3][[0, 1, 2, 3, 5, 6, 7, 9, 10, 11]])


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_aligned_attention_equals_one_softmax_under_the_mask(step: int, first: int) -> None:
    make = torch.Generator().manual_seed(2)
    rows = 7
    query = torch.randn(2, 4, rows - first, 8, generator=make)
    sizes = [rows] + [rows - first] * step
    steps = [tuple(torch.randn(2, 2, 2, n, 8, generator=make).unbind(0)) for n in sizes]
    keys = torch.cat([k.repeat_interleave(2, 1) for k, _ in steps], 2)
    values = torch.cat([v.repeat_interleave(2, 1) for _, v in steps], 2)
    score = query @ keys.transpose(2, 3) * 0.3
    hidden = ~visible_keys(rows, step, first)
    weight = torch.softmax(score.masked_fill(hidden, float("-inf")), -1)
    assert torch.allclose(aligned_attention(query, steps, 0.3), weight @ values, atol=1e-6)


# Rows and passes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_passes_equal_the_drafter_at_inference(name: str, layout: str) -> None:
    assert_passes_equal_inference(scrambled_learner(name), make_sample(LAYOUTS[layout]))


def test_rows_next_to_an_image_are_hidden_but_none_of_the_answer() -> None:
    sample = make_sample(LAYOUTS["at the end"], answer=4)
    reading = hivis_rows(sample, CONFIGS["markers"])
    assert reading.source.tolist() == [0, 1, 6, 7, 8]
    assert reading.following.tolist() == [1, 6, 7, 8, 9]
    # The prompt's last row that is read is at 1: what was hidden behind it leaves no gap.
    assert reading.positions.tolist() == [0, 1, 2, 3, 4]
    middle = hivis_rows(make_sample(IMAGE, answer=2), CONFIGS["markers"])
    assert middle.source.tolist() == [0, 1, 8, 9, 10] == middle.positions.tolist()


@pytest.mark.parametrize("name", ["hivis", "eagle", "markers"])
def test_no_row_sees_the_future(name: str) -> None:
    assert_no_row_sees_the_future(scrambled_learner(name), make_sample(IMAGE))


@pytest.mark.parametrize("name", ["hivis", "eagle", "markers"])
def test_padding_does_not_leak(name: str) -> None:
    samples = [make_sample(layout, 3 + i, i) for i, layout in enumerate(LAYOUTS.values())]
    assert_padding_does_not_leak(scrambled_learner(name), samples)


def test_only_what_a_drafter_reads_counts() -> None:
    learner, sample = scrambled_learner("hivis"), make_sample(IMAGE)
    hidden = torch.where(sample.visual.unsqueeze(1), float("nan"), sample.hidden)
    bare = replace(sample, kept=~sample.visual, hidden=sample.hidden[~sample.visual], images=None)
    outs = answer_outputs(learner, [sample], feedback(3))
    for same in (replace(sample, hidden=hidden), bare):
        assert torch.equal(outs[2], answer_outputs(learner, [same], feedback(3))[2])
    with pytest.raises(HivisError, match="embeddings of the visual rows, got none"):
        make_learner("eagle").batch([bare], feedback(1))


def test_fed_back_features_are_detached() -> None:
    learner = make_learner()
    outs = list(learner.outputs(learner.batch([make_sample(IMAGE)], feedback(2)), feedback(2)))
    outs[0].retain_grad()
    outs[1].sum().backward()
    assert outs[0].grad is None
    assert all(p.grad is not None and p.grad.any() for p in learner.module.layers.parameters())


def test_noise_is_of_the_samples_own_size() -> None:
    learner, sample = make_learner(), make_sample(IMAGE)
    loud = make_sample(IMAGE, answer=20)
    loud = replace(loud, hidden=loud.hidden * 100)
    stage = feedback(1, noise=0.5)
    clean = answer_outputs(learner, [sample, loud], feedback(1))[0]
    torch.manual_seed(1)
    one = answer_outputs(learner, [sample, loud], stage)[0]
    torch.manual_seed(1)
    assert torch.equal(one, answer_outputs(learner, [sample, loud], stage)[0])
    torch.manual_seed(1)
    alone = answer_outputs(learner, [sample], stage)[0]
    assert torch.allclose(one[: len(alone)], alone, atol=1e-5)
    assert not torch.allclose(one, clean, atol=1e-2)


def test_later_passes_train_on_fewer_rows() -> None:
    learner = make_learner()
    batch = learner.batch(counting_samples(4, learner.target), feedback(3))
    steps = learner.losses(batch, feedback(3))
    assert bool(steps[0][1].all()), "pass 0 trains on every answer row"
    assert torch.equal(steps[1][1], steps[0][0].hit)
    assert int(steps[2][1].sum()) <= int(steps[1][0].hit.sum())


def test_a_sample_without_an_answer_counts_for_nothing() -> None:
    learner = make_learner()
    for samples in ([make_sample([0], answer=0)], [make_sample([0] * 5, answer=0)]):
        passes = learner.losses(learner.batch(samples, feedback(3)), feedback(3))
        assert [len(keep) for _, keep in passes] == [0, 0, 0]
        losses, keep = passes[0]
        assert float(losses.total(feedback(3).weights, keep).detach()) == 0


# Training


@pytest.mark.parametrize("name", ["hivis", "no residual", "eagle", "markers"])
def test_both_stages_learn_a_toy_language(name: str, tmp_path: Path) -> None:
    learner = make_learner(name, 120)
    samples = counting_samples(24, learner.target)
    first, second = learner.stages()
    assert (first.steps, second.steps) == (1, 3) and first.updates + second.updates == 120
    assert first.noise == 0.1 and second.noise == 0 and first.weights.top == 0
    history = train(learner, samples, first)
    assert history[-1] < 0.5 * history[0]
    if learner.config.residual_rows:
        rows = learner.module.residual
        assert torch.equal(rows, rows[:1].expand_as(rows)), "stage 1 trains all of them alike"
    early = learner.drafter()
    kept = {name: tensor.clone() for name, tensor in early._w.items()}
    history = train(learner, samples, second)
    assert history[-1] < 0.5 * history[0]
    assert all(torch.equal(early._w[name], tensor) for name, tensor in kept.items())
    if learner.config.residual_rows:
        assert not torch.equal(learner.module.residual[0], learner.module.residual[2])
    passes = learner.losses(learner.batch(samples, second), second)
    assert all(float(losses.first.float().mean()) > 0.9 for losses, _ in passes)

    learner.save(tmp_path)
    again = HiViSDrafter.load(tmp_path)
    assert again.config == learner.config
    assert all(torch.equal(again.tensors[n], t) for n, t in learner.module.state_dict().items())


def test_what_each_needs_of_a_capture() -> None:
    assert make_learner("markers").columns == Columns("text")
    assert make_learner("eagle").columns == Columns("all", images=True)


def test_settings_and_targets_that_do_not_fit_are_refused() -> None:
    names = [s.name for s in make_learner(updates=1).stages()]
    assert names == ["stage2"], "a stage without updates is left out"
    for bad in ({"updates": 0}, {"updates": 5, "feedback": 0}, {"updates": 5, "stage_1_share": 2}):
        with pytest.raises(HivisError, match="wanted"):
            LayerSettings(**bad)  # type: ignore[arg-type]
    target = toy_target()
    short = TargetTables(target.embedding, target.head[:-1])
    with pytest.raises(HivisError, match="target's head: wanted"):
        LayerLearner(CONFIGS["hivis"], short, LayerSettings(5))
    other = replace(make_sample([0, 0]), hidden=torch.zeros(10, 8))
    with pytest.raises(HivisError, match="hidden size 32, got 8"):
        make_learner().batch([other], feedback(1))
