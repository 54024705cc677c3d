"""``python -m hivis train`` on the bundled target: from conversations to a drafter that drafts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hivis.api.load_drafter import load_any_drafter
from hivis.bundled import paths
from hivis.cli.main import main
from hivis.core.sampling import SamplingParams
from hivis.drafters.registry import method_of, methods
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.models.load import load_target
from hivis.policies.fixed import FixedPolicy
from hivis.training import answer
from hivis.training import run_state as state
from hivis.training.answer import columns_of
from hivis.training.data.files import fingerprint
from hivis.training.data.samples import Capture, Columns
from hivis.training.options import CollectOptions
from recipes.tiny.conversations import write_conversations
from recipes.tiny.draft import write_draft

METHODS = tuple(method.name for method in methods() if method.learner is not None)
ANSWERS = ["--max-new-tokens", "8", "--answer-batch", "4", "--dtype", "float32"]
TRAINING = ["--updates", "5", "--batch", "4", "--held-out", "2"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve conversations, the answers to them, and a fresh draft model."""
    work = tmp_path_factory.mktemp("train")
    write_conversations(work, 12, seed=3)
    write_draft(work / "draft", paths.TARGET)
    command = ["capture", "--method", *METHODS, "--target", str(paths.TARGET), *ANSWERS]
    main([*command, "--data", str(work / "conversations.jsonl"), "--out", str(work / "answers")])
    return work


def arguments(method: str, data: Path, out: Path, *more: str) -> list[str]:
    draft = ["--draft", str(data.parent / "draft")] if method_of(method).needs_draft else []
    given = ["--target", str(paths.TARGET), "--data", str(data), "--out", str(out)]
    answers = [] if data.is_dir() else ANSWERS
    return ["train", "--method", method, *given, *draft, *answers, *TRAINING, *more]


@pytest.mark.parametrize("command", ["train", "capture"])
@pytest.mark.parametrize("where", ["device", "python", "cpu"])
def test_too_little_memory_is_one_line(
    work: Path, tmp_path: Path, command: str, where: str, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: object, **more: object) -> None:
        if where == "cpu":
            torch.empty(1 << 50)
        raise torch.OutOfMemoryError("no\nmemory") if where == "device" else MemoryError()

    data, out = work / "conversations.jsonl", tmp_path / "out"
    monkeypatch.setattr("hivis.training.data.capture.answer", full)
    given = arguments("hivis", data, out)
    if command == "capture":
        given = ["capture", *given[1 : given.index("--updates")]]
    with pytest.raises(HivisError, match=r"^memory: wanted enough for the [^\n]*-batch\), got: "):
        main(given)


@pytest.mark.parametrize("method", METHODS)
def test_from_conversations_to_a_drafter(
    work: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "drafter"
    main(arguments(method, work / "conversations.jsonl", out))
    assert "accepted length" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert sum(stage["updates"] for stage in metrics["metrics"].values()) == 5
    assert metrics["recipe"]["method"] == method and metrics["held_out"] == 2
    assert metrics["recipe"]["sources"] == {"target": fingerprint(paths.TARGET)}
    target, processor = load_target(paths.TARGET)
    drafter = load_any_drafter(out, target, processor)
    inputs = processor("What does the sign say?", [paths.EVAL / "scene00.png"])
    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, seed=5, max_new_tokens=24)
        plain = generate(Engine(target), inputs, params)
        assert (
            generate(Engine(target, drafter, FixedPolicy(12, 4, 3)), inputs, params).tokens
            == plain.tokens
        )


@pytest.mark.parametrize("method", METHODS)
def test_answers_captured_once_serve_every_method(work: Path, tmp_path: Path, method: str) -> None:
    """The drafter is the same as from a capture of its own, which holds no more than it needs."""
    main(arguments(method, work / "answers", tmp_path / "shared"))
    main(arguments(method, work / "conversations.jsonl", tmp_path / "own"))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("shared", "own"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    shard = next((tmp_path / "own" / "answers").glob("*.safetensors"))
    kept = load_file(shard)
    wanted = Columns(**method_of(method).columns)
    if wanted.hidden == "text":
        assert "images" not in kept and int(kept["kept"].sum()) == int((~kept["visual"]).sum())
    assert ("seen" in kept) == wanted.seen


def long_run(work: Path, out: Path) -> list[str]:
    return arguments("vispec", work / "conversations.jsonl", out, "--updates", "60")


@pytest.fixture(scope="module")
def undisturbed(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves behind that saves as often as the ones that are killed."""
    out, threads = tmp_path_factory.mktemp("undisturbed") / "whole", torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state, "SAVE_SECONDS", 0)
            patch.setattr(answer, "SHARD", 4)
            main(long_run(work, out))
    finally:
        torch.set_num_threads(threads)
    return out


@pytest.mark.parametrize("while_", ["answering", "training"])
def test_a_killed_command_goes_on(
    work: Path, undisturbed: Path, tmp_path: Path, while_: str
) -> None:
    """SIGKILL at the command, then the same with --resume: the files of an undisturbed run."""

    def start(*more: str) -> subprocess.Popen:
        code = (
            "import sys; from hivis.cli.main import main;"
            "from hivis.training import answer, run_state;"
            "run_state.SAVE_SECONDS = 0; answer.SHARD = 4; main(sys.argv[1:])"
        )
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, *long_run(work, out), *more]
        return subprocess.Popen(command, env=environment)

    out = tmp_path / "killed"
    sign = "answers/shard-00000.safetensors" if while_ == "answering" else state.STATE_FILE
    process = start()
    deadline = time.monotonic() + 120
    while not (out / sign).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model.safetensors").exists()
    assert start("--resume").wait(timeout=300) == 0
    files = [file for file in sorted(undisturbed.rglob("*")) if file.is_file()]
    assert files
    for file in files:
        same = out / file.relative_to(undisturbed)
        assert same.read_bytes() == file.read_bytes(), file.name


def test_columns_of_several_methods() -> None:
    assert columns_of(["hivis"]) == Columns("text")
    assert columns_of(["hivis", "vispec"]) == Columns("edges", images=True)
    assert columns_of(["draft-vlm", "hivis"]) == Columns("text", seen=True)
    assert columns_of(METHODS) == Columns("all", images=True, seen=True)


def test_bad_input_is_said_before_anything_is_written(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    good = arguments("hivis", work / "answers", out)

    def refused(message: str, *changed: str) -> None:
        with pytest.raises(HivisError, match=message):
            main([*good, *changed])
        assert not out.exists()

    def told(message: str, *changed: str) -> None:
        with pytest.raises(HivisError, match=message):
            main([*good, *changed])
        assert not any(out.iterdir())

    refused("--updates: wanted at least 1, got 0", "--updates", "0")
    refused("--count: wanted at least 1", "--count", "-3")
    refused("--sampled: wanted a share of 0 to 1, got 1.5", "--sampled", "1.5")
    refused("--lr: wanted a positive number, got nan", "--lr", "nan")
    refused("--lr: wanted a positive number, got 0", "--lr", "0")
    refused("--noise: wanted at least 0, got inf", "--noise", "inf")
    refused("--seed: wanted 0 to", "--seed", str(10**20))
    refused("--device: wanted one that torch can use, got gpu", "--device", "gpu")
    refused("--device: wanted one that torch can use, got meta", "--device", "meta")
    refused("--draft: wanted none with hivis", "--draft", "x")
    refused("--draft: wanted a model to start from, got None", "--method", "draft-vlm")
    refused(
        "--residual-rows: wanted none with vispec", "--method", "vispec", "--residual-rows", "1"
    )
    draft = ["--method", "draft-vlm", "--draft", str(work / "draft")]
    refused("--noise: wanted none with draft-vlm, got 0.1", *draft, "--noise", "0.1")
    refused("--turns: wanted none with answers that are captured already, got 2", "--turns", "2")
    refused("--data: wanted a file or a folder of answers", "--data", str(tmp_path / "none"))
    empty = tmp_path / "empty"
    empty.mkdir()
    told("wanted the settings of a capture", "--data", str(empty))
    told("model: wanted a folder or a hub name, got ./nowhere", "--target", "./nowhere")
    told("model: wanted a folder or a hub name, got ./nodraft", *draft[:3], "./nodraft")
    text_only = tmp_path / "text"
    main(
        [
            "capture",
            "--method",
            "hivis",
            "--target",
            str(paths.TARGET),
            *ANSWERS,
            "--count",
            "6",
            "--data",
            str(work / "conversations.jsonl"),
            "--out",
            str(text_only),
        ]
    )
    assert len(Capture(text_only, Columns("text"))) == 6
    told("wanted a capture of", "--method", "eagle", "--data", str(text_only))
    other = tmp_path / "other"
    shutil.copytree(paths.TARGET, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    told("wanted it made with the target", "--target", str(other))
    (text_only / "report.json").unlink()
    told("run the same capture command again", "--data", str(text_only))


def test_a_used_folder_is_not_overwritten(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(arguments("hivis", work / "answers", out))
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(HivisError, match="--out .* or --resume"):
        main(arguments("hivis", work / "answers", out))
    with pytest.raises(HivisError, match=r"stages\[0\].weights.soft 0.2, got 0.1"):
        main(arguments("hivis", work / "answers", out, "--resume", "--soft", "0.2"))
    main(arguments("hivis", work / "answers", out, "--resume"))
    assert (out / "model.safetensors").read_bytes() == before


def test_a_hub_name_stands_for_the_files_behind_it(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that were captured under a model's hub name serve training under its folder."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(paths.TARGET))
    named = ["--target", "owner/model"]
    given = ["capture", "--method", "hivis", *named, *ANSWERS, "--count", "6"]
    out = tmp_path / "answers"
    main([*given, "--data", str(work / "conversations.jsonl"), "--out", str(out)])
    main([*arguments("hivis", out, tmp_path / "one"), "--held-out", "1"])
    main([*arguments("hivis", out, tmp_path / "two"), "--held-out", "1", *named])
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


class Arrived(Exception):
    pass


def test_every_option_of_the_training_arrives(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple] = []

    def look(learner, target, capture, settings, recipe, checkpoint, report):  # noqa: ANN001, ANN202
        seen.append((learner, settings))
        raise Arrived

    monkeypatch.setattr("hivis.training.train.run", look)

    def given(method: str, *more: str) -> tuple:
        with pytest.raises(Arrived):
            main(arguments(method, work / "answers", tmp_path / "out", *more))
        return seen[-1]

    def weights(learner) -> dict:  # noqa: ANN001
        return {name: p.detach().clone() for name, p in learner.module.named_parameters()}

    usual, settings = given("hivis")
    first, second = usual.stages()
    assert (first.updates, second.updates, first.lr, first.noise) == (2, 3, 1e-3, 0.1)
    assert first.weights.soft == 0.1 and usual.config.residual_rows == 3
    assert usual.config.rows == "text" and usual.config.rms_norm_eps == 1e-6
    assert (settings.batch, settings.held_out, settings.seed, settings.bf16) == (4, 2, 0, True)
    same, _ = given("hivis")
    changed, settings = given(
        "hivis",
        "--updates",
        "20",
        "--lr",
        "0.5",
        "--noise",
        "0",
        "--soft",
        "0.7",
        "--batch",
        "3",
        "--held-out",
        "1",
        "--seed",
        "9",
        "--fp32",
        "--residual-rows",
        "0",
    )
    first, second = changed.stages()
    assert (first.updates, second.updates, first.lr, first.noise) == (8, 12, 0.5, 0.0)
    assert first.weights.soft == second.weights.soft == 0.7 and changed.config.residual_rows == 0
    assert (settings.batch, settings.held_out, settings.seed, settings.bf16) == (3, 1, 9, False)
    name = "layers.0.mlp.up_proj.weight"
    assert torch.equal(weights(usual)[name], weights(same)[name])
    assert not torch.equal(weights(usual)[name], weights(changed)[name])
    eagle, _ = given("eagle")
    assert (eagle.config.rows, eagle.config.residual_rows) == ("all", 0)
    vispec, _ = given("vispec", "--lr", "0.25", "--noise", "0.3")
    assert [(s.lr, s.noise, s.images) for s in vispec.stages()] == [
        (0.25, 0.3, False),
        (0.25, 0.3, True),
    ]
    draft, _ = given("draft-vlm", "--lr", "0.125", "--updates", "7")
    assert [(s.lr, s.updates) for s in draft.stages()] == [(0.125, 7)]


def test_every_option_of_the_answers_arrives(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple] = []

    def look(options, columns):  # noqa: ANN001, ANN202
        seen.append((options, columns))
        raise Arrived

    monkeypatch.setattr("hivis.training.train.collect", look)
    data, out = work / "conversations.jsonl", tmp_path / "out"
    more = [
        "--images",
        str(work),
        "--count",
        "7",
        "--turns",
        "2",
        "--sampled",
        "0.25",
        "--max-new-tokens",
        "9",
        "--answer-batch",
        "3",
        "--dtype",
        "float16",
        "--seed",
        "4",
    ]
    with pytest.raises(Arrived):
        main(arguments("eagle", data, out, *more))
    assert seen[0] == (
        CollectOptions(
            str(paths.TARGET), data, out / "answers", work, 7, 2, 0.25, 9, 3, "float16", "cpu", 4
        ),
        Columns("all", images=True),
    )


def test_the_answers_options_are_kept(work: Path, tmp_path: Path) -> None:
    """What ``capture`` writes is what was asked for."""
    given = ["capture", "--method", "hivis", "--target", str(paths.TARGET), *ANSWERS]
    data = tmp_path / "data"
    data.mkdir()
    turns = [
        {"from": who, "value": text}
        for who, text in (("human", "What is here?"), ("gpt", "A dog."), ("human", "Which color?"))
    ]
    line = json.dumps({"id": "1", "conversations": turns}) + "\n"
    (data / "two.jsonl").write_text(line * 4)
    out = tmp_path / "out"
    main(
        [
            *given,
            "--data",
            str(data / "two.jsonl"),
            "--out",
            str(out),
            "--turns",
            "2",
            "--count",
            "3",
            "--sampled",
            "0",
        ]
    )
    capture = Capture(out, Columns("text"))
    assert capture.conversations == [0, 0, 1, 1, 2, 2]
    assert all(sample.greedy for sample in capture)
    assert capture[1].prompt_rows > capture[0].prompt_rows
