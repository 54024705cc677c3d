"""ViSpec in training: rows, passes as at inference, what each stage reaches, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hivis.drafters.config import ViSpecConfig
from hivis.drafters.vispec import ViSpecDrafter
from hivis.errors import HivisError
from hivis.training.data.samples import Columns, Sample
from hivis.training.learners.one_layer import LayerSettings
from hivis.training.learners.vispec import ViSpecLearner, text_only_rows, vispec_rows
from tests.helpers.learner_checks import (
    HIDDEN,
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

ONE = [0] * 3 + [1] * 5 + [0] * 3
LAYOUTS = {
    "no image": [0] * 7,
    "one": ONE,
    "after row 0": [0] + [1] * 5 + [0] * 2,
    "at row 0": [1] * 5 + [0] * 3,
    "of one row": [0] * 4 + [1] + [0] * 2,
    "at the end": [0] * 3 + [1] * 5,
    "nothing else": [1] * 5,
    "two": [0] * 2 + [1] * 4 + [0] * 3 + [2] * 4 + [0] * 2,
    "two, one row between": [0] * 2 + [1] * 4 + [0] + [2] * 4 + [0] * 2,
    "two, side by side": [0] * 2 + [1] * 4 + [2] * 4 + [0] * 2,
}


def make_learner(queries: int = 2, bias: bool = True, updates: int = 120) -> ViSpecLearner:
    torch.manual_seed(3)
    config = ViSpecConfig(**SIZES, queries=queries, attention_bias=bias)
    return ViSpecLearner(config, toy_target(), LayerSettings(updates, lr=3e-3))


def scrambled_learner(queries: int = 2, bias: bool = True) -> ViSpecLearner:
    learner = make_learner(queries, bias)
    scrambled(learner.module)
    return learner


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("queries", [1, 2, 3])
def test_passes_equal_the_drafter_at_inference(queries: int, layout: str) -> None:
    sample = make_sample(LAYOUTS[layout])
    learner = scrambled_learner(queries, bias=queries != 2)
    assert_passes_equal_inference(learner, sample)


def test_text_alone_equals_the_drafter_in_stage_1_too() -> None:
    learner, sample = scrambled_learner(), make_sample(LAYOUTS["no image"])
    shown = answer_outputs(learner, [sample], feedback(3))
    text = answer_outputs(learner, [sample], feedback(3, images=False))
    assert all(torch.equal(one, two) for one, two in zip(shown, text, strict=True))


def test_rows_by_hand() -> None:
    sample = make_sample(LAYOUTS["two"], answer=2)
    # Images at 2..5 and 9..12: rows 1..4 and 8..11 give way to two vectors each.
    reading, slot, feature = vispec_rows(sample, queries=3)
    assert reading.source.tolist() == [0, -1, -1, 5, 6, 7, -1, -1, 12, 13, 14, 15]
    assert reading.positions.tolist() == [0, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15]
    assert slot.tolist() == [0, 1, 2, 0, 0, 0, 3, 4, 0, 0, 0, 0]
    assert feature.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 2, 2, 2, 2]
    text = text_only_rows(sample)
    assert text.source.tolist() == [0, 1, 6, 7, 8, 13, 14, 15] == text.positions.tolist()
    assert text.following.tolist() == [1, 6, 7, 8, 13, 14, 15, 16]


def test_no_row_sees_the_future() -> None:
    assert_no_row_sees_the_future(scrambled_learner(), make_sample(ONE))


def test_padding_does_not_leak() -> None:
    samples = [make_sample(layout, 3 + i % 4, i) for i, layout in enumerate(LAYOUTS.values())]
    assert_padding_does_not_leak(scrambled_learner(3), samples)


def edges(sample: Sample) -> Sample:
    """The sample as a capture of ``Columns("edges")`` holds it, with NaN in what is not kept."""
    kept = Columns("edges").keeps(sample.visual, sample.spans)
    hidden = torch.where(kept.unsqueeze(1), sample.hidden, float("nan"))
    return replace(sample, kept=kept, hidden=hidden[kept])


def test_only_what_the_drafter_reads_counts() -> None:
    learner, sample = scrambled_learner(), make_sample(ONE)
    assert learner.columns == Columns("edges", images=True)
    outs = answer_outputs(learner, [sample], feedback(3))
    same = answer_outputs(learner, [edges(sample)], feedback(3))
    assert all(torch.equal(one, two) for one, two in zip(outs, same, strict=True))

    # Each row of an image reaches the answer, but in stage 1 none does.
    assert sample.images is not None
    for row in range(5):
        other = sample.images.clone()
        other[row] += 1
        changed = replace(sample, images=other)
        assert not torch.allclose(outs[0], answer_outputs(learner, [changed], feedback(3))[0])
    blind = replace(sample, images=None)
    text = feedback(1, images=False)
    one, two = (answer_outputs(learner, [s], text)[0] for s in (sample, blind))
    assert torch.equal(one, two)
    with pytest.raises(HivisError, match="embeddings of the visual rows, got none"):
        learner.batch([blind], feedback(1))


def test_what_each_stage_reaches() -> None:
    learner = make_learner()
    first, second = learner.stages()
    assert not first.images and second.images and second.steps == 3
    assert first.noise == second.noise == 0.1
    samples = [make_sample(ONE), make_sample(LAYOUTS["two"], seed=1)]

    def touched(stage_samples: list[Sample], stage: object) -> set[str]:
        learner.module.zero_grad()
        passes = learner.losses(learner.batch(stage_samples, stage), stage)  # type: ignore
        torch.stack([x.total(second.weights, keep) for x, keep in passes]).sum().backward()
        named = learner.module.named_parameters()
        return {name for name, p in named if p.grad is not None and bool(p.grad.any())}

    names = {name for name, _ in learner.module.named_parameters()}
    seeing = {name for name in names if name.startswith(("imadpt", "img_fc"))}
    assert touched(samples, first) == names - seeing
    # A bias of all keys changes no attention: it has no gradient to be trained by.
    assert touched(samples, second) == names - {"imadpt.k_proj.bias"}
    assert touched([make_sample([0] * 5)], second) == names - seeing


def test_fed_back_features_are_detached() -> None:
    learner = make_learner()
    outs = list(learner.outputs(learner.batch([make_sample(ONE)], feedback(2)), feedback(2)))
    outs[0].retain_grad()
    outs[1].sum().backward()
    assert outs[0].grad is None


def test_both_stages_learn_a_toy_language(tmp_path: Path) -> None:
    learner = make_learner()
    samples = counting_samples(24, learner.target)
    start = learner.drafter()
    first, second = learner.stages()
    history = train(learner, samples, first)
    assert history[-1] < 0.5 * history[0]
    state = learner.module.state_dict()
    same = {name for name, tensor in start.tensors.items() if torch.equal(tensor, state[name])}
    assert same == {name for name in state if name.startswith(("imadpt", "img_fc"))}
    assert torch.equal(state["img_fc.weight"], torch.eye(HIDDEN, 2 * HIDDEN))
    history = train(learner, samples, second)
    assert history[-1] < 0.5 * history[0]
    passes = learner.losses(learner.batch(samples, second), second)
    assert all(float(losses.first.float().mean()) > 0.9 for losses, _ in passes)

    learner.save(tmp_path)
    again = ViSpecDrafter.load(tmp_path)
    assert again.config == learner.config
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("images", [True, False])
def test_what_only_the_image_tells_is_learned_where_it_is_shown(images: bool) -> None:
    learner = make_learner()
    target, stage = learner.target, feedback(1, updates=60, images=images)
    layout, make = [0, 1, 1, 1, 0], torch.Generator().manual_seed(5)
    looks, samples = torch.randn(2, HIDDEN, generator=make), []
    for i in range(16):
        sample = make_sample(layout, answer=2, seed=i // 2)
        hidden = torch.cat([sample.hidden[:-1], target.head[i % 2 : i % 2 + 1]])
        seen = looks[i % 2] + 0.1 * torch.randn(3, HIDDEN, generator=make)
        samples.append(replace(sample, hidden=hidden, images=seen))
    train(learner, samples, stage)
    losses, _ = learner.losses(learner.batch(samples, stage), stage)[0]
    right = float(losses.first.float()[1::2].mean())
    assert right == 1 if images else right <= 0.5
