"""The tools of `make tiny`: what they take over, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hivis.errors import HivisError
from recipes.tiny import ship


def test_shipped_weights_are_bfloat16(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    save_file({"a": torch.ones(3), "n": torch.tensor([7])}, source / "model.safetensors")
    ship.copy_files(source, tmp_path / "out", ("config.json",))
    shipped = load_file(tmp_path / "out" / "model.safetensors")
    assert shipped["a"].dtype == torch.bfloat16 and shipped["n"].tolist() == [7]
    with pytest.raises(HivisError, match="wanted missing.txt"):
        ship.copy_files(source, tmp_path / "other", ("missing.txt",))
    assert not (tmp_path / "other").exists()


def test_figures_keep_the_last_record_of_each_stage(tmp_path: Path):
    drafters = [drafter.name for drafter in ship.DRAFTERS]
    assert drafters == ["hivis", "vispec", "eagle", "draft_vlm"]
    for name in ("target", *drafters):
        (tmp_path / name).mkdir()
    records = [{"stage": "vision", "step": 1}, {"stage": "vision", "step": 2}, {"stage": "full"}]
    history = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "target" / "history.jsonl").write_text(history)
    for path in ("evaluation.json", *(f"{name}/metrics.json" for name in drafters)):
        (tmp_path / path).write_text('{"x": 1}')
    assert ship.collect_figures(tmp_path)["target_training"] == records[1:]
    (tmp_path / "evaluation.json").unlink()
    with pytest.raises(HivisError, match=r"evaluation\.json"):
        ship.collect_figures(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("recipes.tiny.train_target", "--minutes", "0", "--out", "x"),
        ("recipes.tiny.evaluate", "--target", "./nowhere"),
        ("recipes.tiny.conversations", "--out", "x", "--count", "0"),
        ("recipes.tiny.draft", "--out", "x", "--target", "./nowhere"),
        ("recipes.tiny.ship", "--run", "./nowhere"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_bad_input_is_one_line_and_status_2(tmp_path: Path, arguments: tuple[str, ...]):
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
