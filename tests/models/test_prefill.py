"""Prefill in chunks: the text and the hidden states of one pass, whatever the chunks and kernel."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hivis.api.load_drafter import load_draft_vlm
from hivis.core.kv_cache import KVCache
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.generate import Stream, generate
from hivis.errors import HivisError
from hivis.models import prefill_attention as chunks
from hivis.models.families.llava import Llava
from hivis.models.prefill_attention import PrefillChunk
from hivis.models.target import HuggingFaceTarget
from tests.helpers.families import RECIPES, images
from tests.helpers.small_llava import random_inputs, random_llava, random_target

CHUNKS = (1, 7, 64)
WHOLE = 10_000
PARAMS = SamplingParams(max_new_tokens=20)
#: For models that repeat themselves when greedy.
SAMPLED = SamplingParams(temperature=1.0, seed=1, max_new_tokens=20)


@pytest.mark.parametrize("asked", [0, 3])
@pytest.mark.parametrize("kind", RECIPES)
def test_any_chunks_give_the_text_and_states_of_one_pass(family_target, kind, asked):
    target, processor = family_target(kind)
    inputs = processor("What is this, and what is it good for, in general?", images(asked))
    seen: dict[int, Any] = {}
    for target.chunk in (WHOLE, *CHUNKS):
        shown = {rows: target.prefill(inputs, rows, 500) for rows in ("none", "text", "all")}
        seen[target.chunk] = shown, generate(Engine(target), inputs, PARAMS).tokens
    target.chunk = chunks.CPU_CHUNK
    whole, text = seen.pop(WHOLE)
    said = set(text)
    assert len(said) > 4 and inputs.length > 64
    scale = whole["all"].prompt.hidden.abs().max()
    for other, tokens in seen.values():
        assert tokens == text
        for rows, wanted in whole.items():
            got = other[rows]
            torch.testing.assert_close(got.logits, wanted.logits, rtol=1e-3, atol=1e-3)
            if rows == "none":
                assert got.prompt is None
                continue
            assert torch.equal(got.prompt.embeddings, wanted.prompt.embeddings)
            assert got.prompt.hidden.shape == wanted.prompt.hidden.shape
            assert (got.prompt.hidden - wanted.prompt.hidden).abs().max() < 2e-5 * scale


def test_a_last_row_that_is_no_text_is_not_shown_as_text():
    target, inputs = random_target(), random_inputs(3)
    at = int((inputs.tokens[0] == target.model.config.image_token_id).nonzero()[-1]) + 1
    ends = type(inputs)(inputs.tokens[:, :at], inputs.features)
    every, text = (target.prefill(ends, rows, 60) for rows in ("all", "text"))
    assert torch.equal(every.logits, text.logits)
    assert torch.equal(text.prompt.hidden, every.prompt.hidden[:, ~every.prompt.visual[0]])
    assert text.prompt.hidden.shape == text.prompt.embeddings.shape


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
def test_a_draft_model_reads_in_chunks_too(family_target, family_checkpoint, kind):
    target, processor = family_target(kind)
    inputs = processor("What is this, and what is it good for?", images(3))
    prompt = target.prefill(inputs, "all", 500).prompt
    model: Any = load_draft_vlm(family_checkpoint(kind), target, processor).model
    logits = []
    for model.chunk in (WHOLE, *CHUNKS):
        logits.append(model.prefill(prompt, torch.tensor([7]), 500))
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=1e-3, atol=1e-3)


def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float):
    """``[B, H, C, D]`` in float64: the last of C queries sees the last of S keys."""
    group = query.shape[1] // key.shape[1]
    query, key, value = (
        query.double(),
        *(each.double().repeat_interleave(group, 1) for each in (key, value)),
    )
    behind = key.shape[2] - query.shape[2]
    hidden = torch.ones(query.shape[2], key.shape[2]).triu(behind + 1).bool()
    scores = (query @ key.mT * scale).masked_fill(hidden, float("-inf"))
    return scores.softmax(-1) @ value


class FlashAttn(SimpleNamespace):
    """The package as far as it is used, in torch, with what its kernel wants of its tensors."""

    def __init__(self, version: str = "2.8.3") -> None:
        super().__init__(__version__=version, calls=[])

    def flash_attn_func(self, query, key, value, softmax_scale, causal):
        assert causal and all(each.stride(-1) == 1 for each in (query, key, value))
        assert key.shape == value.shape and query.shape[::3] == key.shape[::3]
        assert query.shape[2] % key.shape[2] == 0
        self.calls.append((query.shape[1], key.shape[1]))
        out = exact(*(each.transpose(1, 2) for each in (query, key, value)), softmax_scale)
        return out.transpose(1, 2).to(query)


@pytest.mark.parametrize("heads", [(4, 4), (8, 2)])
@pytest.mark.parametrize("rows", [(1, 9), (5, 5), (6, 31)])
@pytest.mark.parametrize("way", ["flash_attn", "mask by name", "mask"])
def test_every_way_to_attend_is_aligned_to_the_last_key(monkeypatch, way, rows, heads):
    monkeypatch.setattr(chunks, "takes_flash", lambda *args: way != "mask")
    if way == "flash_attn":
        monkeypatch.setitem(sys.modules, "flash_attn", FlashAttn())
    torch.manual_seed(0)
    query = torch.randn(2, heads[0], rows[0], 16)
    slab = torch.randn(2, 2, heads[1], 40, 16)
    key, value = slab[0, :, :, : rows[1]], slab[1, :, :, : rows[1]]
    made = PrefillChunk.of(rows[1] - rows[0], torch.empty(2, rows[0], 8), 16)
    if made is None:
        assert rows[0] == rows[1] and way != "flash_attn"
        return
    assert (made.flash is not None) == (way == "flash_attn")
    assert (type(made.mask) is torch.Tensor) == (way == "mask")
    out = made.attend(query, key, value, 0.3)
    assert out.shape == (2, rows[0], heads[0], 16)
    wanted = exact(query, key, value, 0.3)
    assert (out.transpose(1, 2) - wanted).abs().max() < 2e-6


def test_where_flash_kernels_work(monkeypatch):
    gpu, half = torch.device("cuda", 0), torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert chunks.takes_flash(gpu, half, 128) and chunks.takes_flash(gpu, torch.float16, 256)
    assert not chunks.takes_flash(gpu, torch.float32, 128)
    assert not chunks.takes_flash(gpu, half, 264)
    assert not chunks.takes_flash(torch.device("cpu"), half, 128)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not chunks.takes_flash(gpu, half, 128)


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
def test_flash_attn_reads_every_chunk_where_it_can(family_target, monkeypatch, kind):
    target, processor = family_target(kind)
    inputs = processor("What is this?", images(2))
    wanted = generate(Engine(target), inputs, PARAMS).tokens
    package = FlashAttn()
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    assert generate(Engine(target), inputs, PARAMS).tokens == wanted
    assert not package.calls, "these tensors are not on a GPU"
    monkeypatch.setattr(chunks, "takes_flash", lambda *args: True)
    monkeypatch.setattr(target, "chunk", 32)
    assert generate(Engine(target), inputs, PARAMS).tokens == wanted
    ends = [*range(32, inputs.length, 32), inputs.length]
    layers = target.language_model.config.num_hidden_layers
    reads = [(end - start, end) for start, end in zip([0, *ends], ends, strict=False)]
    assert package.calls == [read for read in reads for _ in range(layers)]


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        ("2.0.9", False),
        ("1.0.5", False),
        ("odd", False),
        ("2.1.0", True),
        ("2.8.3.post1", True),
        ("3.0.0b1", True),
        ("10.0", True),
    ],
)
def test_versions_of_another_alignment_are_passed_over(monkeypatch, version, taken):
    monkeypatch.setitem(sys.modules, "flash_attn", FlashAttn(version))
    assert (chunks.flash_attn() is not None) == taken
    assert chunks.prefill_attention().startswith(f"flash_attn {version}" if taken else "SDPA")
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # an import of it fails
    assert chunks.flash_attn() is None and chunks.prefill_attention() == "SDPA"


def test_the_old_slab_is_gone_before_the_new_one_is_made(monkeypatch):
    target = random_target()
    left = iter(Stream(Engine(target), random_inputs(1), SAMPLED))
    next(left)
    old, rows = target.cache, []
    make = target._new_cache

    def new_cache(*args: int) -> KVCache:
        rows.append(old.rows)
        return make(*args)

    inputs = random_inputs(2, text=15)
    wanted = generate(Engine(random_target()), inputs, SAMPLED).tokens
    look = target.family.look
    monkeypatch.setattr(target.family, "look", lambda *args: rows.append(old.rows) or look(*args))
    monkeypatch.setattr(target, "_new_cache", new_cache)
    assert generate(Engine(target), inputs, SAMPLED).tokens == wanted
    assert rows and not any(rows) and old.kv.untyped_storage().nbytes() == 0
    with pytest.raises(HivisError, match="^sequence: wanted target and drafter to itself"):
        next(left)


@pytest.mark.parametrize("row_multiple", [1, 64])
def test_a_slab_that_fits_is_taken_over(row_multiple):
    """No second one is made, and a reference to the old one has no rows left."""
    target = random_target()
    target.row_multiple = row_multiple
    left = iter(Stream(Engine(target), random_inputs(1), SAMPLED))
    next(left)
    old, place = target.cache, target.cache.kv.data_ptr()
    inputs = random_inputs(2, text=9 + (row_multiple > 1))
    wanted = generate(Engine(random_target()), inputs, SAMPLED).tokens
    assert generate(Engine(target), inputs, SAMPLED).tokens == wanted
    assert target.cache.kv.data_ptr() == place and old.rows == 0
    with pytest.raises(HivisError, match="^sequence: wanted target and drafter to itself"):
        next(left)


def test_a_cache_that_was_put_in_its_place_is_left_alone():
    target, inputs = random_target(), random_inputs(1)
    wanted = generate(Engine(target), inputs, SAMPLED).tokens
    target.prefill(inputs, "none", 60)
    slab = target.cache.for_sequences(2, 80)
    slab.copy_sequence(0, target.cache)
    own, kept = target.cache, slab.kv[..., : inputs.length, :].clone()
    target.cache = slab
    assert generate(Engine(target), inputs, SAMPLED).tokens == wanted
    assert torch.equal(slab.kv[..., : inputs.length, :], kept) and own.rows == 60


@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_prefill_without_memory_leaves_a_usable_target(part):
    target = random_target()
    target.chunk = 10
    inputs, other = random_inputs(1), random_inputs(2, text=20)
    wanted = generate(Engine(random_target()), inputs, SAMPLED).tokens
    left = iter(Stream(Engine(target), other, SAMPLED))
    next(left)
    passes = []

    def fails(*args: Any) -> None:
        passes.append(args)
        if len(passes) == part:
            raise torch.OutOfMemoryError

    hook = target.language_model.register_forward_pre_hook(fails)
    with pytest.raises(torch.OutOfMemoryError):
        generate(Engine(target), other, SAMPLED)
    hook.remove()
    with pytest.raises(HivisError, match="^sequence: wanted target and drafter to itself"):
        next(left)
    assert len(set(wanted)) > 4
    assert generate(Engine(target), inputs, SAMPLED).tokens == wanted


def test_a_slab_that_does_not_fit_leaves_a_usable_target(monkeypatch):
    target, inputs = random_target(), random_inputs(1)
    wanted = generate(Engine(target), inputs, SAMPLED).tokens
    left = iter(Stream(Engine(target), inputs, SAMPLED))
    next(left)
    make = target._new_cache
    with monkeypatch.context() as patch:

        def new_cache(batch: int, rows: int) -> KVCache:
            if rows:
                raise torch.OutOfMemoryError
            return make(batch, rows)

        patch.setattr(target, "_new_cache", new_cache)
        with pytest.raises(torch.OutOfMemoryError):
            generate(Engine(target), random_inputs(1, text=15), SAMPLED)
    with pytest.raises(HivisError, match="^sequence: wanted target and drafter to itself"):
        next(left)
    assert generate(Engine(target), inputs, SAMPLED).tokens == wanted


def test_the_device_says_how_many_rows_a_chunk_has():
    assert HuggingFaceTarget(random_llava(), Llava()).chunk == chunks.CPU_CHUNK
    assert chunks.chunk_rows(torch.device("cuda")) == chunks.GPU_CHUNK
