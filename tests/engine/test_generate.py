"""Speculative decoding emits the very tokens of plain decoding, which are those of generate()."""

from __future__ import annotations

import pytest
import torch

from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.drafters.checkpoint import HiViSConfig, random_tensors
from hivis.drafters.hivis import HiViSDrafter
from hivis.engine.engine import Engine
from hivis.engine.generate import Stream, generate
from hivis.errors import HivisError
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from tests.helpers.small_drafters import hivis_drafter
from tests.helpers.small_llava import IMAGE_TOKEN, VOCAB, random_inputs, random_llava, random_target
from tests.helpers.toy_drafters import OracleDrafter, RandomDrafter

SETTINGS = {
    "greedy": {},
    "T=0.7": {"temperature": 0.7},
    "T=1": {"temperature": 1.0},
    "top-k": {"temperature": 1.0, "top_k": 20},
    "top-p": {"temperature": 0.7, "top_p": 0.8},
    "all": {"temperature": 1.3, "top_k": 50, "top_p": 0.95, "min_p": 0.01},
}
POLICIES = [
    FixedPolicy(2, 1, 1),
    FixedPolicy(16, 5, 4),
    FixedPolicy(60, 5, 10),
    FixedPolicy(70, 9, 8),
]


pytestmark = pytest.mark.whole_models


@pytest.fixture
def target(device: torch.device) -> HuggingFaceTarget:
    return random_target(device=device)


def inputs_for(target: HuggingFaceTarget, seed: int, **extra: int) -> Inputs:
    return random_inputs(seed, **extra, device=target.device)


def params(setting: str, seed: int = 0, **extra) -> SamplingParams:
    return SamplingParams(**{"max_new_tokens": 40, **SETTINGS[setting], "seed": seed, **extra})


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(4))
def test_any_drafter_and_any_tree_give_the_plain_text(target, setting, seed):
    inputs = inputs_for(target, seed, text=7 + 3 * seed, images=seed % 3)
    sampling = params(setting, seed)
    plain = generate(Engine(target), inputs, sampling)
    assert len(plain.tokens) == 40
    drafters = [
        RandomDrafter(VOCAB, seed),
        OracleDrafter(VOCAB, inputs.length, plain.tokens, right=False),
        OracleDrafter(VOCAB, inputs.length, plain.tokens, right=True),
    ]
    for drafter in drafters:
        for policy in POLICIES:
            speculative = generate(Engine(target, drafter, policy), inputs, sampling)
            assert speculative.tokens == plain.tokens


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("rows", ["text", "all"])
def test_a_hivis_drafter_gives_the_plain_text_of_one_prompt_after_another(target, setting, rows):
    """The real drafter, untrained; used again for the next prompt, whatever the last one left."""
    drafter = hivis_drafter(rows=rows)
    for seed, policy in enumerate(POLICIES):
        inputs = inputs_for(target, seed, text=20 - 5 * seed, images=seed % 3)
        sampling = params(setting, seed)
        plain = generate(Engine(target), inputs, sampling)
        drafted = generate(Engine(target, drafter, policy), inputs, sampling)
        assert drafted.tokens == plain.tokens
        text = int((inputs.tokens != IMAGE_TOKEN).sum())
        assert drafted.statistics.drafter_rows == (text if rows == "text" else inputs.length)


def test_right_guesses_are_accepted_and_wrong_ones_are_not(target):
    inputs = inputs_for(target, 0)
    plain = generate(Engine(target), inputs, params("T=1"))
    right = OracleDrafter(VOCAB, inputs.length, plain.tokens, right=True)
    wrong = OracleDrafter(VOCAB, inputs.length, plain.tokens, right=False)
    lucky = generate(Engine(target, right, FixedPolicy(16, 5, 4)), inputs, params("T=1")).statistics
    unlucky = generate(
        Engine(target, wrong, FixedPolicy(16, 5, 4)), inputs, params("T=1")
    ).statistics
    assert lucky.accepted_length > 1.0
    assert unlucky.accepted_length == 0.0
    assert unlucky.cycles == 39
    assert sum(lucky.accepted_lengths) + lucky.cycles == 39


@pytest.mark.parametrize("images", [0, 1, 2])
def test_plain_greedy_is_generate(target, images):
    inputs = inputs_for(target, 5, images=images)
    theirs = random_llava(device=str(target.device)).generate(
        input_ids=inputs.tokens,
        attention_mask=torch.ones_like(inputs.tokens),
        **inputs.features,
        max_new_tokens=40,
        do_sample=False,
    )
    ours = generate(Engine(target), inputs, params("greedy"))
    assert list(ours.tokens) == theirs[0, inputs.length :].tolist()


def test_grouped_heads(device: torch.device, setting: str = "T=1"):
    grouped = random_target(seed=3, kv_heads=2, device=device)
    inputs = inputs_for(grouped, 1)
    plain = generate(Engine(grouped), inputs, params(setting))
    drafter = OracleDrafter(VOCAB, inputs.length, plain.tokens, right=True)
    assert generate(Engine(grouped, drafter), inputs, params(setting)).tokens == plain.tokens


@pytest.mark.parametrize("limit", range(1, 9))
def test_the_limit_cuts_inside_a_cycle(target, limit):
    inputs = inputs_for(target, 2)
    whole = generate(Engine(target), inputs, params("T=1"))
    drafter = OracleDrafter(VOCAB, inputs.length, whole.tokens, right=True)
    cut = generate(Engine(target, drafter), inputs, params("T=1", max_new_tokens=limit))
    assert cut.tokens == whole.tokens[:limit]


@pytest.mark.parametrize("place", [0, 1, 2, 3, 7, 20])
def test_eos_cuts_where_plain_decoding_cuts(target, place):
    inputs = inputs_for(target, 2)
    whole = generate(Engine(target), inputs, params("T=1"))
    eos = whole.tokens[place]
    first = whole.tokens.index(eos)
    cut = params("T=1", eos_token_ids=(eos, VOCAB + 7))
    drafter = OracleDrafter(VOCAB, inputs.length, whole.tokens, right=True)
    for chosen in (None, drafter, RandomDrafter(VOCAB)):
        assert generate(Engine(target, chosen), inputs, cut).tokens == whole.tokens[: first + 1]


def test_stream_yields_every_token_once_and_can_be_left(target):
    inputs = inputs_for(target, 4)
    plain = generate(Engine(target), inputs, params("T=1"))
    drafter = OracleDrafter(VOCAB, inputs.length, plain.tokens, right=True)
    stream = Stream(Engine(target, drafter), inputs, params("T=1"))
    with pytest.raises(HivisError, match="still running"):
        _ = stream.result
    chunks = list(stream)
    assert [token for chunk in chunks for token in chunk] == list(plain.tokens)
    assert stream.result.tokens == plain.tokens
    for _ in Stream(Engine(target, drafter), inputs, params("T=1")):
        break  # left in the middle: the next text must not notice
    assert generate(Engine(target, drafter), inputs, params("T=1")).tokens == plain.tokens


def test_a_stream_does_not_go_on_in_the_cache_of_another_text(target):
    first = iter(Stream(Engine(target), inputs_for(target, 4), params("T=1")))
    next(first)
    generate(Engine(target), inputs_for(target, 5), params("T=1"))
    with pytest.raises(HivisError, match="sequence: wanted target and drafter to itself"):
        next(first)


def test_seeds_and_temperatures_matter(target):
    inputs = inputs_for(target, 4)
    texts = {generate(Engine(target), inputs, params("T=1", seed)).tokens for seed in range(4)}
    assert len(texts) == 4
    assert generate(Engine(target), inputs, params("greedy")).tokens not in texts


def test_the_drafter_sees_no_visual_row(target):
    inputs = inputs_for(target, 1, text=12, images=2)
    drafter = RandomDrafter(VOCAB)
    result = generate(Engine(target, drafter), inputs, params("greedy"))
    text = inputs.tokens[0] != IMAGE_TOKEN
    assert drafter.prompt.rows == int(text.sum()) == result.statistics.drafter_rows == 12
    assert drafter.prompt.length == inputs.length
    embedded = target.embedding[inputs.tokens[0][text]]
    assert torch.equal(drafter.prompt.embeddings[0], embedded)
    with torch.inference_mode():
        model = random_llava(device=str(target.device)).model
        whole = model(input_ids=inputs.tokens, **inputs.features).last_hidden_state
    torch.testing.assert_close(drafter.prompt.hidden[0], whole[0, text], rtol=1e-4, atol=1e-4)


def test_context_overflow_is_refused(target):
    inputs = inputs_for(target, 1)
    with pytest.raises(HivisError, match=r"context: wanted at most 256 positions"):
        Stream(Engine(target), inputs, params("greedy", max_new_tokens=250))


@pytest.mark.parametrize("placeholders", [0, 1, 15, 17, 32])
def test_placeholders_must_match_the_visual_rows(target, placeholders):
    tokens = torch.tensor([[5, 6, *[IMAGE_TOKEN] * placeholders, 7]], device=target.device)
    for features in (inputs_for(target, 1).features, {}):
        if placeholders or features:
            with pytest.raises(HivisError, match=f"visual rows, got {placeholders}"):
                generate(Engine(target), Inputs(tokens, features), params("greedy"))


def test_nan_logits_are_not_a_token(target):
    inputs = inputs_for(target, 1)
    broken = torch.full_like(inputs.features["pixel_values"], float("nan"))
    bad = type(inputs)(inputs.tokens, {"pixel_values": broken})
    config = HiViSConfig(64, 96, 4, 4, 16, VOCAB)
    for drafter in (None, HiViSDrafter(config, random_tensors(config, seed=1))):
        with pytest.raises(HivisError, match="logits"):
            generate(Engine(target, drafter), bad, params("greedy"))
