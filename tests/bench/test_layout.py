"""How bench/ is laid out: few entries at the top, rooms that import common alone, all programs
listed, each of them runnable without mending ``sys.path``."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bench

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
MODULES = sorted(BENCH.rglob("*.py"))
#: What a room may import of bench, beside itself.
ALLOWED = {
    "common": set(),
    "headline": {"common"},
    "ops": {"common"},
    "synthetic": {"common"},
    "quantized": {"common", "headline"},
}


def test_few_entries_lie_at_the_top():
    entries = [path for path in BENCH.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 12
    rooms = {path.name for path in entries if path.is_dir()}
    assert rooms == {*ALLOWED, "results"}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_what_it_may(room):
    for module in (BENCH / room).glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith("bench."):
                    assert name.split(".")[1] in ALLOWED[room] | {room}, f"{module}: {name}"


def test_all_programs_are_listed_and_none_mends_the_path():
    for module in MODULES:
        source = module.read_text()
        assert "sys.path" not in source, module
        if '__name__ == "__main__"' not in source:
            continue
        name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
        wanted = f"python {module.relative_to(ROOT)}" if module.parent == BENCH else name
        wanted = wanted.removesuffix(".__main__")
        short = f"``.{name.rsplit('.', 1)[-1]}``"
        assert wanted in str(bench.__doc__) or short in str(bench.__doc__), name


@pytest.mark.parametrize("command", [["bench/latency.py"], ["-m", "bench.latency"]])
def test_a_program_runs_by_path_and_by_name(command):
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--compare" in done.stdout, done.stderr
