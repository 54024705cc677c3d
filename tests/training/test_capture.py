"""Captured answers: what is kept of them, and captures that were cut off and taken up again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hivis.core.target import Inputs
from hivis.errors import HivisError
from hivis.models.families.llava import Llava
from hivis.training.data.capture import (
    REPORT_FILE,
    CaptureReport,
    CaptureSettings,
    capture,
    check_finished,
    write_capture,
)
from hivis.training.data.files import SETTINGS_FILE, fingerprint
from hivis.training.data.samples import Capture, Columns, Sample, shard_header
from tests.helpers.small_capture import ALL, PROMPTS, SMALL, SOURCES, answerer, prompt, run
from tests.helpers.small_llava import IMAGE_ROWS, IMAGE_TOKEN, VOCAB, random_inputs, random_llava

ROOT = Path(__file__).resolve().parents[2]


def settings(columns: Columns = ALL, **changes: Any) -> CaptureSettings:
    base = {"sampled": 0.0, "max_new_tokens": 8, "batch": 3, "shard": 3}
    return CaptureSettings(columns=columns, **(base | changes))


def samples_of(chosen: CaptureSettings, prompts: range, **more: Any) -> list[Sample]:
    return [s for b in capture(answerer(**more), prompts, chosen) for s in b.samples]


# What a sample holds


@pytest.mark.parametrize("sampled", [0.0, 1.0])
@pytest.mark.parametrize("hidden", ["text", "edges", "all"])
def test_a_sample_is_what_one_forward_of_it_gives(hidden: Any, sampled: float) -> None:
    model, family = random_llava(), Llava()
    columns = Columns(hidden, images=True, seen=True)
    samples = samples_of(settings(columns, sampled=sampled), range(3))
    for seed, sample in enumerate(samples):
        asked = prompt(seed)
        rows, images = asked.length, seed % 3
        assert sample.prompt_rows == rows and len(sample) == rows + 8
        assert sample.greedy == (sampled == 0.0)
        assert torch.equal(sample.tokens[:rows], asked.tokens[0])
        assert torch.equal(sample.visual, sample.tokens == IMAGE_TOKEN)
        assert not bool(sample.visual[rows:].any())
        marked = [row for begin, end in sample.spans.tolist() for row in range(begin, end)]
        assert marked == sample.visual.nonzero().flatten().tolist()
        assert (sample.spans[:, 1] - sample.spans[:, 0]).tolist() == [IMAGE_ROWS] * images
        wanted = {
            "text": ~sample.visual,
            "all": torch.ones(len(sample), dtype=torch.bool),
            "edges": torch.tensor(
                [
                    not seen or row + 1 in sample.spans[:, 1].tolist()
                    for row, seen in enumerate(sample.visual.tolist())
                ]
            ),
        }
        assert torch.equal(sample.kept, wanted[hidden])
        with torch.inference_mode():
            full = model.model(input_ids=sample.tokens[None], **asked.features)
            whole = full.last_hidden_state[0]
        assert torch.allclose(sample.hidden, whole[sample.kept], atol=1e-4)
        # The last 9 rows but one propose the 8 tokens of the answer.
        logits = whole[-9:-1] @ model.lm_head.weight.detach().T
        logits[:, IMAGE_TOKEN] = float("-inf")
        assert torch.equal(logits.argmax(-1), sample.tokens[-8:]) == sample.greedy
        if not images:
            assert sample.images is None and sample.seen is None
            continue
        assert sample.images is not None and sample.seen is not None
        with torch.inference_mode():
            seen = family.look(model, asked.features)
            projected = model.model.multi_modal_projector(seen).flatten(0, 1)
        assert seen is not None and torch.equal(sample.seen, seen)
        assert torch.allclose(sample.images, projected, atol=1e-5)


def test_nothing_visual_is_saved_for_a_drafter_of_text(tmp_path: Path) -> None:
    write_capture(tmp_path, answerer(), range(3), settings(Columns()), SOURCES, progress=False)
    tensors = load_file(tmp_path / "shard-00000.safetensors")
    assert not {"images", "seen"} & set(tensors)
    assert bool(tensors["visual"].any())
    assert torch.equal(tensors["kept"], ~tensors["visual"])
    assert len(tensors["hidden"]) == int((~tensors["visual"]).sum())


def test_no_placeholder_is_ever_answered() -> None:
    model = random_llava()
    head = model.lm_head.weight
    before = head.detach().clone()
    try:
        with torch.no_grad():
            head[IMAGE_TOKEN] = 0
            head[:IMAGE_TOKEN] *= 1e-3
        # Nearly flat logits: of 1600 drawn tokens, about eight would be the placeholder.
        chosen = settings(sampled=1.0, max_new_tokens=100, batch=16, shard=16)
        samples = samples_of(chosen, range(16))
    finally:
        with torch.no_grad():
            head.copy_(before)
    drawn = torch.cat([s.tokens[s.prompt_rows :] for s in samples])
    assert len(drawn) == 1600 and len(drawn.unique()) > VOCAB // 2
    assert IMAGE_TOKEN not in drawn


def test_an_answer_stops_at_eos(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(Columns(), batch=2, shard=2)
    free = samples_of(chosen, range(2))
    answer = free[0].tokens[-8:].tolist()
    eos = answer[4]
    first = answer.index(eos)
    monkeypatch.setattr(random_llava().generation_config, "eos_token_id", [eos, VOCAB - 2])
    sample = samples_of(chosen, range(2))[0]
    said = sample.tokens[prompt(0).length :].tolist()
    assert said == answer[: first + 1] and said[-1] == eos
    assert sample.answer.nonzero().flatten().tolist() == [
        prompt(0).length + i for i in range(first)
    ], "no row at or after EOS is trained on"


@pytest.mark.parametrize("sampled", [0.0, 1.0])
def test_the_models_own_decoding_habits_do_not_count(
    monkeypatch: pytest.MonkeyPatch, sampled: float
) -> None:
    chosen = settings(Columns(), sampled=sampled)
    plain = samples_of(chosen, range(3))
    habits = {
        "do_sample": True,
        "temperature": 0.1,
        "top_k": 2,
        "top_p": 0.3,
        "min_p": 0.2,
        "repetition_penalty": 5.0,
    }
    for name, value in habits.items():
        monkeypatch.setattr(random_llava().generation_config, name, value)
    for one, two in zip(plain, samples_of(chosen, range(3)), strict=True):
        assert torch.equal(one.tokens, two.tokens)


def test_a_draft_models_own_tower_may_look() -> None:
    def look(features: Any) -> torch.Tensor | None:
        pixels = features.get("pixel_values")
        return None if pixels is None else pixels.mean(1)[:, :3, :5]

    columns = Columns(seen=True)
    for seed, sample in enumerate(samples_of(settings(columns), range(3), look=look)):
        wanted = look(prompt(seed).features)
        if wanted is None:
            assert sample.seen is None
        else:
            assert sample.seen is not None and torch.equal(sample.seen, wanted)
    with pytest.raises(HivisError, match="seen: wanted one entry for each of 2 images, got 1"):
        samples_of(settings(columns), range(2, 3), look=lambda f: torch.ones(1, 2, 3))
    with pytest.raises(HivisError, match="seen: wanted one entry for each of 1 images, got none"):
        samples_of(settings(columns), range(1, 2), look=lambda f: None)


def test_a_batch_depends_on_nothing_before_it() -> None:
    chosen = settings(Columns(), sampled=0.5, batch=1, shard=1)
    before = torch.random.get_rng_state()
    whole = list(capture(answerer(), range(12), chosen))
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's generator is left alone"
    assert {b.samples[0].greedy for b in whole} == {True, False}
    torch.manual_seed(99)
    for batch in capture(answerer(), range(12), chosen, start=7):
        twin = whole[batch.start]
        assert (batch.start, batch.end) == (twin.start, twin.end)
        assert batch.samples[0].greedy == twin.samples[0].greedy
        assert torch.equal(batch.samples[0].tokens, twin.samples[0].tokens)
        assert torch.equal(batch.samples[0].hidden, twin.samples[0].hidden)
    other = list(capture(answerer(), range(12), settings(Columns(), batch=1, shard=1, sampled=1.0)))
    last = list(
        capture(answerer(), range(12), settings(Columns(), batch=1, shard=1, sampled=1.0, seed=1))
    )
    assert any(
        not torch.equal(a.samples[0].tokens, b.samples[0].tokens)
        for a, b in zip(other, last, strict=True)
    )


# Captures that were cut off


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture that ran through."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("through")
    assert run(folder) == CaptureReport(11, [])
    return folder


def test_a_capture_can_be_read(through: Path) -> None:
    shards = [f"shard-0000{i}.safetensors" for i in (0, 1, 2)]
    assert sorted(files(through)) == [SETTINGS_FILE, REPORT_FILE, *shards]
    read = Capture(through, ALL)
    assert len(read) == 11
    for seed, sample in enumerate(read):
        assert torch.equal(sample.tokens[: sample.prompt_rows], prompt(seed).tokens[0])
    assert read.conversations == [seed // 2 for seed in PROMPTS]
    assert shard_header(read.paths[2])["note"] == {"start": 8, "next": 11, "skipped": []}


class Crash(Exception):
    pass


def test_what_training_wants_of_a_capture(through: Path, tmp_path: Path) -> None:
    check_finished(through, {"target": "t"})
    with pytest.raises(HivisError, match="wanted it made with the target other, got t"):
        check_finished(through, {"target": "other"})
    with pytest.raises(HivisError, match="made with the look own, got None"):
        check_finished(through, {"target": "t", "look": "own"})

    def prepare(seed: int) -> Inputs:
        if seed == 9:
            raise Crash
        return prompt(seed)

    with pytest.raises(Crash):
        run(tmp_path, prepare=prepare)
    with pytest.raises(HivisError, match="wanted the answers to all 11 prompts, got those to 8"):
        check_finished(tmp_path, {"target": "t"})
    (tmp_path / SETTINGS_FILE).write_text("[]")
    with pytest.raises(HivisError, match="wanted the settings of a capture"):
        check_finished(tmp_path, {"target": "t"})


@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 8, 10])
def test_a_crash_among_the_prompts_changes_nothing(through: Path, tmp_path: Path, at: int) -> None:
    def prepare(seed: int) -> Inputs:
        if seed == at:
            raise Crash
        return prompt(seed)

    with pytest.raises(Crash):
        run(tmp_path, prepare=prepare)
    assert len(list(tmp_path.glob("shard-*.safetensors"))) == at // 4
    asked: list[int] = []

    def count(seed: int) -> Inputs:
        asked.append(seed)
        return prompt(seed)

    assert run(tmp_path, prepare=count) == CaptureReport(11, [])
    assert asked == list(range(at // 4 * 4, 11)), "complete shards are not captured again"
    assert files(tmp_path) == files(through)


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_a_crash_before_a_file_is_in_place_changes_nothing(
    through: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    replace, calls = os.replace, []

    def crash(draft: Path, path: Path) -> None:
        calls.append(path)
        if len(calls) == nth + 1:
            draft.write_bytes(draft.read_bytes()[:100])
            raise Crash
        replace(draft, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Crash):
            run(tmp_path)
    assert any(name.endswith(".part") for name in files(tmp_path)), "a half-written file is left"
    run(tmp_path)
    assert files(tmp_path) == files(through)


KILLED = """
import sys, torch
from pathlib import Path
from tests.helpers.small_capture import run
torch.set_num_threads(1)
print("ready", flush=True)
run(Path(sys.argv[1]))
print("done", flush=True)
"""


def test_a_kill_at_any_moment_changes_nothing(through: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    run(tmp_path / "timed")
    moment = random.SystemRandom().uniform(0, time.monotonic() - begun)
    folder = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    time.sleep(moment)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    done = len(list(folder.glob("shard-*.safetensors")))
    assert run(folder) == CaptureReport(11, []), f"killed after {moment:.3f} s, {done} shards"
    assert files(folder) == files(through), f"killed after {moment:.3f} s, {done} shards"


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 1}, "seed: wanted 0, as when this capture was started, got 1"),
    "columns": ({"columns": Columns("all", True)}, "columns.seen: wanted True, as .* got False"),
    "batch": ({"batch": 4}, "batch: wanted 2, as .* got 4"),
    "shard": ({"shard": 8}, "shard: wanted 4, as .* got 8"),
    "length": ({"max_new_tokens": 5}, "max_new_tokens: wanted 4, as .* got 5"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_other_settings_are_refused(through: Path, case: str) -> None:
    changed, message = CHANGES[case]
    before = files(through)
    base = {"columns": ALL, "max_new_tokens": 4, "batch": 2, "shard": 4}
    with pytest.raises(HivisError, match=message):
        run(through, CaptureSettings(**(base | changed)))
    assert files(through) == before


def test_other_sources_are_refused(through: Path) -> None:
    for sources, message in (
        ({"data": "d", "target": "x"}, "sources.target: wanted t, as .* got x"),
        ({"data": "d"}, "sources.target: wanted t, as .* got None"),
    ):
        with pytest.raises(HivisError, match=message):
            write_capture(through, answerer(), PROMPTS, SMALL, sources, progress=False)
    with pytest.raises(HivisError, match="prompts: wanted 11, as when this .* got 10"):
        write_capture(through, answerer(), range(10), SMALL, SOURCES, progress=False)


def test_settings_of_another_version_are_refused(through: Path, tmp_path: Path) -> None:
    """Here from before the column of images had that name."""
    path = copied(through, tmp_path) / SETTINGS_FILE
    path.write_text(path.read_text().replace('"images":', '"pictures":'))
    with pytest.raises(HivisError, match=r"difference in columns\.images, columns\.pictures: "):
        run(tmp_path)


def copied(through: Path, folder: Path) -> Path:
    for name, content in files(through).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_corrupt_shard_is_named(through: Path, tmp_path: Path, keep: int) -> None:
    shard = copied(through, tmp_path) / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(HivisError, match="shard-00001.safetensors: wanted a readable shard"):
        run(tmp_path)


def test_a_lost_shard_is_named(through: Path, tmp_path: Path) -> None:
    (copied(through, tmp_path) / "shard-00001.safetensors").unlink()
    with pytest.raises(HivisError, match="shard-00002.*wanted shard 1 with the prompts from 4 on"):
        run(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"seed": ', "\xff"])
def test_corrupt_settings_are_named(through: Path, tmp_path: Path, content: str) -> None:
    (copied(through, tmp_path) / SETTINGS_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(HivisError, match="capture.json: wanted the settings of a capture"):
        run(tmp_path)
    (tmp_path / SETTINGS_FILE).unlink()
    with pytest.raises(HivisError, match="wanted capture.json beside its shards, got none"):
        run(tmp_path)


# Prompts that are skipped


def test_skipped_prompts_shift_no_other(through: Path, tmp_path: Path) -> None:
    def prepare(seed: int) -> Inputs:
        if seed in (4, 5, 6, 7, 9):  # a whole shard, and one more
            raise HivisError(f"image {seed}.png: not readable")
        if seed == 2:
            return random_inputs(seed, text=253, images=0)  # and 4 more are 257 of 256 positions
        return prompt(seed)

    report = run(tmp_path, prepare=prepare)
    assert report.samples == 5
    assert [s.prompt for s in report.skipped] == [2, 4, 5, 6, 7, 9]
    assert "wanted at most 252 rows" in report.skipped[0].why and "got 253" in report.skipped[0].why
    assert report.skipped[1].why == "image 4.png: not readable"
    whole, read = Capture(through, ALL), Capture(tmp_path, ALL)
    for seed, sample in zip((0, 1, 3, 8, 10), read, strict=True):
        assert torch.equal(sample.tokens[: sample.prompt_rows], prompt(seed).tokens[0])
    # A batch in which nothing is skipped is the same, to the bit, as without any skipping.
    for seed, sample in ((0, read[0]), (1, read[1]), (10, read[4])):
        assert torch.equal(sample.tokens, whole[seed].tokens)
        assert torch.equal(sample.hidden, whole[seed].hidden)
    assert shard_header(read.paths[1])["note"]["start"] == 4
    before = files(tmp_path)
    assert run(tmp_path, prepare=prepare) == report, "a restart reports the same"
    assert files(tmp_path) == before


def test_prompts_that_just_fit_are_kept() -> None:
    fits = answerer(lambda seed: random_inputs(seed, text=248 + seed, images=0))
    (batch,) = capture(fits, range(2), settings(Columns()))
    assert len(batch.samples) == 1 and [s.prompt for s in batch.skipped] == [1]
    assert len(batch.samples[0]) == 256


def test_a_capture_of_nothing_is_an_error(tmp_path: Path) -> None:
    def prepare(seed: int) -> Inputs:
        raise HivisError("no image")

    with pytest.raises(HivisError, match=r"got none among 11 \(prompt 0: no image\)"):
        run(tmp_path, prepare=prepare)
    with pytest.raises(HivisError, match="prompts: wanted one that can be answered"):
        write_capture(tmp_path / "x", answerer(), [], SMALL, SOURCES, progress=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": 0}, "batch: wanted at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: wanted at least 1, got 0"),
        ({"sampled": 1.5}, "sampled: wanted a share from 0 to 1, got 1.5"),
        ({"sampled": float("nan")}, "sampled: wanted a share from 0 to 1, got nan"),
        ({"batch": 32, "shard": 500}, "shard: wanted a multiple of batch 32, got 500"),
        ({"shard": 0}, "shard: wanted a multiple of batch 32, got 0"),
    ],
)
def test_bad_settings(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(HivisError, match=message):
        CaptureSettings(**changed)


def test_the_bar_tells_of_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_capture(tmp_path, answerer(), range(4), SMALL, SOURCES)
    shown = capsys.readouterr()
    assert shown.out == "" and "4/4" in shown.err
    assert "tokens/s" in shown.err and "0 skipped" in shown.err


# Fingerprints


def test_a_fingerprint_changes_with_the_contents(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(b"x" * (65 << 20))
    marks = {fingerprint(file)}
    for at in (0, 1000, (65 << 20) - 1):  # the first, and the very last byte
        content = bytearray(b"x" * (65 << 20))
        content[at] = 1
        file.write_bytes(content)
        marks.add(fingerprint(file))
    file.write_bytes(b"x" * ((65 << 20) + 1))
    marks.add(fingerprint(str(file)))
    assert len(marks) == 5
    other = tmp_path / "renamed.json"
    other.write_bytes(file.read_bytes())
    assert fingerprint(other) == fingerprint(file)


def test_a_models_fingerprint_is_that_of_config_and_weights(tmp_path: Path) -> None:
    for name in ("config.json", "a.safetensors", "b.safetensors", "README.md"):
        (tmp_path / name).write_text(name)
    marks = [fingerprint(tmp_path)]
    (tmp_path / "README.md").write_text("other")
    assert fingerprint(tmp_path) == marks[0]
    for name in ("config.json", "a.safetensors"):
        (tmp_path / name).write_text(name.upper())
        marks.append(fingerprint(tmp_path))
    (tmp_path / "b.safetensors").rename(tmp_path / "c.safetensors")
    marks.append(fingerprint(tmp_path))
    assert len(set(marks)) == 4
    assert fingerprint("owner/model") == "owner/model"
