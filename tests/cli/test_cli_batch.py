"""``python -m hivis batch``: a file of prompts, answered several at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import hivis
from hivis.api.model import Model
from hivis.bundled import paths
from hivis.cli.main import main
from hivis.errors import HivisError

QUICK = ["--max-new-tokens", "20", "--dtype", "float32", "--device", "cpu", "--policy", "fixed"]
ENTRIES: list[dict[str, Any]] = [
    {"prompt": "What is this?", "image": "one.png"},
    {"prompt": "Describe the image in detail.", "image": ["two.png"]},
    {"prompt": "Hello", "settings": {"temperature": 1.0, "seed": 4, "max_new_tokens": 7}},
    {"prompt": "Which is larger?", "image": ["one.png", "two.png"]},
    {"prompt": "Where?", "image": [], "settings": {"stop": ["the"]}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for name, scene in (("one.png", "scene00.png"), ("two.png", "scene01.png")):
        shutil.copy(paths.EVAL / scene, folder / name)
    lines = [json.dumps(entry) for entry in ENTRIES]
    (folder / "prompts.jsonl").write_text("\n".join([*lines[:2], "  ", *lines[2:]]) + "\n")
    return folder


@pytest.fixture(scope="module")
def model() -> Model:
    return hivis.load(dtype="float32", device="cpu", policy="fixed")


def test_a_file_of_prompts(folder: Path, model: Model, capsys: Any) -> None:
    main(["batch", str(folder / "prompts.jsonl"), "--slots", "3", *QUICK])
    said = capsys.readouterr()
    made = [json.loads(line) for line in said.out.splitlines()]
    assert sorted(text["number"] for text in made) == list(range(len(ENTRIES)))
    for text in made:
        entry = ENTRIES[text["number"]]
        images = entry.get("image", [])
        images = [images] if isinstance(images, str) else images
        settings = {"max_new_tokens": 20, **entry.get("settings", {})}
        alone = model.generate(entry["prompt"], [folder / image for image in images], **settings)
        assert (text["text"], text["finish"]) == (alone.text, alone.finish)
        assert text["tokens"] == list(alone.tokens)
        assert text["statistics"]["cycles"] == alone.statistics.cycles
    total = sum(len(text["tokens"]) for text in made)
    assert said.err.startswith(f"{len(ENTRIES)} outputs | {total} tokens | ")
    assert said.err.endswith("3 at a time\n")


def test_into_a_file_from_stdin(folder: Path, monkeypatch: Any, tmp_path: Path) -> None:
    import io
    import sys

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(ENTRIES[0]) + "\n"))
    main(["batch", "-", "--out", str(tmp_path / "texts.jsonl"), *QUICK])
    (line,) = (tmp_path / "texts.jsonl").read_text().splitlines()
    assert json.loads(line)["number"] == 0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nonsense", r"prompts.jsonl:2: wanted a JSON object"),
        ("[1]", r"prompts.jsonl:2: wanted a JSON object"),
        ('{"image": "one.png"}', r"prompts.jsonl:2: wanted a JSON object"),
        ('{"prompt": 3}', r"prompts.jsonl:2: wanted a JSON object"),
        ('{"prompt": "What?", "image": [3]}', r"prompts.jsonl:2: wanted a JSON object"),
        ('{"prompt": "What?", "images": []}', r"prompts.jsonl:2: wanted a JSON object"),
        ('{"prompt": "What?", "settings": [1]}', r"prompts.jsonl:2: wanted a JSON object"),
        ('{"prompt": "What?", "image": "none.png"}', r"request 1: image .*no such file"),
        ('{"prompt": "What?", "settings": {"top_k": -1}}', r"request 1: top_k: wanted"),
        ('{"prompt": "What?", "settings": {"nonsense": 1}}', r"request 1: nonsense: wanted"),
    ],
)
def test_a_bad_line_is_named_and_what_was_begun_is_written(
    folder: Path, tmp_path: Path, capsys: Any, line: str, complaint: str
) -> None:
    shutil.copy(folder / "one.png", tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps(ENTRIES[0]) + f"\n{line}\n")
    with pytest.raises(HivisError, match=complaint):
        main(["batch", str(tmp_path / "prompts.jsonl"), *QUICK])
    said = capsys.readouterr()
    (written,) = said.out.splitlines()
    assert json.loads(written)["number"] == 0
    assert said.err.startswith("1 output | ")


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--slots", "0"], "slots: wanted a whole number >= 1, got 0"),
        (["--slots", "many"], "--slots: wanted a whole number, got 'many'"),
        (["--out", "/nowhere/texts"], "--out: wanted a file in a folder that exists"),
        (["--out", "/tmp"], "--out: wanted a file in a folder that exists"),
        (["--temperature", "-1"], "temperature: wanted"),
    ],
)
def test_bad_options_are_named(folder: Path, capsys: Any, more: list[str], complaint: str) -> None:
    with pytest.raises(HivisError, match=complaint):
        main(["batch", str(folder / "prompts.jsonl"), *QUICK, *more])
    assert not capsys.readouterr().out


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(HivisError, match="FILE: wanted one that can be read, got nowhere"):
        main(["batch", "nowhere"])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HivisError, match="FILE: wanted UTF-8 text"):
        main(["batch", str(tmp_path / "binary"), *QUICK])
