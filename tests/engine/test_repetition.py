"""The repetition penalty: inside a tree it depends on the path, and is the sequential one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

import hivis
from hivis.api.settings import resolve
from hivis.bundled import paths
from hivis.core.sampling import SamplingParams, SamplingState, seen_tokens
from hivis.core.tree import DraftTree, pack_bits, unpack_bits
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.models.load import load_target
from hivis.policies.fixed import FixedPolicy
from tests.helpers.families import save_checkpoint
from tests.helpers.family_prompts import FAMILIES, ask, asked_of
from tests.helpers.memory import peak_of
from tests.helpers.small_drafters import family_drafters
from tests.helpers.small_llava import VOCAB, random_inputs, random_target
from tests.helpers.toy_drafters import OracleDrafter, RandomDrafter, random_parents

PENALTIES = [0.6, 1.05, 1.8]
POLICY = FixedPolicy(nodes=14, depth=5, top_k=3)


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


@pytest.mark.parametrize("nodes", [1, 63, 64, 65, 200])
def test_bits_come_back(nodes: int) -> None:
    member = torch.rand(2, 3, nodes) < 0.4
    words = pack_bits(member, -(-nodes // 64))
    assert torch.equal(unpack_bits(words, nodes), member)


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


def test_what_is_no_number_stays_what_it_was() -> None:
    odd = torch.tensor([[[torch.nan, torch.inf, -torch.inf, -0.0, 0.0, 1e-40]]])
    seen = torch.tensor([[True] * 6])
    state = SamplingState.of_each([SamplingParams(repetition_penalty=2.0)], "cpu", seen)
    got = state.penalize(odd, torch.zeros(1, 1, 0, dtype=torch.int64))
    assert got[0, 0, 0].isnan() and torch.equal(got[0, 0, 1:5], odd[0, 0, 1:5])
    assert torch.equal(got.signbit(), odd.signbit()) and got[0, 0, 5] == odd[0, 0, 5] / 2


def test_without_a_penalty_nobody_keeps_account() -> None:
    seen = torch.zeros(2, 9, dtype=torch.bool)
    state = SamplingState.of_each([SamplingParams()] * 2, "cpu", seen)
    assert state.seen is None and state.penalty is None
    logits = torch.randn(2, 3, 9)
    assert state.penalize(logits, torch.zeros(2, 3, 3, dtype=torch.int64)) is logits


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in made:
            made[kind] = load_target(save_checkpoint(kind, tmp_path_factory.mktemp(kind)))
        return made[kind]

    return get


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", FAMILIES)
def test_plain_greedy_is_generate(loaded: Any, kind: str, penalty: float) -> None:
    target, processor = loaded(kind)
    changed = False
    for seed in range(2):
        inputs = ask(processor, "one", seed)
        theirs = target.model.generate(
            **asked_of(target, inputs),
            max_new_tokens=30,
            do_sample=False,
            repetition_penalty=penalty,
        )
        params = SamplingParams(max_new_tokens=30, repetition_penalty=penalty)
        ours = generate(target, inputs, params).tokens
        assert list(ours) == theirs[0, inputs.length :].tolist()
        changed |= ours != generate(target, inputs, replace(params, repetition_penalty=1.0)).tokens
    assert changed or penalty == 1.05
    one = ask(processor, "one")
    plain = generate(target, one, params).tokens
    for name, drafter in family_drafters().items():
        assert generate(target, one, params, drafter, POLICY).tokens == plain, name


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_any_drafter_gives_the_plain_text(temperature: float, penalty: float) -> None:
    target = random_target()
    for seed in range(3):
        inputs = random_inputs(seed)
        params = SamplingParams(
            temperature=temperature, seed=seed, max_new_tokens=40, repetition_penalty=penalty
        )
        plain = generate(target, inputs, params).tokens
        for name, drafter in {
            "random": RandomDrafter(VOCAB),
            "right": OracleDrafter(VOCAB, inputs.length, plain, right=True),
            "wrong": OracleDrafter(VOCAB, inputs.length, plain, right=False),
        }.items():
            drafted = generate(target, inputs, params, drafter, POLICY)
            assert drafted.tokens == plain, name
            if name == "right":  # long paths, in which the penalty is the path's own
                assert max(drafted.statistics.accepted_lengths) > 3


def test_a_drafter_knows_of_the_penalty() -> None:
    """Else it would go on proposing what the target has just been made to avoid."""
    model = hivis.load(dtype="float32", device="cpu", policy="fixed")
    accepted = {}
    for penalty in (1.0, 1.3):
        lengths = []
        for scene in range(3):
            text = model.generate(
                "Describe the image in detail.",
                paths.EVAL / f"scene0{scene}.png",
                repetition_penalty=penalty,
                max_new_tokens=60,
            )
            lengths.append(text.statistics.accepted_length)
        accepted[penalty] = sum(lengths) / 3
    assert accepted[1.3] > 0.5 * accepted[1.0] > 1


def test_a_models_own_penalty_is_honored() -> None:
    own = {"repetition_penalty": 1.05, "do_sample": False}
    assert resolve(own, {}, 5, 100).params.repetition_penalty == 1.05
    assert resolve(own, {"repetition_penalty": 1.0}, 5, 100).params.repetition_penalty == 1.0
    assert resolve({}, {}, 5, 100).params.repetition_penalty == 1.0


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "1.1", True])
def test_penalties_out_of_range_are_refused(bad: Any) -> None:
    with pytest.raises(HivisError, match="repetition_penalty: wanted a number"):
        SamplingParams(repetition_penalty=bad)
