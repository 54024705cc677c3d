"""Cycles that are captured and replayed, and read one late: the same texts and statistics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from hivis.bundled import paths
from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.drafters.load import load_drafter
from hivis.engine.batch import Batch, BatchRequest
from hivis.engine.cuda_graphs import Graphs
from hivis.engine.engine import Engine
from hivis.engine.generate import Stream, generate
from hivis.engine.results import Generation
from hivis.errors import HivisError
from hivis.models.load import load_target
from hivis.models.prefix_reuse import ContinuedTarget
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy
from hivis.policies.fixed import FixedPolicy
from hivis.policies.times import Times
from tests.helpers.captured_cycles import (
    GREEDY,
    PROMPTS,
    ROW_MULTIPLE,
    SAMPLING,
    TREE,
    OnGpu,
    all_plainly,
    parts,
    plainly,
    roomy,
)
from tests.helpers.captured_graphs import CpuCapturer
from tests.helpers.small_drafters import KINDS, pair
from tests.helpers.small_llava import VOCAB, random_inputs, random_target
from tests.helpers.toy_drafters import RandomDrafter

TIMES = Times({8: 1.0, 16: 1.1, 32: 1.3, 60: 1.7}, 0.1, 0.3)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> OnGpu:
    return OnGpu(monkeypatch)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_text_after_text(kind: str, sampling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured once, replayed for every prompt that fits the memory: all is as without."""
    params = SAMPLING[sampling]
    wanted = all_plainly(params)

    def texts() -> list[tuple[Any, ...]]:
        target, drafter = (random_target(), None) if kind == "none" else pair(kind)
        roomy(target, drafter)
        return [
            parts(generate(Engine(target, drafter, TREE), inputs, params)) for inputs in PROMPTS
        ]

    before = texts()
    gpu = OnGpu(monkeypatch)
    after = texts()
    assert [text[0] for text in after] == wanted
    assert after == before
    cycles = sum(text[1] for text in after)
    assert gpu.capturer.captured <= 2  # one memory serves all, or nearly
    # One more per text is under way when it ends; of each capture, one cycle came before it.
    assert gpu.capturer.replayed == cycles + len(PROMPTS) - gpu.capturer.captured


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 24])
@pytest.mark.parametrize("late", [0, 1, 2])
def test_the_end_is_exact(gpu: OnGpu, late: int, limit: int) -> None:
    """At a limit, at an EOS in the middle of a cycle's tokens, and at the caller's word."""
    gpu.late, params = late, replace(GREEDY, max_new_tokens=limit)
    target, drafter = pair("hivis")
    whole = plainly(random_target(), PROMPTS[1], GREEDY)
    assert generate(Engine(target, drafter, TREE), PROMPTS[1], params).tokens == whole[:limit]
    ends = whole[limit - 1]
    until = whole[: whole.index(ends) + 1]
    params = replace(GREEDY, eos_token_ids=(ends,))
    made = generate(Engine(target, drafter, TREE), PROMPTS[1], params)
    assert made.tokens == until
    s = made.statistics
    assert sum(s.accepted_lengths) + s.cycles + 1 == len(until)
    stream = Stream(
        Engine(target, drafter, TREE), PROMPTS[1], GREEDY, until=lambda token: token == ends
    )
    assert tuple(token for new in stream for token in new) == until


@pytest.mark.parametrize("kind", ["none", *KINDS])
@pytest.mark.parametrize("slots", [2, 4])
def test_continuous_batching(gpu: OnGpu, kind: str, slots: int) -> None:
    """Sequences join, end and leave while cycles are under way."""
    target, drafter = (random_target(), None) if kind == "none" else pair(kind)
    roomy(target, drafter)
    queue, wanted, plain = [], {}, random_target()
    for number in range(9):
        inputs = PROMPTS[number % len(PROMPTS)]
        params = replace(
            SAMPLING["sampled"],
            seed=number,
            max_new_tokens=1 + 7 * number % 19,
            temperature=number % 2,
        )
        wanted[number] = plainly(plain, inputs, params)
        queue.append(BatchRequest(inputs, params, number))
    made = dict(Batch(Engine(target, drafter, TREE), queue, slots))
    assert {number: text.tokens for number, text in made.items()} == wanted
    for text in made.values():
        s = text.statistics
        assert sum(s.accepted_lengths) + s.cycles + 1 == len(text.tokens)
    assert gpu.capturer.replayed


@pytest.mark.parametrize(
    "policy",
    [
        CostPolicy(times=TIMES, ahead=True),
        CostPolicy(times=TIMES),
        ConfidencePolicy(ahead=True),
        FixedPolicy(2, 1, 1),
        FixedPolicy(60, 6, 8),
    ],
)
def test_policies(gpu: OnGpu, policy: Policy) -> None:
    target, drafter = pair("hivis")
    wanted = all_plainly(SAMPLING["sampled"])
    roomy(target, drafter)
    made = [
        generate(Engine(target, drafter, policy), inputs, SAMPLING["sampled"]) for inputs in PROMPTS
    ]
    assert [text.tokens for text in made] == wanted
    looks = isinstance(policy, CostPolicy) and policy.ahead is None
    assert bool(gpu.capturer.replayed) != looks


def test_what_is_measured_is_what_is_replayed(gpu: OnGpu) -> None:
    """The cost model times the pair in a long text; that moves nothing of the text."""
    target, drafter = pair("hivis")
    params = replace(SAMPLING["sampled"], max_new_tokens=200)
    policy = CostPolicy(ahead=True)
    made = generate(Engine(target, drafter, policy), PROMPTS[0], params)
    assert made.tokens == plainly(random_target(), PROMPTS[0], params)
    assert "measure" in made.statistics.phases_ms
    captures = target.cache.get_or_make(Graphs, lambda: Graphs(CpuCapturer()))._captured
    assert {"draft", "verify", "cycle"} == {name[0] for name in captures}  # type: ignore[index]
    planner = policy.planner(target, drafter, torch.device("cpu"))
    assert planner.times is not None and set(planner.times.verify) == {8, 16, 32, 60}  # type: ignore[attr-defined]


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_quantized_drafter_with_a_draft_vocabulary(gpu: OnGpu, weights: str) -> None:
    target, drafter = pair("hivis")
    drafter.quantize(weights, torch.arange(0, VOCAB, 2))  # type: ignore[attr-defined]
    roomy(target, drafter)
    params = SAMPLING["sampled"]
    made = [generate(Engine(target, drafter, TREE), inputs, params).tokens for inputs in PROMPTS]
    assert made == all_plainly(params) and gpu.capturer.replayed


def test_every_cycle_is_traced_as_it_was(gpu: OnGpu) -> None:
    def traced() -> Generation:
        target, drafter = pair("hivis")
        stream = Stream(Engine(target, drafter, TREE), PROMPTS[2], SAMPLING["sampled"], traced=True)
        for _ in stream:
            pass
        return stream.result

    late = traced()
    gpu.capturer, gpu.late = None, 0
    assert parts(late) == parts(traced()) and late.statistics.trace


def test_a_conversation(gpu: OnGpu) -> None:
    """Rows that were kept for the next turn are those of the prompt, not of a thrown away cycle."""
    _, drafter = pair("hivis")
    continued, inputs, wanted = ContinuedTarget(random_target()), PROMPTS[1], random_target()
    continued.target.row_multiple = ROW_MULTIPLE
    for turn in range(4):
        made = generate(Engine(continued, drafter, TREE), inputs, GREEDY)  # type: ignore[arg-type]
        assert made.tokens == plainly(wanted, inputs, GREEDY)
        assert bool(continued.kept) == bool(turn)
        new = torch.tensor([[*made.tokens[:9], 5 + turn]])
        inputs = replace(inputs, tokens=torch.cat([inputs.tokens, new], 1))
    assert gpu.capturer.replayed


def test_other_memory_is_captured_again(gpu: OnGpu) -> None:
    """A longer prompt, another drafter, a drafter that served another target: never stale."""
    target, drafter = pair("hivis")
    _, other = pair("vispec")
    elsewhere = random_target(seed=5)
    long = random_inputs(9, text=90)
    plain, plain_elsewhere = random_target(), random_target(seed=5)
    for inputs in (PROMPTS[0], long, PROMPTS[0]):
        for at, drafts, truth in (
            (target, drafter, plain),
            (target, other, plain),
            (elsewhere, drafter, plain_elsewhere),
            (target, drafter, plain),
            (target, None, plain),
        ):
            made = generate(Engine(at, drafts, TREE), inputs, GREEDY)
            assert made.tokens == plainly(truth, inputs, GREEDY), (inputs.length,)
    assert gpu.capturer.replayed


class Refuses:
    """A capturer that cannot."""

    def capture(self, work: Callable[[], Any]) -> Any:
        raise torch.OutOfMemoryError("no memory for graphs\nsecond line")


def test_what_cannot_be_captured_is_done_as_it_is(gpu: OnGpu) -> None:
    gpu.capturer = Refuses()
    target, drafter = pair("hivis")
    with pytest.warns(UserWarning, match="^cycle: wanted to capture it.*no memory for graphs$"):
        made = generate(Engine(target, drafter, TREE), PROMPTS[0], GREEDY)
    assert made.tokens == plainly(random_target(), PROMPTS[0], GREEDY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once for this memory, and not tried again
        generate(Engine(target, drafter, TREE), PROMPTS[0], GREEDY)


def test_a_drafter_that_reads_on_the_host_is_not_captured(gpu: OnGpu) -> None:
    target = random_target()
    with pytest.warns(UserWarning, match="not permitted when stream is capturing"):
        made = generate(Engine(target, Peeks(), TREE), PROMPTS[0], GREEDY)
    assert made.tokens == plainly(random_target(), PROMPTS[0], GREEDY)
    assert not gpu.capturer.captured


class Peeks(RandomDrafter):
    """Reads the root on the host; its cache has nothing in it."""

    def __init__(self) -> None:
        super().__init__(VOCAB)
        self.cache = random_target().cache


def test_logits_with_a_nan_end_the_text(gpu: OnGpu) -> None:
    target, drafter = pair("hivis")
    stream = iter(Stream(Engine(target, drafter, TREE), PROMPTS[0], GREEDY))
    before = next(stream)
    head = target.head.data.clone()
    try:
        target.head.data.fill_(float("nan"))
        with pytest.raises(HivisError, match="^logits: wanted a finite candidate"):
            for new in stream:
                before += new
    finally:
        target.head.data.copy_(head)
    assert tuple(before) == plainly(random_target(), PROMPTS[0], GREEDY)[: len(before)]


def test_an_older_stream_ends(gpu: OnGpu) -> None:
    """Though its cache's memory is the new one's now."""
    target, drafter = pair("hivis")
    roomy(target, drafter)
    left = iter(Stream(Engine(target, drafter, TREE), PROMPTS[0], GREEDY))
    for _ in range(3):
        next(left)
    wanted = plainly(random_target(), PROMPTS[1], GREEDY)
    fresh = iter(Stream(Engine(target, drafter, TREE), PROMPTS[1], GREEDY))
    got = next(fresh)
    with pytest.raises(HivisError, match="^sequence: wanted target and drafter to itself"):
        for _ in left:
            pass
    for new in fresh:
        got = got + new
    assert tuple(got) == wanted


@pytest.mark.parametrize("drafts", [True, False])
def test_a_longer_text_joins_in_memory_that_stays(gpu: OnGpu, drafts: bool) -> None:
    """The batch's caches are large enough for it, the drafter's tables are not."""
    target, drafter = pair("hivis")
    roomy(target, drafter)
    plain, queue, wanted = random_target(), [], {}
    target.max_positions = plain.max_positions = 4096
    # Rows of 320, then 384 (caches grow to 448), then 448.
    for number, (text, new) in enumerate([(260, 10), (300, 60), (300, 12), (370, 20), (370, 10)]):
        inputs = random_inputs(number, text=text, images=0)
        params = replace(GREEDY, max_new_tokens=new)
        wanted[number] = plainly(plain, inputs, params)
        queue.append(BatchRequest(inputs, params, number))
    batch = Batch(Engine(target, drafter if drafts else None, TREE), queue, 2)
    assert {number: made.tokens for number, made in batch} == wanted
    assert gpu.capturer.replayed


def test_a_drafter_bound_elsewhere_ends_the_text(gpu: OnGpu) -> None:
    target, drafter = pair("hivis")
    stream = iter(Stream(Engine(target, drafter, TREE), PROMPTS[0], GREEDY))
    for _ in range(4):
        next(stream)
    other = random_target(seed=5)
    drafter.bind(other.embedding, other.head)
    with pytest.raises(HivisError, match="^sequence: wanted target and drafter to itself"):
        next(stream)


def test_a_draft_model_for_targets_of_two_vocabularies(gpu: OnGpu) -> None:
    target, drafter = pair("draft-vlm")
    wanted = plainly(random_target(), PROMPTS[0], GREEDY)
    for vocab in (VOCAB, VOCAB - 7, VOCAB):
        table = torch.empty(vocab, 1)
        drafter.bind(table, table)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drafter, "bind", lambda embedding, head: None)
            assert generate(Engine(target, drafter, TREE), PROMPTS[0], GREEDY).tokens == wanted


def test_a_drafter_without_a_cache_is_not_captured(gpu: OnGpu) -> None:
    made = generate(Engine(random_target(), RandomDrafter(VOCAB), TREE), PROMPTS[0], GREEDY)
    assert made.tokens == plainly(random_target(), PROMPTS[0], GREEDY)
    assert not gpu.capturer.captured


def one_by_one(
    engine: Engine, prompts: list[Inputs], params: SamplingParams
) -> list[tuple[Any, ...]]:
    """All that counts of each prompt's output."""
    made = []
    for inputs in prompts:
        stream = Stream(engine, inputs, params)
        list(stream)
        made.append(parts(stream.result))
    return made


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_on_a_gpu(kind: str, sampling: str) -> None:
    """Captured and replayed by CUDA itself, alone and side by side: the texts of plain steps."""
    target = random_target(device="cuda")
    prompts = [
        random_inputs(seed, text=7 + seed, images=seed % 3, device="cuda") for seed in range(6)
    ]
    params = SAMPLING[sampling]
    drafter = None if kind == "none" else pair(kind, "cuda")[1]

    def outputs(drafter: Drafter | None, graphs: bool) -> list[tuple[Any, ...]]:
        return one_by_one(Engine(target, drafter, TREE, graphs), prompts, params)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = [output[0] for output in outputs(None, False)]
        eager, replayed = outputs(drafter, False), outputs(drafter, True)
        assert [output[0] for output in replayed] == wanted and replayed == eager
        queue = [BatchRequest(inputs, params, n) for n, inputs in enumerate(prompts)]
        batch = dict(Batch(Engine(target, drafter, TREE, True), queue, 3))
    assert [batch[n].tokens for n in range(len(prompts))] == wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sampling", ["greedy", "sampled"])
def test_on_tensor_cores(sampling: str) -> None:
    """The bundled model in bfloat16, heads of 64, whose passes run the fast kernels: captured and
    eager cycles give the same outputs, and memory that has grown is captured anew."""
    target, processor = load_target(paths.TARGET, torch.bfloat16, "cuda")
    drafter = load_drafter(paths.WEIGHTS / "hivis")
    params = SAMPLING[sampling]
    asked = ["Describe the image in detail.", "What does the sign say?", "Count. " * 200]
    prompts = [processor(question, [paths.EVAL / "scene00.png"]) for question in asked]

    def outputs(graphs: bool) -> list[tuple[Any, ...]]:
        return one_by_one(Engine(target, drafter, TREE, graphs), [*prompts, *prompts], params)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outputs(True) == outputs(False)


@pytest.fixture(autouse=True)
def no_stray_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="cycle: wanted to capture")
        yield
