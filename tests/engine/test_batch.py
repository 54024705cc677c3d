"""Continuous batching: each output is what it is alone, whatever joins or leaves beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import hivis
from hivis.api.model import Model, Request
from hivis.bundled import paths
from hivis.core.sampling import SamplingParams
from hivis.engine.batch import Batch, BatchRequest
from hivis.engine.engine import Engine
from hivis.engine.generate import Stream, generate
from hivis.errors import HivisError
from hivis.models.target import HuggingFaceTarget
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy
from tests.helpers.batch_requests import POLICY, alone, drafter, request_of, target
from tests.helpers.small_llava import random_inputs, random_target

DRAFTERS = ["none", "hivis", "original", "eagle", "vispec", "draft vlm", "draft text"]


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", DRAFTERS)
def test_every_text_is_what_it_is_alone(kind: str, slots: int) -> None:
    made = dict(Batch(Engine(target(), drafter(kind), POLICY), map(request_of, range(14)), slots))
    assert sorted(made) == list(range(14))
    for number, generation in made.items():
        assert generation.tokens == alone(number), number
        took = generation.statistics
        assert sum(took.accepted_lengths) + took.cycles + 1 == len(generation.tokens)


@pytest.mark.parametrize("policy", [CostPolicy(), CostPolicy(ahead=True), ConfidencePolicy()])
def test_no_policy_changes_a_text_of_a_batch(policy: Any) -> None:
    # Twice: the second time the cost model has measured, for every number of texts.
    for _ in range(2):
        made = dict(
            Batch(Engine(target(), drafter("hivis"), policy), map(request_of, range(14)), 3)
        )
        assert {number: one.tokens for number, one in made.items()} == {
            number: alone(number) for number in range(14)
        }
    if isinstance(policy, CostPolicy):  # what pays depends on how many there are
        assert {texts for *_, texts in policy._kept} == {1, 2, 3}


def test_texts_with_a_real_drafter_speed_each_other_along() -> None:
    """In a batch as alone the bundled drafter is right about most tokens."""
    model = hivis.load(dtype="float32", device="cpu", policy="fixed")
    requests = [
        Request("Describe the image in detail.", paths.EVAL / "scene00.png"),
        Request("What is this?", paths.EVAL / "scene01.png", {"max_new_tokens": 20}),
        Request("Describe the image in detail.", paths.EVAL / "scene02.png"),
        Request("How many things are there?", [], {"temperature": 1.0, "seed": 5}),
        Request("Describe the image.", paths.EVAL / "scene03.png", {"stop": ["the"]}),
    ]
    together = model.generate_batch(requests, slots=3, max_new_tokens=60)
    for request, text in zip(requests, together, strict=True):
        settings = {"max_new_tokens": 60, **request.settings}
        one = model.generate(request.prompt, request.images, **settings)
        assert (text.tokens, text.text, text.finish) == (one.tokens, one.text, one.finish)
        # The very same trees: how a text is drafted does not depend on its neighbors either.
        assert text.statistics.accepted_lengths == one.statistics.accepted_lengths
    assert together[4].finish == "stop"
    assert together[0].statistics.accepted_length > 2


def test_slots_are_kept_filled_and_free_ones_cost_nothing(monkeypatch: Any) -> None:
    """The target runs on as many texts as there are, and on ``slots`` while the queue lasts."""
    taken, rows = 0, []

    def queue() -> Iterator[BatchRequest[int]]:
        nonlocal taken
        for number in range(9):
            taken += 1
            params = SamplingParams(max_new_tokens=8 + 5 * (number % 4))
            yield BatchRequest(random_inputs(number), params, number)

    one, original = target(), HuggingFaceTarget.verify

    def verify(self: HuggingFaceTarget, tree: Any) -> Any:
        rows.append((tree.tokens.shape[0], taken))
        return original(self, tree)

    monkeypatch.setattr(HuggingFaceTarget, "verify", verify)
    ended = 0
    for _ in Batch(Engine(one, drafter("hivis"), POLICY), queue(), 3):
        ended += 1
        assert taken <= ended + 3  # none before there is a place for it
    assert ended == 9
    sizes = [texts for texts, _ in rows]
    before_the_end = [texts for texts, begun in rows if begun < 9]
    assert set(before_the_end) == {3}
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {3, 2, 1}


def test_a_longer_text_finds_room() -> None:
    sizes = [(5, 4), (40, 30), (3, 2), (60, 100), (7, 9)]
    texts = [
        BatchRequest(random_inputs(n, text, images=n % 2), SamplingParams(max_new_tokens=new), n)
        for n, (text, new) in enumerate(sizes)
    ]
    for kind in ("none", "hivis", "draft text"):
        made = dict(Batch(Engine(target(), drafter(kind), POLICY), texts, 2))
        for text in texts:
            wanted_tokens = generate(Engine(target()), text.inputs, text.params).tokens
            assert made[text.name].tokens == wanted_tokens


def test_a_bad_text_stops_the_queue_and_nothing_else() -> None:
    def queue() -> Iterator[BatchRequest[int]]:
        yield from map(request_of, range(4))
        yield BatchRequest(random_inputs(4), SamplingParams(max_new_tokens=5000), 4)
        raise AssertionError("taken from after a failure")

    made: dict[int, Any] = {}
    with pytest.raises(HivisError, match=r"context: wanted at most 256 positions, got \d+ of"):
        for name, text in Batch(Engine(target(), drafter("hivis"), POLICY), queue(), 3):
            made[name] = text
    assert {name: text.tokens for name, text in made.items()} == {n: alone(n) for n in range(4)}


@pytest.mark.parametrize("where", ["first token", "later"])
def test_logits_with_a_nan_end_one_text_alone(monkeypatch: Any, where: str) -> None:
    one, poisoned = random_target(), 2
    name = "prefill" if where == "first token" else "verify"
    original, calls = getattr(one, name), []

    def spoil(*args: Any) -> Any:
        result = original(*args)
        calls.append(len(calls))
        if where == "first token" and len(calls) == poisoned + 1:
            result.logits.fill_(float("nan"))
        if where == "later" and len(calls) == 3:
            result.logits[1].fill_(float("nan"))
        return result

    monkeypatch.setattr(one, name, spoil)
    texts = [BatchRequest(random_inputs(n), SamplingParams(max_new_tokens=20), n) for n in range(3)]
    made: dict[int, Any] = {}
    with pytest.raises(HivisError, match="logits: wanted a finite candidate, got NaN"):
        for which, text in Batch(Engine(one, drafter("hivis"), POLICY), texts, 3):
            made[which] = text
    lost = poisoned if where == "first token" else 1
    assert sorted(made) == sorted({0, 1, 2} - {lost})
    for which, text in made.items():
        assert (
            text.tokens
            == generate(Engine(target()), texts[which].inputs, texts[which].params).tokens
        )


def test_another_text_on_the_target_ends_a_batch() -> None:
    running = iter(Batch(Engine(target(), drafter("hivis"), POLICY), map(request_of, range(9)), 2))
    next(running)
    next(iter(Stream(Engine(target()), random_inputs(50))))
    with pytest.raises(HivisError, match="wanted target and drafter to itself"):
        list(running)


def test_a_batch_can_be_left_and_the_model_goes_on() -> None:
    running = iter(Batch(Engine(target(), drafter("vispec"), POLICY), map(request_of, range(9)), 3))
    next(running)
    running.close()  # type: ignore[attr-defined]
    one = request_of(2)
    assert generate(
        Engine(target(), drafter("vispec"), POLICY), one.inputs, one.params
    ).tokens == alone(2)


@pytest.mark.parametrize("slots", [0, -1, 1.5, True, "4"])
def test_slots_are_checked(slots: Any) -> None:
    with pytest.raises(HivisError, match="slots: wanted a whole number >= 1, got"):
        Batch(Engine(target()), [], slots)


def test_no_texts_at_all() -> None:
    assert list(Batch(Engine(target()), [], 4)) == []


# --- from prompts


@pytest.fixture(scope="module")
def model() -> Model:
    return hivis.load(dtype="float32", device="cpu", policy="fixed")


def test_the_number_of_a_bad_request_is_said(model: Model) -> None:
    requests = ["What is this?", Request("Why?", "nowhere.png"), "Where?"]
    made = []
    with pytest.raises(HivisError, match=r"^request 1: image nowhere.png: no such file"):
        for number, text in model.batch(requests, max_new_tokens=4):
            made.append((number, len(text.tokens)))
    assert made == [(0, 4)]


@pytest.mark.parametrize("bad", [{"nonsense": 1}, {"temperature": -1}, {"traced": True}])
def test_bad_settings_of_a_batch_are_named(model: Model, bad: dict[str, Any]) -> None:
    with pytest.raises(HivisError, match=next(iter(bad))):
        model.generate_batch(["What is this?"], **bad)


def test_one_prompt_is_not_a_batch(model: Model) -> None:
    for one in ("What is this?", Request("What is this?"), model.prepare("What is this?")):
        with pytest.raises(HivisError, match="requests: wanted several, got one"):
            model.generate_batch(one)  # type: ignore[arg-type]
