"""Sampling settings, and the repetition penalty of the nodes of a tree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from hivis.core.sampling import SamplingParams, SamplingState, seen_tokens
from hivis.core.tree import DraftTree
from hivis.errors import HivisError
from tests.helpers.memory import peak_of
from tests.helpers.toy_drafters import random_parents


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(8))
def test_every_node_gets_what_transformers_gives_its_path(seed: int, dtype: torch.dtype) -> None:
    """Bit for bit, with tokens that repeat within the prompt, the path, and across branches."""
    make = torch.Generator().manual_seed(seed)
    vocab, nodes, batch = 23, 1 + 11 * seed, 3
    parents = [random_parents(nodes, 9, make) for _ in range(batch)]
    tokens = torch.randint(vocab, (batch, nodes), generator=make)
    tree = DraftTree.from_parents(tokens, torch.tensor(parents).int(), 9)
    prompts = torch.randint(0, vocab + 4, (batch, 6), generator=make)  # placeholders beyond V
    logits = (torch.randn(batch, nodes, vocab, generator=make) * 3).to(dtype)
    logits[:, :, 3], logits[:, :, 4] = -torch.inf, 0.0
    penalties = [0.7, 1.0, 1.9]
    seen = seen_tokens(prompts, vocab).scatter(1, tokens[:, :1], True)
    params = [SamplingParams(repetition_penalty=penalty) for penalty in penalties]
    got = SamplingState.of_each(params, "cpu", seen).penalize(logits, tree.paths())
    assert got.dtype == torch.float32
    for b, penalty in enumerate(penalties):
        for node in range(nodes):
            path, at = [], node
            while at >= 0:
                path.append(int(tokens[b, at]))
                at = parents[b][at]
            said = torch.tensor([[t for t in prompts[b].tolist() if t < vocab] + path])
            theirs = RepetitionPenaltyLogitsProcessor(penalty)(said, logits[b, node][None].float())
            assert torch.equal(got[b, node], theirs[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_penalty_takes_ten_bytes_a_logit_and_leaves_the_logits_alone(dtype: torch.dtype) -> None:
    """Four of them are the result's."""
    make = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 8, 20_000, generator=make).to(dtype)
    seen = torch.rand(2, 20_000, generator=make) < 0.4
    state = SamplingState.of_each([SamplingParams(repetition_penalty=1.3)] * 2, "cpu", seen)
    before, path = logits.clone(), torch.randint(20_000, (2, 8, 4), generator=make)
    assert peak_of(lambda: state.penalize(logits, path)) <= 10 * logits.numel() + 4096
    assert torch.equal(logits, before)


def test_values_that_are_not_finite_stay_what_they_were() -> None:
    odd = torch.tensor([[[torch.nan, torch.inf, -torch.inf, -0.0, 0.0, 1e-40]]])
    seen = torch.tensor([[True] * 6])
    state = SamplingState.of_each([SamplingParams(repetition_penalty=2.0)], "cpu", seen)
    got = state.penalize(odd, torch.zeros(1, 1, 0, dtype=torch.int64))
    assert got[0, 0, 0].isnan() and torch.equal(got[0, 0, 1:5], odd[0, 0, 1:5])
    assert torch.equal(got.signbit(), odd.signbit()) and got[0, 0, 5] == odd[0, 0, 5] / 2


def test_without_a_penalty_no_tokens_are_kept() -> None:
    seen = torch.zeros(2, 9, dtype=torch.bool)
    state = SamplingState.of_each([SamplingParams()] * 2, "cpu", seen)
    assert state.seen is None and state.penalty is None
    logits = torch.randn(2, 3, 9)
    assert state.penalize(logits, torch.zeros(2, 3, 3, dtype=torch.int64)) is logits


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "1.1", True])
def test_penalties_out_of_range_are_refused(bad: Any) -> None:
    with pytest.raises(HivisError, match="repetition_penalty: wanted a number"):
        SamplingParams(repetition_penalty=bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": 1e300},
        {"temperature": 1e-50}, {"top_k": -1}, {"top_k": float("nan")}, {"top_p": 0.0},
        {"top_p": 1e-50}, {"top_p": 1.1}, {"min_p": -0.1}, {"seed": 2**63}, {"seed": 1.5},
        {"max_new_tokens": 0}, {"temperature": "1"}, {"min_p": None}, {"max_new_tokens": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_bad_sampling_settings_are_named(bad):
    (name,) = bad
    with pytest.raises(HivisError, match=f"^{name}: wanted .*, got "):
        SamplingParams(**bad)
