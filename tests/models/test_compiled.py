"""The pass over a tree compiled by torch: one whole graph, the same texts."""

from __future__ import annotations

import shutil
import warnings
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

import hivis
from hivis.core.sampling import SamplingParams
from hivis.core.tree import DraftTree
from hivis.engine.batch import Batch, BatchRequest
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.models.families.registry import family_of
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from tests.helpers.families import RECIPES, config_of
from tests.helpers.small_drafters import pair
from tests.helpers.small_llava import random_inputs, random_target

TREE = FixedPolicy(12, 4, 3)
PROMPTS = [random_inputs(seed, text=7 + seed) for seed in range(4)]
PARAMS = SamplingParams(temperature=0.9, seed=2, max_new_tokens=20)


class Backend:
    """Runs the graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def nothing_compiled_yet() -> None:
    torch._dynamo.reset()


def test_text_after_text_in_one_graph_a_size() -> None:
    wanted = [generate(Engine(random_target()), inputs, PARAMS).tokens for inputs in PROMPTS]
    target, drafter = pair("hivis")
    backend = Backend()
    target.compile(backend)
    for drafts in (None, drafter, None, drafter):
        made = [generate(Engine(target, drafts, TREE), inputs, PARAMS).tokens for inputs in PROMPTS]
        assert made == wanted
    assert backend.graphs == 2  # trees of one node, and of twelve


def test_sequences_of_a_batch() -> None:
    wanted = {
        n: generate(Engine(random_target()), inputs, PARAMS).tokens
        for n, inputs in enumerate(PROMPTS)
    }
    target, drafter = pair("hivis")
    backend = Backend()
    target.compile(backend)
    queue = [BatchRequest(inputs, PARAMS, n) for n, inputs in enumerate(PROMPTS)]
    made = {n: text.tokens for n, text in Batch(Engine(target, drafter, TREE), queue, 3)}
    assert made == wanted and 1 <= backend.graphs <= 3  # three texts, two, one


@pytest.mark.parametrize("kind", list(RECIPES))
def test_every_family_is_one_graph(kind: str) -> None:
    tokenizer = RECIPES[kind].tokenizer()
    model = AutoModelForImageTextToText.from_config(config_of(kind, tokenizer)).eval()
    target = HuggingFaceTarget(model, family_of(model.config.model_type))
    with torch.inference_mode():
        target._read(torch.randn(1, 9, target.head.shape[1]), 40)
        tree = DraftTree.from_parents(
            torch.tensor([[3, 4, 5, 6]]), torch.tensor([[-1, 0, 0, 2]]), 2
        )
        wanted = target.verify(tree)
        backend = Backend()
        target.compile(backend)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = target.verify(tree)
    assert backend.graphs == 1
    assert torch.equal(got.logits, wanted.logits) and torch.equal(got.hidden, wanted.hidden)


def test_what_cannot_be_compiled_is_done_as_it_is() -> None:
    wanted = generate(Engine(random_target()), PROMPTS[0], PARAMS).tokens
    target, drafter = pair("hivis")

    def fails(graph: Any, inputs: Any) -> Any:
        raise NotImplementedError("no such thing here")

    target.compile(fails)
    with pytest.warns(UserWarning, match="^compile: wanted to compile the model, go on without"):
        assert generate(Engine(target, drafter, TREE), PROMPTS[0], PARAMS).tokens == wanted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generate(Engine(target, drafter, TREE), PROMPTS[0], PARAMS).tokens == wanted


def test_a_model_may_be_loaded_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(HuggingFaceTarget, "compile", lambda self: asked.append(self))
    hivis.load(drafter="none", device="cpu")
    assert not asked
    model = hivis.load(drafter="none", device="cpu", compile=True)
    assert asked == [model.target]
    again = hivis.wrap(model.target.model, processor=model.processor.processor, compile=True)
    assert asked == [model.target, again.target]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler wants a C++ compiler")
def test_by_torchs_own_compiler() -> None:
    """Speculative and plain decoding by compiled passes give one text, in place in the cache."""
    target, drafter = pair("hivis")
    target.compile()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        plain = [generate(Engine(target), inputs, PARAMS).tokens for inputs in PROMPTS]
        made = [
            generate(Engine(target, drafter, TREE), inputs, PARAMS).tokens for inputs in PROMPTS
        ]
    assert made == plain
    own = [generate(Engine(random_target()), inputs, PARAMS).tokens for inputs in PROMPTS]
    assert made == own  # in float32 rounding is too small to show in these
