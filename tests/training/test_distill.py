"""Distilling a draft model: which rows learn what, what is trained, and that it drafts."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration

from hivis.api.load_drafter import load_draft_vlm
from hivis.bundled import paths
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.models.families.llava import Llava
from hivis.models.families.text_model import TextModel
from hivis.models.load import load_target
from hivis.models.target import HuggingFaceTarget
from hivis.models.trainable_draft import TrainableDraft, load_trainable_draft
from hivis.policies.fixed import FixedPolicy
from hivis.training.data.samples import Columns, Sample
from hivis.training.learners.distill import DraftLearner
from hivis.training.learners.losses import TargetTables
from hivis.training.replay import mean_accepted_length, prompt_of
from recipes.tiny import draft as tiny_draft
from tests.helpers.small_llava import IMAGE_TOKEN, VOCAB, llava_config, random_inputs, random_llava

ANSWER = 14
POLICY = FixedPolicy(16, 5, 4)


def sharp_llava() -> LlavaForConditionalGeneration:
    """With logits far from flat: what is right and what is wrong are far apart then."""
    model = copy.deepcopy(random_llava())
    with torch.no_grad():
        model.lm_head.weight.mul_(6.0)
    return model


@pytest.fixture(scope="module")
def target():
    return HuggingFaceTarget(sharp_llava(), Llava())


@pytest.fixture(scope="module")
def tables(target):
    return TargetTables(target.embedding.detach(), target.head.detach())


@pytest.fixture(scope="module")
def samples(target):
    """Greedy answers to prompts with one, two and no images, of three lengths."""
    return [
        answered(target, seed, images=(1, 2, 0)[seed % 3], text=7 + seed % 5) for seed in range(9)
    ]


@torch.no_grad()
def answered(target: Any, seed: int, images: int, text: int = 9, temperature: float = 0.0):
    """The target's answer with its hidden states, as the capture makes a sample."""
    inputs = random_inputs(seed, text=text, images=images)
    params = SamplingParams(temperature=temperature, max_new_tokens=ANSWER, seed=seed)
    answer = torch.tensor([generate(Engine(target), inputs, params).tokens])
    tokens = torch.cat([inputs.tokens, answer], 1)
    seen = target.family.look(target.model, inputs.features)
    embeddings = target.family.embed(target.model, Inputs(tokens, {}), seen)
    hidden = target._read(embeddings, tokens.shape[1])[0]
    visual = tokens[0] == IMAGE_TOKEN
    starts = visual.nonzero().flatten()[::16]
    return Sample(
        tokens=tokens[0],
        visual=visual,
        answer=torch.arange(tokens.shape[1]) >= inputs.length,
        spans=torch.stack([starts, starts + 16], 1),
        greedy=True,
        conversation=seed,
        kept=~visual,
        hidden=hidden[~visual],
        seen=seen,
    )


def small_llava(seed: int = 5, tie: bool = False) -> LlavaForConditionalGeneration:
    config = llava_config(heads=2, kv_heads=1, layers=2)
    config.text_config.hidden_size = 32
    config.text_config.tie_word_embeddings = config.tie_word_embeddings = tie
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config)


def small_llama(vocab: int = VOCAB) -> LlamaForCausalLM:
    torch.manual_seed(6)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=vocab,
            max_position_embeddings=256,
        )
    )


def trainable(kind: str, **made: Any) -> TrainableDraft:
    if kind == "text":
        return TrainableDraft(small_llama(**made), TextModel())
    return TrainableDraft(small_llava(**made), Llava())


def rigged() -> TrainableDraft:
    """A draft model that is the target."""
    return TrainableDraft(sharp_llava(), Llava())


def learner_of(draft: TrainableDraft, tables: TargetTables, updates: int = 60, lr: float = 1e-2):
    return DraftLearner(draft, tables, updates=updates, lr=lr)


def losses_of(learner: DraftLearner, samples: list[Sample]):
    (stage,) = learner.stages()
    ((losses, keep),) = learner.losses(learner.batch(samples, stage), stage)
    assert bool(keep.all()) and len(keep) == sum(int(s.answer.sum()) for s in samples)
    return losses


def total(learner: DraftLearner, samples: list[Sample]) -> Tensor:
    losses = losses_of(learner, samples)
    return losses.total(learner.stages()[0].weights, torch.ones_like(losses.first))


def train(learner: DraftLearner, samples: list[Sample]) -> list[float]:
    (stage,) = learner.stages()
    learner.module.train()
    optimizer = torch.optim.AdamW(learner.module.parameters(), lr=stage.lr)
    history = []
    for _ in range(stage.updates):
        loss = total(learner, samples)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.module.parameters(), 1.0)
        optimizer.step()
        history.append(float(loss.detach()))
    return history


def gradients(learner: DraftLearner, samples: list[Sample]) -> dict[str, Tensor]:
    learner.module.zero_grad()
    total(learner, samples).backward()
    return {
        name: p.grad.clone() for name, p in learner.module.named_parameters() if p.grad is not None
    }


# Which row learns what


def test_the_target_itself_has_nothing_to_learn(tables, samples):
    """Its loss is the entropy of its own distribution, row by row, the last one's too."""
    learner = learner_of(rigged(), tables)
    losses = losses_of(learner, samples)
    rows = torch.cat([s.hidden_at(s.answer.nonzero().flatten()) for s in samples])
    log_p = torch.log_softmax(rows @ tables.head.T, -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    assert torch.allclose(losses.soft, entropy, atol=1e-4)
    assert bool(losses.first.all()) and bool(losses.hit.all())
    assert not bool(losses.feature.any())


@pytest.mark.parametrize("by", [-1, 1])
def test_a_row_off_is_worse(tables, samples, by):
    learner = learner_of(rigged(), tables)
    right = losses_of(learner, samples)
    shifted = [replace(s, hidden=s.hidden.roll(by, 0)) for s in samples]
    wrong = losses_of(learner, shifted)
    assert float(wrong.soft.mean().detach()) > float(right.soft.mean().detach()) + 1
    assert float(wrong.first.float().mean()) < 0.8  # some tokens follow themselves


def test_the_row_that_predicts_the_first_token_is_not_learned(tables, samples):
    sample = samples[0]
    learner = learner_of(rigged(), tables)
    batch = learner.batch([sample], learner.stages()[0])
    first = sample.prompt_rows
    assert batch.rows[0].nonzero().flatten().tolist() == list(range(first, len(sample)))
    text_row = int((~sample.visual[:first]).sum())
    assert torch.equal(batch.hidden, sample.hidden[text_row:])


@pytest.mark.parametrize("kind", ["vlm", "text"])
def test_samples_in_a_batch_do_not_see_each_other_or_the_padding(tables, samples, kind):
    learner = learner_of(trainable(kind), tables)
    together = losses_of(learner, samples).soft
    alone = torch.cat([losses_of(learner, [s]).soft for s in samples])
    assert len({len(s) for s in samples}) > 3
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["vlm", "text"])
def test_no_row_sees_the_future(tables, samples, kind):
    learner = learner_of(trainable(kind), tables)
    sample = samples[0]
    late = sample.tokens.clone()
    late[-5:] = (late[-5:] + 1) % IMAGE_TOKEN
    before, after = (losses_of(learner, [s]).soft for s in (sample, replace(sample, tokens=late)))
    assert torch.allclose(before[:-5], after[:-5], atol=1e-6)
    assert not torch.isclose(before[-5:], after[-5:], atol=1e-6).any()


def test_images_reach_their_own_text(tables, samples):
    """Another image changes the loss of its sample, and that of no other in the batch."""
    learner = learner_of(trainable("vlm"), tables)
    batch = samples[:4]
    changed = [replace(s, seen=s.seen * 2) if i == 1 else s for i, s in enumerate(batch)]
    before, after = losses_of(learner, batch).soft, losses_of(learner, changed).soft
    differs = (before != after).view(4, ANSWER).any(1)
    assert differs.tolist() == [False, True, False, False]


def test_without_images_a_vlm_reads_text_rows(tables, samples):
    learner = learner_of(trainable("vlm"), tables)
    (stage,) = learner.stages()
    batch = learner.batch(samples, replace(stage, images=False))
    assert batch.seen is None and not bool((batch.tokens == IMAGE_TOKEN).any())
    ((losses, _),) = learner.losses(batch, stage)
    bare = [
        replace(
            s,
            tokens=s.tokens[~s.visual],
            visual=s.visual[~s.visual],
            answer=s.answer[~s.visual],
            kept=s.kept[~s.visual],
            spans=s.spans[:0],
            seen=None,
        )
        for s in samples
    ]
    assert torch.allclose(losses.soft, losses_of(learner, bare).soft, atol=1e-6)


def test_a_capture_without_what_the_tower_saw_is_refused(tables, samples):
    learner = learner_of(trainable("vlm"), tables)
    with pytest.raises(HivisError, match="placeholder for each of 0 visual rows, got 16"):
        losses_of(learner, [replace(samples[0], seen=None)])


def test_what_a_learner_needs_of_a_capture(tables):
    assert learner_of(trainable("vlm"), tables).columns == Columns("text", seen=True)
    assert learner_of(trainable("text"), tables).columns == Columns("text")


# The pass that trains, and the passes that draft


@pytest.mark.parametrize("kind", ["vlm", "text"])
def test_training_and_drafting_give_the_same_logits(tables, samples, kind):
    draft = trainable(kind)
    learner = learner_of(draft, tables)
    for sample in samples[:3]:
        batch = learner.batch([sample], learner.stages()[0])
        with torch.no_grad():
            wanted = draft.hidden(batch.tokens, batch.seen, batch.rows) @ draft.head.T
        prompt = prompt_of(sample, tables.embedding, draft.rows)
        answer = sample.tokens[sample.prompt_rows :]
        first = draft.prefill(prompt, answer[:1], len(sample) + ANSWER)
        assert torch.allclose(first[0], wanted[0], atol=1e-5)
        # The rest as a chain of nodes: node i sees nodes 0..i.
        chain = torch.arange(ANSWER - 1)
        words = ((2 << chain) - 1).view(1, -1, 1)
        rest = draft.extend(answer[None, 1:], chain[None], words)
        assert torch.allclose(rest[0], wanted[1:], atol=1e-5)


@pytest.mark.parametrize("kind", ["vlm", "text"])
def test_drafting_in_between_changes_nothing(target, tables, samples, kind):
    learner = learner_of(trainable(kind), tables)
    learner.module.train()
    before = gradients(learner, samples)
    drafter = learner.drafter()
    assert not learner.module.training
    mean_accepted_length(drafter, tables.embedding, samples[:2], POLICY)
    generate(Engine(target, drafter, POLICY), random_inputs(3), SamplingParams(max_new_tokens=9))
    learner.module.train()
    after = gradients(learner, samples)
    assert before.keys() == after.keys() == dict(learner.module.named_parameters()).keys()
    for name, gradient in before.items():
        assert torch.equal(gradient, after[name]), name
        assert bool(gradient.any()), name


def test_text_alone_leaves_the_projector_as_it_is(tables, samples):
    learner = learner_of(trainable("vlm"), tables)
    found = gradients(learner, [s for s in samples if s.seen is None])
    assert found and not any("projector" in name for name in found)


# Learning


@pytest.mark.parametrize("kind", ["vlm", "text"])
def test_it_learns_and_drafts_what_it_learned(target, tables, samples, kind):
    tower = copy.deepcopy(target.model.model.vision_tower.state_dict())
    own = samples if kind == "vlm" else samples[2::3]
    learner = learner_of(trainable(kind), tables)
    fresh = mean_accepted_length(learner.drafter(), tables.embedding, own, POLICY)
    history = train(learner, own)
    assert history[-1] < history[0] / 2
    drafter = learner.drafter()
    learned = mean_accepted_length(drafter, tables.embedding, own, POLICY)
    assert learned > fresh + 1
    for temperature in (0.0, 1.0):
        for seed in (0, 1, 2):
            inputs = random_inputs(seed, text=7 + seed, images=(1, 2, 0)[seed])
            params = SamplingParams(temperature=temperature, max_new_tokens=30, seed=seed)
            plain = generate(Engine(target), inputs, params)
            assert generate(Engine(target, drafter, POLICY), inputs, params).tokens == plain.tokens
    now = target.model.model.vision_tower.state_dict()
    assert all(torch.equal(now[name], weight) for name, weight in tower.items())


def test_autocast_trains_too(tables, samples):
    learner = learner_of(trainable("vlm"), tables)
    exact = float(total(learner, samples).detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(learner, samples)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(exact, rel=1e-2)
    assert all(p.grad.dtype == torch.float32 for p in learner.module.parameters())


# Vocabularies


@pytest.mark.parametrize("vocab", [VOCAB + 45, 150])
def test_both_sides_are_distributions_over_the_ids_they_share(target, tables, samples, vocab):
    """More ids are padding and cut off; fewer leave the target's wishes for the rest aside."""
    draft = TrainableDraft(small_llama(vocab), TextModel(), vocab_size=max(vocab, VOCAB))
    learner = learner_of(draft, tables)
    losses = losses_of(learner, samples)
    shared = min(vocab, VOCAB)
    rows = torch.cat([s.hidden_at(s.answer.nonzero().flatten()) for s in samples])
    p = torch.softmax(rows @ tables.head[:shared].T, -1)
    wanted = []
    for sample in samples:
        tokens = sample.tokens[~sample.visual].clamp(max=vocab - 1)
        logits = draft.model(input_ids=tokens[None]).logits[0, -ANSWER:, :shared]
        wanted.append(F.log_softmax(logits, -1))
    assert torch.allclose(losses.soft, -(p * torch.cat(wanted)).sum(-1), atol=1e-4)
    assert all(bool(g.isfinite().all()) for g in gradients(learner, samples).values())
    params = SamplingParams(temperature=1.0, max_new_tokens=12)
    plain = generate(Engine(target), random_inputs(4), params)
    drafted = generate(Engine(target, learner.drafter(), POLICY), random_inputs(4), params)
    assert drafted.tokens == plain.tokens


def test_a_smaller_vocabulary_without_compared_tokenizers_is_refused(tables):
    with pytest.raises(HivisError, match=f"vocabulary: wanted the target's {VOCAB} .* got 150"):
        learner_of(TrainableDraft(small_llama(150), TextModel()), tables)


# On disk


@pytest.mark.parametrize("kind", ["vlm", "tied", "text"])
def test_a_saved_model_drafts_as_the_one_that_was_trained(target, tables, samples, kind, tmp_path):
    draft = trainable("text") if kind == "text" else trainable("vlm", tie=kind == "tied")
    learner = learner_of(draft, tables, updates=3)
    train(learner, samples)
    learner.save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert not any("vision_tower" in name for name in stored)
    assert any("lm_head" in name for name in stored) is (kind != "tied")
    model = load_draft_vlm(tmp_path, target).model
    prompt = prompt_of(samples[1], tables.embedding, draft.rows)
    token = samples[1].tokens[-1:]
    assert torch.allclose(
        model.prefill(prompt, token, 90), draft.prefill(prompt, token, 90), atol=1e-5
    )
    # And it can be trained on from there.
    again = learner_of(load_trainable_draft(tmp_path, target), tables, updates=2)
    assert torch.allclose(
        losses_of(again, samples).soft, losses_of(learner, samples).soft, atol=1e-5
    )
    if kind == "tied":
        train(again, samples)
        assert again.draft.head is again.draft.embedding


def test_no_table_of_missing_weights(target, tables, tmp_path, caplog):
    trainable("vlm").save(tmp_path)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        load_draft_vlm(tmp_path, target)
    finally:
        logger.removeHandler(caplog.handler)
    assert "MISSING" not in caplog.text


def test_a_draft_vlm_with_eyes_of_its_own_keeps_them_as_they_are(target, tables, tmp_path):
    """It learns from what they saw, drafts with it on the way, and sees with them afterwards."""
    small_llava().save_pretrained(tmp_path / "whole")
    draft = load_trainable_draft(tmp_path / "whole", target)
    assert draft.own_tower and draft.rows == "all"
    tower = {n: w.clone() for n, w in draft.model.model.vision_tower.state_dict().items()}
    learner = DraftLearner(draft, tables, updates=20)
    samples = [answered(target, seed, 1) for seed in range(4)]
    own = [
        replace(s, seen=draft.family.look(draft.model, random_inputs(seed, text=9).features))
        for seed, s in enumerate(samples)
    ]
    assert not torch.equal(own[0].seen, samples[0].seen)
    history = train(learner, own)
    assert history[-1] < 0.9 * history[0]
    for name, weight in draft.model.model.vision_tower.state_dict().items():
        assert torch.equal(weight, tower[name]), name
    learner.save(tmp_path / "out")
    loaded = load_draft_vlm(tmp_path / "out", target)
    assert not loaded.model.shares_vision
    inputs = random_inputs(0, text=9)
    prompt = target.prefill(inputs, "all", 60).prompt
    token = torch.tensor([5])
    seen = replace(prompt, seen=own[0].seen)
    assert torch.allclose(
        loaded.model.prefill(prompt, token, 60), draft.prefill(seen, token, 60), atol=1e-5
    )


def test_the_targets_weights_in_a_draft_models_own_tower_are_left_out(target, tmp_path):
    model = small_llava()
    model.model.vision_tower.load_state_dict(target.model.model.vision_tower.state_dict())
    model.save_pretrained(tmp_path / "whole")
    load_trainable_draft(tmp_path / "whole", target).save(tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert not any("vision_tower" in name for name in stored)
    assert target.model.model.vision_tower is not None
    load_draft_vlm(tmp_path / "out", target)


def test_a_fresh_tiny_draft_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["draft", "--out", str(tmp_path)])
    tiny_draft.main()
    assert "MB in" in capsys.readouterr().out
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1.8e6
    target, processor = load_target(paths.TARGET)
    draft = load_trainable_draft(tmp_path, target, processor)
    assert draft.rows == "all" and draft.head is draft.embedding
    # Not far from uniform: a draft model that starts out sure of something starts out wrong.
    inputs = processor("What is in the image?", [Path(paths.EVAL) / "scene00.png"])
    prompt = target.prefill(inputs, "all", 200).prompt
    logits = draft.prefill(prompt, torch.tensor([5]), 200)
    entropy = torch.distributions.Categorical(logits=logits[0]).entropy()
    assert float(entropy) > 0.7 * math.log(logits.shape[1])
    # bf16 goes in, fp32 is trained, bf16 comes out, with the same tokenizer.
    draft.save(tmp_path / "again")
    first, second = (load_file(f / "model.safetensors") for f in (tmp_path, tmp_path / "again"))
    assert {weight.dtype for weight in first.values()} == {torch.bfloat16}
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    known = AutoTokenizer.from_pretrained(tmp_path / "again").get_vocab()
    assert known == processor.processor.tokenizer.get_vocab()
    with pytest.raises(HivisError, match="wanted a folder without a model"):
        tiny_draft.main()
