"""The bundled target with its trained drafters: the same text, over whole answers."""

from __future__ import annotations

import pytest
import torch

from hivis.bundled import paths
from hivis.bundled.prompts import held_out_prompts
from hivis.core.sampling import SamplingParams
from hivis.drafters.load import load_drafter
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.models.load import load_target
from hivis.policies.fixed import FixedPolicy

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 0.7, "top_p": 0.8},
]


@pytest.fixture(scope="module")
def bundled():
    return load_target(paths.TARGET, torch.float32)


@pytest.mark.parametrize("folder", [paths.HIVIS, paths.EAGLE], ids=lambda folder: folder.name)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_whole_answers_are_those_of_plain_decoding(bundled, folder, settings):
    target, processor = bundled
    drafter = load_drafter(folder)
    items = held_out_prompts()
    for seed, item in enumerate([items[0], items[9], items[18]]):
        inputs = processor(item.prompt, [item.image])
        params = SamplingParams(max_new_tokens=160, seed=seed, **settings)
        plain = generate(Engine(target), inputs, params)
        drafted = generate(Engine(target, drafter, FixedPolicy()), inputs, params)
        assert drafted.tokens == plain.tokens
        assert drafted.statistics.cycles < plain.statistics.cycles


def test_the_images_matter(bundled):
    """The same question about two images with different signs gets different, right answers."""
    target, processor = bundled
    signs = [item for item in held_out_prompts() if item.topic == "sign"][:6]
    right = 0
    for item in signs:
        answer = generate(Engine(target), processor(item.prompt, [item.image]), SamplingParams())
        right += all(fact in processor.decode(answer.tokens) for fact in item.facts)
    assert right >= 5
