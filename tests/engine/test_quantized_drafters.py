"""A quantized drafter changes no token; what it is bound with, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hivis
from hivis.bundled import paths
from hivis.drafters.checkpoint import HiViSConfig, random_tensors
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.load import load_drafter
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.engine.batch import Batch
from hivis.engine.engine import Engine
from hivis.errors import HivisError
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from tests.helpers.batch_requests import alone, request_of
from tests.helpers.small_drafters import SIZES, check_sequences, pair
from tests.helpers.small_llava import VOCAB
from tests.helpers.toy_drafters import RandomDrafter

pytestmark = pytest.mark.whole_models
POLICY = FixedPolicy(nodes=10, depth=4, top_k=3)


def quantized_pair(kind: str, weights: str) -> tuple[HuggingFaceTarget, OneLayerDrafter]:
    target, drafter = pair(kind)
    assert isinstance(drafter, OneLayerDrafter)
    drafter.quantize(weights)
    return target, drafter


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("weights", ["int8", "int4-32"])
@pytest.mark.parametrize("kind", ["hivis", "vispec"])
def test_the_text_is_the_plain_text(kind: str, weights: str, temperature: float) -> None:
    target, drafter = quantized_pair(kind, weights)
    check_sequences(target, drafter, temperature, f"{kind} {weights} {temperature}")


@pytest.mark.parametrize("weights", ["int8", "int4-32"])
def test_so_are_those_of_a_batch_of_three(weights: str) -> None:
    target, drafter = quantized_pair("hivis", weights)
    made = dict(Batch(Engine(target, drafter, POLICY), map(request_of, range(7)), 3))
    assert sorted(made) == list(range(7))
    for number, generation in made.items():
        assert generation.tokens == alone(number), number


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_bundled_drafter_still_drafts_well(weights: str) -> None:
    """It nearly always agrees with itself in full, which random weights could not show."""
    prompt = "Describe this image in detail and explain each thing."
    texts = {}
    for chosen in ("full", weights):
        model = hivis.load(dtype="float32", device="cpu", policy="fixed", drafter_weights=chosen)
        texts[chosen] = model.generate(prompt, paths.EVAL / "scene00.png", max_new_tokens=60)
    full, quantized = texts["full"], texts[weights]
    assert quantized.tokens == full.tokens
    assert len(quantized.statistics.accepted_lengths) <= 1.5 * len(full.statistics.accepted_lengths)


def held(thing: Any, seen: set[int]) -> list[Tensor]:
    """All tensors that ``thing`` holds, however deep, each once."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, dict):
        inner = list(thing.values())
    elif isinstance(thing, (list, tuple)):
        inner = list(thing)
    else:
        inner = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    return [tensor for part in inner for tensor in held(part, seen)]


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("folder", [paths.HIVIS, paths.VISPEC])
def test_no_copy_of_the_weights_stays(folder: Path, weights: str) -> None:
    drafter = load_drafter(folder, weights=weights)
    e, v = drafter.config.hidden_size, drafter.config.vocab_size
    shared = torch.randn(v, e), torch.randn(v, e)
    drafter.bind(*shared)
    own = [tensor for tensor in held(drafter, set()) if all(tensor is not t for t in shared)]
    own = [t for t in own if t.data_ptr() not in {table.data_ptr() for table in shared}]
    floats = [t for t in own if t.is_floating_point() and t.numel() > e * e]
    # The adaptor of ViSpec, which reads an image once, is as it was.
    assert {tuple(t.shape) for t in floats} <= {
        tuple(t.shape) for t in drafter._w.values() if folder == paths.VISPEC
    }
    assert drafter._m["head"].nbytes < 0.6 * shared[1].nbytes / 2


def test_once_quantized_it_cannot_be_had_back(tmp_path: Path) -> None:
    config = HiViSConfig(**SIZES)
    drafter = HiViSDrafter(config, random_tensors(config, seed=1))
    drafter.quantize("int8")
    table = torch.randn(VOCAB, 64)
    drafter.bind(table, table)
    drafter.bind(table, table)  # the same target again
    with pytest.raises(
        HivisError, match="wanted its own weights to bind it again, got quantized ones"
    ):
        drafter.bind(table.clone(), table)
    with pytest.raises(HivisError, match="wanted .*, got no such tensor"):
        drafter.save(tmp_path)
    with pytest.raises(HivisError, match="wanted one that is not bound yet"):
        drafter.quantize("int4")


def test_a_drafter_object_is_made_quantized() -> None:
    given = load_drafter(paths.HIVIS)
    model = hivis.load(drafter=given, device="cpu", drafter_weights="int4")
    assert model.drafter is given and given.weights == "int4" and not given.tensors


BAD = {
    "format": ({"drafter_weights": "int5"}, "wanted one of full, int8, .*, got 'int5'"),
    "no drafter": ({"drafter_weights": "int5", "drafter": "none"}, "wanted one of full"),
    "small model": (
        {"drafter": paths.DRAFT_VLM, "drafter_weights": "int8"},
        "wanted a HiViS, ViSpec or EAGLE-2 one .*, got Spec-LLaVA at",
    ),
    "own kind": (
        {"drafter": RandomDrafter(2688), "drafter_weights": "int8"},
        "drafter: wanted a HiViS, ViSpec or EAGLE-2 one .*, got RandomDrafter",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_quantized_is_refused(case: str) -> None:
    arguments, message = BAD[case]
    with pytest.raises(HivisError, match=message) as error:
        hivis.load(device="cpu", **arguments)
    assert "\n" not in str(error.value)


def test_sizes_that_no_group_divides_are_refused() -> None:
    config = HiViSConfig(**{**SIZES, "hidden_size": 48})
    drafter = HiViSDrafter(config, random_tensors(config, seed=1))
    drafter.quantize("int4")
    table = torch.randn(VOCAB, 48)
    with pytest.raises(HivisError, match="wanted int8 for a matrix of 48 inputs, got int4"):
        drafter.bind(table, table)
    with pytest.raises(HivisError, match="wanted int8"):
        drafter.bind(table, table)
