"""``python -m hivis train`` on the embedded target: from conversations to a drafter that drafts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hivis.cli import main
from hivis.collect import columns_of
from hivis.decode import generate
from hivis.draft_models import load_draft_vlm
from hivis.drafters.load import load_drafter
from hivis.errors import HivisError
from hivis.policy import TreePolicy
from hivis.sampling import SamplingParams
from hivis.targets.load import load_target
from hivis.tiny import paths
from hivis.tiny.conversations import write_conversations
from hivis.tiny.draft import write_draft
from hivis.training import state
from hivis.training.samples import Capture, Columns

METHODS = ("hivis", "vispec", "eagle", "draft-vlm")
ANSWERS = ["--max-new-tokens", "8", "--answer-batch", "4", "--dtype", "float32", "--device", "cpu"]
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
    draft = ["--draft", str(data.parent / "draft")] if method == "draft-vlm" else []
    given = ["--target", str(paths.TARGET), "--data", str(data), "--out", str(out)]
    return ["train", "--method", method, *given, *draft, *ANSWERS, *TRAINING, *more]


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
    target, processor = load_target(paths.TARGET)
    drafter = load_draft_vlm(out, target, processor) if method == "draft-vlm" else load_drafter(out)
    inputs = processor("What does the sign say?", [paths.EVAL / "scene00.png"])
    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, seed=5, max_new_tokens=24)
        plain = generate(target, inputs, params)
        assert (
            generate(target, inputs, params, drafter, TreePolicy(12, 4, 3)).tokens == plain.tokens
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
    if method in ("hivis", "draft-vlm"):
        assert "pictures" not in kept and int(kept["kept"].sum()) == int((~kept["visual"]).sum())
    assert ("seen" in kept) == (method == "draft-vlm")


@pytest.mark.parametrize("while_", ["answering", "training"])
def test_a_killed_command_goes_on(work: Path, tmp_path: Path, while_: str) -> None:
    """SIGKILL at the command, then the same with --resume: the files of an undisturbed run."""

    def start(out: Path, *more: str) -> subprocess.Popen:
        given = arguments("vispec", work / "conversations.jsonl", out, "--updates", "60", *more)
        code = (
            "import sys; from hivis.training import state; from hivis import cli, collect;"
            "state.SAVE_SECONDS = 0; collect.SHARD = 4; cli.main(sys.argv[1:])"
        )
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", code, *given], env=environment)

    out = tmp_path / "killed"
    sign = "answers/shard-00000.safetensors" if while_ == "answering" else state.STATE_FILE
    process = start(out)
    deadline = time.monotonic() + 120
    while not (out / sign).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model.safetensors").exists()
    assert start(out, "--resume").wait(timeout=300) == 0
    assert start(tmp_path / "whole").wait(timeout=300) == 0
    for file in sorted((tmp_path / "whole").rglob("*")):
        if file.is_file():
            same = out / file.relative_to(tmp_path / "whole")
            assert same.read_bytes() == file.read_bytes(), file.name


def test_columns_of_several_methods() -> None:
    assert columns_of(["hivis"]) == Columns("text")
    assert columns_of(["hivis", "vispec"]) == Columns("edges", pictures=True)
    assert columns_of(["draft-vlm", "hivis"]) == Columns("text", seen=True)
    assert columns_of(METHODS) == Columns("all", pictures=True, seen=True)


def test_bad_input_is_said_before_anything_is_written(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    good = arguments("hivis", work / "answers", out)

    def refused(message: str, *changed: str, without: str | None = None) -> None:
        given = list(good)
        if without is not None:
            at = given.index(without)
            del given[at : at + 2]
        with pytest.raises(HivisError, match=message):
            main([*given, *changed])
        assert not out.exists()

    refused("--updates: wanted at least 1, got 0", "--updates", "0")
    refused("--count: wanted at least 1", "--count", "-3")
    refused("--sampled: wanted a share of 0 to 1, got 1.5", "--sampled", "1.5")
    refused("--lr: wanted at least 0, got nan", "--lr", "nan")
    refused("--draft: wanted none with hivis", "--draft", "x")
    refused("--draft: wanted a folder, got None", "--method", "draft-vlm")
    refused("--data: wanted a file or a folder of answers", "--data", str(tmp_path / "none"))
    refused("wanted shard-\\*.safetensors", "--data", str(tmp_path))
    refused("target ./nowhere: wanted a folder or a hub name", "--target", "./nowhere")
    text_only = tmp_path / "text"
    main([
        "capture", "--method", "hivis", "--target", str(paths.TARGET), *ANSWERS, "--count", "6",
        "--data", str(work / "conversations.jsonl"), "--out", str(text_only),
    ])  # fmt: skip
    assert len(Capture(text_only, Columns("text"))) == 6
    refused("wanted a capture of", "--method", "eagle", "--data", str(text_only))


def test_a_used_folder_is_not_overwritten(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(arguments("hivis", work / "answers", out))
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(HivisError, match="--out .* or --resume"):
        main(arguments("hivis", work / "answers", out))
    with pytest.raises(HivisError, match="recipe.soft 0.2, got 0.1"):
        main(arguments("hivis", work / "answers", out, "--resume", "--soft", "0.2"))
    main(arguments("hivis", work / "answers", out, "--resume"))
    assert (out / "model.safetensors").read_bytes() == before
