"""The replay of captured answers: as many tokens accepted as when the target decodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hivis.api.load_drafter import load_draft_vlm
from hivis.bundled import paths
from hivis.bundled.prompts import held_out_prompts
from hivis.core.sampling import SamplingParams
from hivis.core.tree_shape import TreeShape
from hivis.drafters.load import load_drafter
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.models.families.llava import Llava
from hivis.models.load import load_model
from hivis.models.processor import PromptProcessor
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from hivis.training.data.answers import Answerer, answer
from hivis.training.data.samples import Columns
from hivis.training.replay import accepted_lengths, mean_accepted_length

TREE, SHAPE, NEW = FixedPolicy(16, 5, 4), TreeShape(16, 5, 4), 40


@pytest.fixture(scope="module")
def made():
    """The bundled target, and prompts with its own answers: some end, some are cut off."""
    model = load_model(paths.TARGET)
    processor = PromptProcessor.load(paths.TARGET, model)
    asked = [p for p in held_out_prompts() if p.kind == "short"][:4]
    asked += [p for p in held_out_prompts() if p.kind == "long"][:2]
    prompts = [processor(p.prompt, [p.image]) for p in asked]
    answerer = Answerer(model, Llava(), lambda prompt: prompt, lambda prompt: 0)
    columns = Columns("all", images=True, seen=True)
    samples = answer(answerer, prompts, [0] * len(prompts), columns, NEW, greedy=True)
    return HuggingFaceTarget(model, Llava()), processor, prompts, samples


@pytest.mark.parametrize("name", ["hivis", "vispec", "eagle", "draft_vlm"])
def test_a_replay_accepts_what_decoding_accepts(made, name: str) -> None:
    target, processor, prompts, samples = made
    folder = paths.WEIGHTS / name
    drafter = (
        load_draft_vlm(folder, target, processor) if name == "draft_vlm" else load_drafter(folder)
    )
    drafter.bind(target.embedding, target.head)
    ended = 0
    for inputs, sample in zip(prompts, samples, strict=True):
        text = generate(Engine(target, drafter, TREE), inputs, SamplingParams(max_new_tokens=NEW))
        assert torch.equal(torch.tensor(text.tokens), sample.tokens[sample.prompt_rows :])
        replayed = accepted_lengths(drafter, target.embedding, sample, SHAPE)
        assert replayed == list(text.statistics.accepted_lengths)
        ended += len(text.tokens) < NEW
    assert 0 < ended < len(prompts)


def test_only_greedy_answers_are_replayed(made) -> None:
    target, _, _, samples = made
    drafter = load_drafter(paths.HIVIS)
    drafter.bind(target.embedding, target.head)
    drawn = [replace(sample, greedy=False) for sample in samples]
    assert mean_accepted_length(drafter, target.embedding, drawn, SHAPE) is None
    one = mean_accepted_length(drafter, target.embedding, [*drawn, samples[0]], SHAPE)
    lengths = accepted_lengths(drafter, target.embedding, samples[0], SHAPE)
    assert one == pytest.approx(sum(lengths) / len(lengths))
