"""A whole cycle under fake CUDA tensors: whatever asks for a value on the host raises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from hivis.core.clock import PhaseClock
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams, sampling_entries
from hivis.drafters import quantized_linear as quantized
from hivis.drafters.config import HiViSConfig, ViSpecConfig
from hivis.drafters.draft_vlm import DraftVLM
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.engine.engine import Engine
from hivis.engine.running_batch import RunningBatch
from hivis.models.decoder import HuggingFaceDecoder
from hivis.models.draft_model import HuggingFaceDraft
from hivis.models.families.registry import family_of
from hivis.models.target import HuggingFaceTarget
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import CostPolicy
from hivis.policies.fixed import FixedPolicy
from hivis.policies.times import Times
from tests.helpers.fake_cuda import CUDA, fake_cuda, on_gpu
from tests.helpers.families import RECIPES, config_of
from tests.helpers.small_llava import llava_config

ROWS = 200
DRAFTERS = ["none", "hivis", "eagle", "vispec", "draft vlm"]
TIMES = Times({8: 1.0, 16: 1.1, 32: 1.3, 60: 1.7}, 0.1, 0.3)


def small_llava(layers: int = 3) -> Any:
    return LlavaForConditionalGeneration(llava_config(layers=layers))


def drafter_of(
    kind: str,
    target: HuggingFaceTarget,
    small: Any = None,
    weights: str = "full",
    short: bool = False,
) -> Any:
    vocab, hidden = target.head.shape
    sizes: dict[str, Any] = dict(
        hidden_size=hidden,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=vocab,
    )
    if kind == "draft vlm":
        drafter: Any = DraftVLM(HuggingFaceDraft(on_gpu(small), family_of("llava")))
    elif kind == "vispec":
        vispec = ViSpecConfig(**sizes, queries=3)
        drafter = ViSpecDrafter(vispec, fake_tensors(vispec))
    else:
        more = {"rows": "all", "residual_rows": 0} if kind == "eagle" else {}
        config = HiViSConfig(**sizes, **more)
        drafter = HiViSDrafter(config, fake_tensors(config))
    if weights != "full":
        drafter.quantize(weights)
    if short:  # a list that is read is checked, which takes its values
        drafter.draft_vocab = torch.empty(50, dtype=torch.int64)
    drafter.bind(target.embedding, target.head)
    return drafter


def fake_tensors(config: Any) -> dict[str, Tensor]:
    return {name: torch.empty(shape) for name, shape in config.shapes().items()}


def at_a_text(model: Any, texts: int, width: int, vocab: int) -> None:
    """Give a model what a prefill would have left: it reads values, which is its right."""
    if isinstance(model, DraftVLM):
        at_a_text(model.model, texts, width, vocab)
        model.cache = model.model.cache
        model.cache.set_entry("logits", torch.empty(texts, vocab))
        model._vocab = vocab
    elif isinstance(model, HuggingFaceDecoder):
        model.cache = model._new_cache(texts, ROWS)
        model.cache.set_entry("offset", torch.empty(texts, 1, dtype=torch.int64))
    else:
        model._allocate(texts, ROWS)
        model.cache.set_entry("output", torch.empty(texts, width))
        model.cache.set_entry("bias", torch.empty(texts, 1, width))


def loop_of(
    target: HuggingFaceTarget, drafter: Any, policy: Policy, params: SamplingParams, texts: int
) -> RunningBatch:
    loop = RunningBatch(Engine(target, drafter, policy), slots=texts)
    loop.cycles.clock = PhaseClock(torch.device("cpu"))
    vocab, width = target.head.shape
    for model in loop._models:
        at_a_text(model, texts, width, vocab)
    target.cache.set_entry("token", torch.empty(texts, dtype=torch.int64))
    target.cache.set_entry("seen", torch.empty(texts, vocab, dtype=torch.bool))
    for name, entry in sampling_entries([params] * texts, CUDA).items():
        target.cache.set_entry(name, entry)
    loop._caches = [target.cache]
    loop._params, loop._ends = [params] * texts, [(2, 5)] * texts
    loop._regroup()
    return loop


def advance(loop: RunningBatch, cycles: int = 2) -> None:
    for _ in range(cycles):
        report = loop.cycles.advance(loop._sampling, loop.planner.choose(), loop.planner.learns)
        assert report.values.device.type == "cuda"


SAMPLING = {
    "greedy": SamplingParams(),
    "sampled": SamplingParams(temperature=0.8, top_k=5, top_p=0.9),
    "penal": SamplingParams(temperature=1.0, repetition_penalty=1.2),
}


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("kind", DRAFTERS)
def test_a_cycle_reads_nothing_on_the_host(kind: str, sampling: str, texts: int) -> None:
    model, small = small_llava(), small_llava(2)
    with fake_cuda():
        target = HuggingFaceTarget(on_gpu(model), family_of("llava"))
        drafter = None if kind == "none" else drafter_of(kind, target, small)
        advance(loop_of(target, drafter, FixedPolicy(), SAMPLING[sampling], texts))


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("weights", ["int8", "int4-32"])
@pytest.mark.parametrize("kind", ["hivis", "vispec"])
def test_nor_does_a_quantized_drafter(
    kind: str, weights: str, packed: bool, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "has_kernel", lambda bits, device: packed)
    model = small_llava()
    with fake_cuda():
        target = HuggingFaceTarget(on_gpu(model), family_of("llava"))
        drafter = drafter_of(kind, target, weights=weights, short=short)
        used = {type(own).__name__ for own in drafter._m.values()}
        names = ("Packed8InPlanes", "Packed4") if packed else ("Dequantized8", "Dequantized4")
        assert used == {names[weights != "int8"]}
        advance(loop_of(target, drafter, FixedPolicy(), SAMPLING["sampled"], 2))


@pytest.mark.parametrize("kind", list(RECIPES))
def test_nor_does_a_target_of_another_family(kind: str) -> None:
    tokenizer = RECIPES[kind].tokenizer()
    model = AutoModelForImageTextToText.from_config(config_of(kind, tokenizer))
    with fake_cuda():
        model = on_gpu(model)
        target = HuggingFaceTarget(model, family_of(model.config.model_type))
        advance(loop_of(target, drafter_of("hivis", target), FixedPolicy(), SamplingParams(), 2))


@pytest.mark.parametrize("size", [(8, 3), (16, 7), (32, 9), (60, 12)])
@pytest.mark.parametrize("policy", [CostPolicy(times=TIMES, ahead=True), ConfidencePolicy()])
def test_nor_do_policies_on_a_gpu(policy: Any, size: tuple[int, int]) -> None:
    model = small_llava()
    with fake_cuda():
        target = HuggingFaceTarget(on_gpu(model), family_of("llava"))
        loop = loop_of(target, drafter_of("hivis", target), policy, SamplingParams(), 1)
        planned = loop.planner.sized(*size)  # type: ignore[attr-defined]
        loop.planner.choose = lambda: planned  # type: ignore[method-assign]
        advance(loop)


def test_a_read_would_be_noticed() -> None:
    class Looks:
        """A drafter that peeks."""

        def __init__(self, drafter: Any) -> None:
            self.drafter = drafter

        def __getattr__(self, name: str) -> Any:
            return getattr(self.drafter, name)

        def grow(self, token: Tensor, *rest: Any) -> Any:
            tree = self.drafter.grow(token, *rest)
            return replace(tree, max_depth=int(tree.depths.max()))

    model = small_llava()
    with fake_cuda():
        target = HuggingFaceTarget(on_gpu(model), family_of("llava"))
        drafter = drafter_of("hivis", target)
        loop = loop_of(target, drafter, FixedPolicy(), SamplingParams(), 1)
        loop.cycles.drafter = Looks(drafter)
        with pytest.raises(Exception, match="_local_scalar_dense|support for cuda"):
            advance(loop)
