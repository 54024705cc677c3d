"""``python -m hivis info CHECKPOINT``: what a drafter's files are, and what of them is not used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hivis.bundled import paths
from hivis.cli.main import main
from hivis.drafters.registry import METHODS, method_of, methods, register_drafter
from hivis.errors import HivisError
from tests.helpers import bigram
from tests.helpers.published_checkpoints import write

BUNDLED = tuple(method.name for method in methods() if method.bundled is not None)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_drafter_is_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    method = method_of(name)
    assert method.bundled is not None
    main(["info", str(paths.WEIGHTS / method.bundled), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoint"]["method"] == f"{method.title} ({name})"
    assert found.get("sizes", {}).get("vocab_size") == (None if method.needs_draft else 2688)


def test_ignored_tensors_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = write(tmp_path, "EAGLE-LLaMA3")
    more = {"lm_head.weight": torch.ones(2), "fc.bias": torch.ones(2)}
    torch.save(tensors | more, tmp_path / "pytorch_model.bin")
    main(["info", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "EAGLE-2 (eagle)" in shown and "as published by its authors" in shown
    assert "embed_tokens.weight, fc.bias, lm_head.weight" in shown


def test_the_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "--json"])
    found = json.loads(capsys.readouterr().out)["drafting methods"]
    assert found == {method.name: method.summary for method in methods()}


def test_the_bundled_models_are_those_of_the_records(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(METHODS, "_records", dict(METHODS._records))
    register_drafter(replace(bigram.METHOD, bundled="pairs"))
    main(["info", "--json"])
    found = json.loads(capsys.readouterr().out)["bundled models"]
    assert list(found) == ["target", "hivis", "vispec", "eagle", "draft_vlm", "pairs"]
    assert found.pop("pairs") is None and all(size.endswith(" MB") for size in found.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "drafter: wanted a folder or a hub name, got /nowhere"),
        ([str(paths.EVAL)], "config.json: wanted a drafter's config, got no such file"),
        (["--drafter-config", "x"], "--drafter-config: wanted a checkpoint that it belongs to"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(HivisError, match=message):
        main(["info", *arguments])
