"""The ops against random arguments, each run in a process of its own, so that a crash is a failure.

``python -m tests.fuzz_ops --seed S --case K`` repeats the one that went wrong.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz_ops.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]


def fuzz(tmp_path: Path, seed: int, cases: int, before: str = "") -> str:
    """What a run prints; AssertionError, with the seed and the case, if anything went wrong.

    Args:
        before: Python that runs first in that process.
    """
    progress = tmp_path / "progress"
    code = f"import sys\n{before}\nfrom tests.fuzz_ops.__main__ import main\nsys.exit(main())"
    options = ["--seed", str(seed), "--cases", str(cases), "--progress", str(progress)]
    done = subprocess.run(
        [sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode < 0:
        case = struct.unpack("<q", progress.read_bytes())[0]
        raise AssertionError(f"seed {seed} case {case}: ended by signal {-done.returncode}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_ops_answer_or_refuse(tmp_path: Path):
    assert "12000 cases" in fuzz(tmp_path, 0, 12_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_ops_answer_or_refuse_100_000_times(tmp_path: Path, seed: int):
    assert "50000 cases" in fuzz(tmp_path, seed, 50_000)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_named(tmp_path: Path, name: str):
    plant = f"from tests.fuzz_ops.faults import plant\nplant({name!r})"
    with pytest.raises(AssertionError, match="seed 5 case [0-9]+: ") as caught:
        fuzz(tmp_path, 5, 3000, plant)
    assert FAULTS[name][2] in str(caught.value)


def test_one_case_alone(tmp_path: Path):
    command = [sys.executable, "-m", "tests.fuzz_ops", "--seed", "5", "--case", "77"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("seed 5: 1 cases in"), done.stderr
