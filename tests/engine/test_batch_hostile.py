"""Batches among families, other texts, failures and odd queues."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hivis.core.kv_cache import KVCache
from hivis.core.sampling import SamplingParams
from hivis.engine.batch import Batch, BatchRequest
from hivis.engine.engine import Engine
from hivis.engine.generate import Stream, generate
from hivis.engine.running_batch import SequenceReplaced
from hivis.errors import HivisError
from hivis.models.families.llava import Llava
from hivis.models.prefix_reuse import ContinuedTarget
from hivis.models.target import HuggingFaceTarget
from hivis.policies.cost import CostPolicy
from hivis.policies.fixed import FixedPolicy
from tests.helpers.batch_requests import POLICY, alone, drafter, request_of, target
from tests.helpers.families import RECIPES
from tests.helpers.family_prompts import PROMPTS, ask
from tests.helpers.small_drafters import family_drafters
from tests.helpers.small_llava import VOCAB, random_inputs, random_llava, random_target
from tests.helpers.toy_drafters import OracleDrafter


@pytest.mark.parametrize("kind", list(RECIPES))
def test_every_family_in_a_batch(kind: str, family_target: Any) -> None:
    """Prompts of none to three images, of other sizes: positions and offsets are each text's."""
    made, processor = family_target(kind)
    params = SamplingParams(max_new_tokens=16)
    texts = [
        BatchRequest(ask(processor, prompt, seed), params, (prompt, seed))
        for seed in range(2)
        for prompt in PROMPTS
    ]
    plain = {text.name: generate(Engine(made), text.inputs, params).tokens for text in texts}
    for name in ("hivis", "vispec"):
        for of in (made, ContinuedTarget(made)):
            batch = dict(Batch(Engine(of, family_drafters()[name], POLICY), texts, 3))
            assert {which: text.tokens for which, text in batch.items()} == plain, name


def test_a_newer_text_is_left_alone() -> None:
    running = iter(Batch(Engine(target(), drafter("hivis"), POLICY), map(request_of, range(9)), 2))
    next(running)
    one = request_of(50)
    newer = iter(Stream(Engine(target()), one.inputs, SamplingParams(max_new_tokens=30)))
    tokens = next(newer)
    with pytest.raises(SequenceReplaced):
        next(running)
    for new in newer:
        tokens = tokens + new
    plain = generate(Engine(target()), one.inputs, SamplingParams(max_new_tokens=30)).tokens
    assert tuple(tokens) == plain


def test_a_drafter_is_of_one_text_at_a_time() -> None:
    other = HuggingFaceTarget(random_llava(), Llava())
    shared = drafter("hivis")
    long = SamplingParams(max_new_tokens=40)
    first = iter(Stream(Engine(target(), shared, POLICY), random_inputs(1), long))
    next(first)
    Stream(Engine(other, shared, POLICY), random_inputs(2), long)  # no text yet
    next(first)
    plain = generate(Engine(target()), random_inputs(2), long).tokens
    assert generate(Engine(other, shared, POLICY), random_inputs(2), long).tokens == plain
    with pytest.raises(SequenceReplaced, match="sequence: wanted target and drafter to itself"):
        list(first)


@pytest.mark.parametrize("error", [OSError("no network"), torch.OutOfMemoryError("much")])
def test_a_queue_that_fails_takes_no_text_along(error: Exception) -> None:
    def queue() -> Iterator[BatchRequest[int]]:
        yield from map(request_of, range(4))
        raise error

    made: dict[int, Any] = {}
    with pytest.raises(type(error)):
        for name, text in Batch(Engine(target(), drafter("hivis"), POLICY), queue(), 3):
            made[name] = text
    assert {name: text.tokens for name, text in made.items()} == {n: alone(n) for n in range(4)}


def test_nor_does_a_prefill_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    one, calls = random_target(), []
    original = one.prefill

    def prefill(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("the fourth")
        return original(*args)

    monkeypatch.setattr(one, "prefill", prefill)
    made: dict[int, Any] = {}
    with pytest.raises(torch.OutOfMemoryError, match="the fourth"):
        for name, text in Batch(
            Engine(one, drafter("vispec"), POLICY), map(request_of, range(9)), 3
        ):
            made[name] = text
    assert {name: text.tokens for name, text in made.items()} == {n: alone(n) for n in range(3)}


def test_the_first_error_is_the_one_that_is_said() -> None:
    def broken(number: int) -> Any:
        calls = []

        def until(token: int) -> bool:
            calls.append(token)
            if len(calls) > 1:  # both in their first cycle, which is the same one
                raise RuntimeError(f"text {number}")
            return False

        return until

    long = SamplingParams(max_new_tokens=20)
    texts = [
        BatchRequest(random_inputs(n), long, n, broken(n) if n < 2 else None) for n in range(3)
    ]
    with pytest.raises(RuntimeError, match="text 0"):
        list(Batch(Engine(target(), drafter("hivis"), POLICY), texts, 3))


def test_going_on_after_a_break_gives_the_rest() -> None:
    batch = Batch(Engine(target(), drafter("hivis"), POLICY), map(request_of, range(6)), 2)
    names = []
    for name, _ in batch:
        names.append(name)
        if len(names) == 2:
            break
    names += [name for name, _ in batch]
    assert sorted(names) == list(range(6))


def test_a_queue_may_compute_with_gradients() -> None:
    modes = []

    def queue() -> Iterator[BatchRequest[int]]:
        for number in range(3):
            modes.append(torch.is_inference_mode_enabled())
            yield request_of(number)

    for _ in Batch(Engine(target(), drafter("hivis"), POLICY), queue(), 2):
        modes.append(torch.is_inference_mode_enabled())
    assert not any(modes)


def test_a_reader_that_takes_its_time_is_not_counted() -> None:
    last = 0.0
    texts = [BatchRequest(random_inputs(n), SamplingParams(max_new_tokens=6), n) for n in range(2)]
    for _, text in Batch(Engine(target(), drafter("hivis"), POLICY), texts, 1):
        time.sleep(0.4)
        last = text.statistics.total_ms
    assert last < 400
    stream = Stream(Engine(target()), random_inputs(0), SamplingParams(max_new_tokens=1))
    for _ in stream:
        time.sleep(0.4)
    assert stream.result.statistics.total_ms < 400


def test_caches_grow_seldom_and_with_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    moves, rooms = [], []
    resized = KVCache.resized

    def count(self: KVCache, most: int, rows: int) -> KVCache:
        moves.append(rows)
        rooms.append(most)
        return resized(self, most, rows)

    monkeypatch.setattr(KVCache, "resized", count)
    few = [BatchRequest(random_inputs(n), SamplingParams(max_new_tokens=4), n) for n in range(2)]
    assert len(dict(Batch(Engine(target()), few, 2**70))) == 2
    assert max(rooms) == 4
    moves.clear()
    ascending = [
        BatchRequest(random_inputs(n, 3 + 5 * n), SamplingParams(max_new_tokens=2), n)
        for n in range(30)
    ]
    assert len(dict(Batch(Engine(target()), ascending, 2))) == 30
    assert len(moves) <= 6


def test_planners_learn_on_whatever_ends_a_text() -> None:
    policy = CostPolicy()
    seen = []

    class Noted(CostPolicy):
        def planner(self, one: Any, two: Any, device: Any, ends: Any = (), count: int = 1) -> Any:
            seen.append((ends, count))
            planner = policy.planner(one, two, device, ends, count)
            assert planner.plan.ends == planner.fallback.ends == ends
            return planner

    params = [
        SamplingParams(max_new_tokens=new, eos_token_ids=ends)
        for new, ends in ((6, (1,)), (90, (2, 3)), (40, (1, 4)), (160, (5,)))
    ]
    texts = [BatchRequest(random_inputs(n), each, n) for n, each in enumerate(params)]
    one = random_target()
    list(Batch(Engine(one, drafter("eagle"), Noted()), texts, 3))
    # The shortest ends first, and the fourth takes its place; then the third, then the second.
    assert seen == [((1, 2, 3, 4), 3), ((1, 2, 3, 4, 5), 3), ((2, 3, 5), 2), ((5,), 1)]
    assert len(policy._kept) == 3  # for three, two and one of them


def test_a_text_may_just_fit() -> None:
    inputs = random_inputs(3)
    new = target().max_positions - inputs.length
    fits = SamplingParams(max_new_tokens=new, eos_token_ids=())
    ((_, text),) = Batch(
        Engine(target(), drafter("hivis"), FixedPolicy()), [BatchRequest(inputs, fits, 0)], 2
    )
    assert len(text.tokens) == new
    with pytest.raises(HivisError, match="context: wanted at most"):
        generate(Engine(target()), inputs, SamplingParams(max_new_tokens=new + 1))


def test_memory_stays_flat() -> None:
    def queue() -> Iterator[BatchRequest[int]]:
        for number in range(60):
            yield BatchRequest(random_inputs(number % 5), SamplingParams(max_new_tokens=12), number)

    batch = Batch(Engine(target(), drafter("hivis"), POLICY), queue(), 3)
    sizes = []
    for _ in batch:
        sizes.append(len(batch._running.clock._spans) + len(batch._running.clock._sums))
    assert max(sizes) < 20


def test_logits_that_break_late_cost_no_token_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle may accept tokens before the one that cannot be drawn: they are good."""
    one, inputs = random_target(), random_inputs(7)
    params = SamplingParams(max_new_tokens=30)
    plain = generate(Engine(one), inputs, params).tokens
    original, last = one.verify, inputs.length + 12

    def verify(tree: Any) -> Any:
        result = original(tree)
        at = one.cache.positions(tree.depths)[0]
        result.logits[0, at >= last] = float("nan")
        return result

    monkeypatch.setattr(one, "verify", verify)
    for guesser in (None, OracleDrafter(VOCAB, inputs.length, plain, right=True)):
        got: list[int] = []
        with pytest.raises(HivisError, match="logits: wanted a finite candidate"):
            for new in Stream(
                Engine(one, guesser, FixedPolicy(nodes=9, depth=8, top_k=2)), inputs, params
            ):
                got += new
        assert tuple(got) == plain[:13]
