"""What the README shows is run as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert len(printed.split()) > 20
    assert float(printed.split()[-1]) > 1.5


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.findall(r"`?make (\w+)", README))
    assert {"latency", "test"} <= commands
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_the_files_it_names_exist():
    for path in re.findall(r"`((?:docs|bench|hivis|csrc|tests)/[\w./-]*)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_the_table_is_that_of_the_committed_run(temperature):
    """Each row of the README's table carries the figures of bench/results/cpu.json."""
    document = json.loads((ROOT / "bench" / "results" / "cpu.json").read_text())
    rows = [row for row in document["rows"] if f"{row['temperature']:g}" == temperature]
    assert rows
    for row in rows:
        wanted = f"| {row['method']} | {temperature} | {row['tokens_per_s']:.0f} |"
        assert wanted in README
