"""Training: attention pattern, row selection, losses, both stages on a toy set, and capture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import IMAGE_TOKEN, PICTURE_ROWS, random_inputs, random_llava
from safetensors.torch import save_file
from torch import Tensor

from hivis.drafters.checkpoint import HiViSConfig
from hivis.drafters.hivis import HiViSDrafter
from hivis.errors import HivisError, run_cli
from hivis.handoff import Prompt
from hivis.policy import TreePolicy
from hivis.sampling import SamplingParams, SamplingState
from hivis.training import train_drafter
from hivis.training.accepted import accepted_lengths
from hivis.training.capture import CaptureSettings, capture, write_capture
from hivis.training.data import Batch, Sample, load_capture, shuffled_batches, split
from hivis.training.losses import LossWeights, Wanted, masked_mean, row_losses
from hivis.training.model import HiViSModel, aligned_attention, visible
from hivis.training.stages import (
    StageSettings,
    Target,
    batch_losses,
    forward_steps,
    measure,
    run_stage,
    select_rows,
)

VOCAB, HIDDEN = 40, 32
CONFIG = HiViSConfig(
    hidden_size=HIDDEN, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8, vocab_size=VOCAB,
)  # fmt: skip


def toy_target() -> Target:
    make = torch.Generator().manual_seed(0)
    shape = (VOCAB, HIDDEN)
    return Target(torch.randn(shape, generator=make), torch.randn(shape, generator=make))


def toy_samples(count: int) -> list[Sample]:
    """Texts that count upwards, and hidden states that point at the next token."""
    target, samples = toy_target(), []
    make = torch.Generator().manual_seed(1)
    for i in range(count):
        start, length = (int(torch.randint(1, 30, (1,), generator=make)), 14 + i % 5)
        tokens = (start + torch.arange(length)) % VOCAB
        hidden = target.head[(tokens + 1) % VOCAB] * 0.7
        hidden = hidden + torch.randn(hidden.shape, generator=make) * 0.05
        samples.append(Sample(tokens, hidden, torch.arange(length) >= 4, True))
    return samples


# Attention of the self-feedback steps


def test_which_keys_a_step_sees() -> None:
    # Row 3 of step 2: step 0 up to row 1, its parent (row 2 of step 1), itself (row 3 of step 2).
    mask = visible(4, 2)
    assert mask[3].tolist() == [True, True, False, False] + [False, False, True, False] + [
        False, False, False, True,
    ]  # fmt: skip
    assert torch.equal(visible(5, 0), torch.ones(5, 5, dtype=torch.bool).tril())
    # Too early for two steps back: the rows that do not exist are not seen.
    assert mask[0].nonzero().flatten().tolist() == [8]


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_aligned_attention_equals_one_softmax_under_the_mask(step: int) -> None:
    make = torch.Generator().manual_seed(2)
    rows = 7
    query = torch.randn(2, 4, rows, 8, generator=make)
    steps = [
        tuple(torch.randn(2, 2, 2, rows, 8, generator=make).unbind(0)) for _ in range(step + 1)
    ]
    keys = torch.cat([k.repeat_interleave(2, 1) for k, _ in steps], 2)
    values = torch.cat([v.repeat_interleave(2, 1) for _, v in steps], 2)
    score = query @ keys.transpose(2, 3) * 0.3
    weight = torch.softmax(score.masked_fill(~visible(rows, step), float("-inf")), -1)
    assert torch.allclose(aligned_attention(query, steps, 0.3), weight @ values, atol=1e-6)


def test_feedback_steps_equal_the_drafter_at_inference() -> None:
    """A chain drafted behind row r: its outputs are those of steps 1, 2 at rows r + 1, r + 2."""
    torch.manual_seed(3)
    model, target = HiViSModel(CONFIG), toy_target()
    torch.nn.init.normal_(model.residual)
    drafter = HiViSDrafter(CONFIG, dict(model.state_dict()))
    drafter.bind(target.embedding, target.head)
    hidden = torch.randn(1, 12, HIDDEN)
    tokens = torch.randint(0, VOCAB, (1, 12))
    # Let the text go on with what the drafter proposes, so that training sees the same chain.
    prompt = Prompt(target.embedding[tokens[:, :6]], hidden[:, :6], 6)
    drafter.prefill(prompt, tokens[:, 6], 40)
    outputs: list[Tensor] = []
    finish = drafter._finish

    def spy(*args: Tensor) -> Tensor:
        out = finish(*args)
        outputs.append(out[0, 0])
        return out

    drafter._finish = spy  # type: ignore[method-assign]
    sampling = SamplingState.of(SamplingParams(), 1, "cpu")
    tree = drafter.grow(tokens[:, 6], torch.tensor([0]), sampling, TreePolicy(4, 3, 1))
    tokens[0, 7:10] = tree.tokens[0, 1:4]
    batch = Batch(tokens, hidden, torch.ones(1, 12, dtype=torch.bool), None)
    steps = list(forward_steps(model, target, batch, 3))
    assert len(outputs) == 2
    assert torch.allclose(steps[0][0, 5], drafter._output[0], atol=1e-5)
    assert torch.allclose(steps[1][0, 6], outputs[0], atol=1e-5)
    assert torch.allclose(steps[2][0, 7], outputs[1], atol=1e-5)


def test_no_row_sees_the_future() -> None:
    torch.manual_seed(4)
    model, target = HiViSModel(CONFIG), toy_target()
    tokens, hidden = torch.randint(0, VOCAB, (1, 9)), torch.randn(1, 9, HIDDEN)
    answer = torch.ones(1, 9, dtype=torch.bool)
    before = list(forward_steps(model, target, Batch(tokens, hidden, answer, None), 3))
    late_tokens, late_hidden = tokens.clone(), hidden.clone()
    late_tokens[0, 6:] = 0
    late_hidden[0, 5:] = 100.0
    after = list(forward_steps(model, target, Batch(late_tokens, late_hidden, answer, None), 3))
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one[:, :5], two[:, :5])
        assert not torch.allclose(one[:, 5:], two[:, 5:])


# Row selection and losses


def test_row_selection_by_hand() -> None:
    answer = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]]).bool()
    hit_0 = torch.tensor([[0, 0, 1, 1, 0, 1, 1, 1]]).bool()
    kept_1 = select_rows(1, hit_0, answer)
    assert kept_1.int().tolist() == [[0, 0, 1, 1, 0, 1, 1, 1]]
    hit_1 = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 1]]).bool()
    kept_2 = select_rows(2, hit_1, kept_1)
    # Row 2: nothing before it. 3, 4: hit, and the row before was kept. 5: row 4 was not kept.
    # 6: no hit. 7: hit after a kept row.
    assert kept_2.int().tolist() == [[0, 0, 0, 1, 1, 0, 0, 1]]


def test_steps_train_on_fewer_rows() -> None:
    torch.manual_seed(5)
    model, target = HiViSModel(CONFIG), toy_target()
    batch = Batch.of(toy_samples(4), "cpu")
    steps = batch_losses(model, target, batch, 3)
    assert bool(steps[0][1].all()), "step 0 trains on every answer row"
    assert torch.equal(steps[1][1], steps[0][0].hit)
    assert int(steps[2][1].sum()) <= int(steps[1][0].hit.sum())


def test_losses_by_definition() -> None:
    target = toy_target()
    make = torch.Generator().manual_seed(6)
    true, guess = torch.randn(2, 5, HIDDEN, generator=make)
    losses = row_losses(guess, Wanted.of(true, target.head), target.head)
    p = torch.softmax(true @ target.head.T, -1)
    log_q = torch.log_softmax(guess @ target.head.T, -1)
    for row in range(5):
        best = p[row].topk(10).indices.tolist()
        assert float(losses.soft[row]) == pytest.approx(float(-(p[row] * log_q[row]).sum()), 1e-4)
        top = -sum(float(p[row, v] * log_q[row, v]) for v in best)
        assert float(losses.top[row]) == pytest.approx(top, 1e-4)
        wanted = float(F.smooth_l1_loss(guess[row], true[row]))
        assert float(losses.feature[row]) == pytest.approx(wanted, 1e-5)
        guesses = log_q[row].topk(5).indices.tolist()
        assert bool(losses.hit[row]) == (best[0] in guesses)
        assert bool(losses.first[row]) == (best[0] == guesses[0])
    assert float(masked_mean(losses.soft, torch.zeros(5, dtype=torch.bool))) == 0


def test_fed_back_features_are_detached() -> None:
    torch.manual_seed(7)
    model, target = HiViSModel(CONFIG), toy_target()
    outs = list(forward_steps(model, target, Batch.of(toy_samples(2), "cpu"), 2))
    outs[0].retain_grad()
    outs[1].sum().backward()
    assert outs[0].grad is None


# Data


def test_shards_round_trip(tmp_path: Path) -> None:
    samples = toy_samples(7)
    assert write_capture(tmp_path, samples, "text", shard=3) == 7
    again = load_capture(tmp_path, "text")
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    for one, two in zip(samples, again, strict=True):
        assert torch.equal(one.tokens, two.tokens) and torch.equal(one.answer, two.answer)
        assert torch.equal(one.hidden.bfloat16(), two.hidden) and two.greedy
        assert two.prompt_rows == 4
    with pytest.raises(HivisError, match="rows 'all', got 'text'"):
        load_capture(tmp_path, "all")
    with pytest.raises(HivisError, match="got none"):
        load_capture(tmp_path / "nowhere", "text")


def test_batches_hold_every_sample_once() -> None:
    samples = toy_samples(21)
    seen = [tuple(row.tolist()) for b in shuffled_batches(samples, 4, 0) for row in b.tokens]
    assert len(seen) == 21
    training, held_out = split(samples, 4, 0)
    assert len(training) == 17 and len(held_out) == 4
    assert not {id(s) for s in training} & {id(s) for s in held_out}


# Training


def settings(steps: int, **changes: object) -> StageSettings:
    base = {"lr": 3e-3, "minutes": 5.0, "batch": 8, "warmup": 5, "max_updates": 60}
    return StageSettings(steps=steps, weights=LossWeights(), **(base | changes))  # type: ignore


def test_both_stages_learn_a_toy_language() -> None:
    torch.manual_seed(8)
    model, target, samples = HiViSModel(CONFIG), toy_target(), toy_samples(24)
    before = measure(model, target, samples, 3)
    assert run_stage(model, target, samples, settings(1)) == 60
    middle = measure(model, target, samples, 3)
    model.share_first_residual()
    assert torch.equal(model.residual[0], model.residual[2])
    run_stage(model, target, samples, settings(3))
    after = measure(model, target, samples, 3)
    assert not torch.equal(model.residual[0], model.residual[2])
    assert middle[0]["soft"] < 0.5 * before[0]["soft"]
    assert after[2]["soft"] < before[2]["soft"] and after[2]["soft"] < middle[2]["soft"]
    assert after[0]["first"] > 0.95 and after[2]["first"] > 0.8

    drafter = HiViSDrafter(CONFIG, dict(model.state_dict()))
    drafter.bind(target.embedding, target.head)
    lengths = accepted_lengths(drafter, samples[0], TreePolicy(nodes=4, depth=3, top_k=1))
    # Every cycle but the last emits what it accepts and one more.
    assert sum(lengths) + len(lengths) >= len(samples[0]) - 5
    assert sum(lengths) / len(lengths) > 1.5


def test_the_clock_ends_a_stage() -> None:
    model, target = HiViSModel(CONFIG), toy_target()
    short = settings(1, minutes=0.3 / 60, max_updates=10**9)
    assert 0 < run_stage(model, target, toy_samples(8), short) < 10_000


def write_target(folder: Path) -> Path:
    folder.mkdir()
    target = toy_target()
    text = {
        "hidden_size": HIDDEN, "intermediate_size": 48, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCAB,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"text_config": text}))
    tables = {
        "language_model.model.embed_tokens.weight": target.embedding,
        "language_model.lm_head.weight": target.head,
    }
    save_file(tables, folder / "model.safetensors")
    return folder


def test_command_line_trains_and_writes_a_drafter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = write_target(tmp_path / "target")
    write_capture(tmp_path / "data", toy_samples(20), "text")
    out = tmp_path / "drafter"
    arguments = ["--target", str(target), "--data", str(tmp_path / "data"), "--out", str(out)]
    arguments += ["--minutes", "0.02", "--batch", "4"]
    train_drafter.main(arguments)
    assert "accepted length" in capsys.readouterr().out
    assert HiViSDrafter.load(out).config == HiViSDrafter.load(out / "stage1").config
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["held_out"] == 4 and len(metrics["stage 2"]["held_out_steps"]) == 3

    bad = arguments.copy()
    bad[bad.index("--data") + 1] = str(tmp_path / "nowhere")
    with pytest.raises(SystemExit) as stop:
        run_cli(lambda: train_drafter.main(bad))
    assert stop.value.code == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ") and "nowhere" in message


# Capture


@pytest.mark.parametrize("sampled", [0.0, 1.0])
@pytest.mark.parametrize("rows", ["text", "all"])
def test_capture_keeps_what_a_drafter_will_see(rows: str, sampled: float) -> None:
    model = random_llava()
    prompts = [random_inputs(seed, text=6 + seed, pictures=seed % 2) for seed in range(3)]
    chosen = CaptureSettings(rows=rows, sampled=sampled, max_new_tokens=8, batch=2)
    samples = list(capture(model, prompts, chosen))
    assert len(samples) == 3
    for prompt, sample in zip(prompts, samples, strict=True):
        visual = int((prompt.tokens == IMAGE_TOKEN).sum())
        assert visual in (0, PICTURE_ROWS)
        kept = prompt.tokens.shape[1] - (visual if rows == "text" else 0)
        assert sample.prompt_rows == kept and len(sample) == kept + 8
        assert sample.greedy == (sampled == 0.0)
        # One forward of this text alone gives the same hidden states, and the same embeddings.
        full = torch.cat([prompt.tokens[0], sample.tokens[kept:]])[None]
        with torch.inference_mode():
            hidden = model.model(input_ids=full, **prompt.features).last_hidden_state[0]
        keep = full[0] != IMAGE_TOKEN if rows == "text" else torch.ones(full.shape[1]).bool()
        assert torch.allclose(sample.hidden, hidden[keep], atol=1e-4)
        if rows == "text":
            assert IMAGE_TOKEN not in sample.tokens and sample.embeddings is None
        else:
            assert sample.embeddings is not None
            text = sample.tokens != IMAGE_TOKEN
            wanted = model.get_input_embeddings()(sample.tokens[text])
            assert torch.equal(sample.embeddings[text], wanted)
            if visual:
                same = model.get_input_embeddings()(torch.tensor(IMAGE_TOKEN))
                assert not (sample.embeddings[~text] == same).all(-1).any()
        if sampled == 0.0:
            logits = hidden[-9:-1] @ model.lm_head.weight.detach().T
            assert torch.equal(logits.argmax(-1), sample.tokens[-8:])


def test_capture_stops_at_eos(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llava()
    prompts = [random_inputs(seed, pictures=0) for seed in range(2)]
    chosen = CaptureSettings(sampled=0.0, max_new_tokens=8)
    free = list(capture(model, prompts, chosen))
    eos = int(free[0].tokens[-4])
    first = free[0].tokens[-8:].tolist().index(eos)
    monkeypatch.setattr(model.generation_config, "eos_token_id", eos)
    sample = next(iter(capture(model, prompts, chosen)))
    answer = sample.tokens[prompts[0].tokens.shape[1] :].tolist()
    assert answer == free[0].tokens[-8:].tolist()[: first + 1] and answer[-1] == eos
    assert not bool(sample.answer[-1]), "no row at or after EOS is trained on"
