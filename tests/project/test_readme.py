"""What the README shows is run as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bench.headline.markdown import compare_tables, markdown_table
from hivis.bundled import paths

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(capsys):
    one, many = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(one, "README.md", "exec"), scope)
    first, second = capsys.readouterr().out.strip().split("\n")
    assert len(first.split()) > 20 and float(first.split()[-1]) > 1.5
    assert len(second.split()) > 2
    exec(compile(many, "README.md", "exec"), scope)
    lines = sorted(capsys.readouterr().out.strip().split("\n"))
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert all(len(line.split()) > 3 for line in lines)


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.findall(r"\bmake ([\w-]+)", README))
    assert {"latency", "test"} <= commands
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_the_files_it_names_exist():
    for path in re.findall(r"`((?:docs|bench|hivis|csrc|tests)/[\w./-]*)`", README):
        assert (ROOT / path).exists(), path


def test_the_comparison_is_that_of_the_committed_run():
    document = json.loads((ROOT / "bench" / "results" / "compare.json").read_text())
    page = (ROOT / "docs" / "comparison.md").read_text()
    for table in compare_tables(document).strip().split("\n\n"):
        assert table in page
    assert document["commit"] in page
    shipped = {"hivis", "vispec", "eagle", "draft_vlm"}
    assert {path.name for path in paths.WEIGHTS.iterdir() if path.is_dir()} == shipped | {"target"}


def test_the_table_is_that_of_the_committed_run():
    document = json.loads((ROOT / "bench" / "results" / "cpu.json").read_text())
    assert markdown_table(document["rows"]) in README
    assert document["device"] in README and document["commit"] in README
