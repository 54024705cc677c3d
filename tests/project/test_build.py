"""The build: what hivis._C says about itself, and that each op is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hivis import _C, __version__, ops

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCE = ("_C.*", "bundled", "__pycache__")
WANTED = "hivis._C: wanted the compiled extension (pip install --no-build-isolation -e . builds it"

OPS = sorted({*ops.__all__} - {"build_info", "missing_on"})


def test_build_info():
    info = ops.build_info()
    assert info["version"] == __version__
    assert info["torch"] == torch.__version__
    assert isinstance(info["cuda"], bool)
    assert bool(info["cuda_arch_list"]) == info["cuda"]
    assert info["compiler"] and info["cpu_flags"]


@pytest.mark.parametrize("name", OPS)
def test_each_op_has_a_schema_a_wrapper_and_a_docstring(name: str):
    assert hasattr(torch.ops.hivis, name)
    assert callable(getattr(ops, name)) and getattr(ops, name).__doc__
    if hasattr(_C, name):
        doc = getattr(_C, name).__doc__
        assert "RuntimeError" in doc and "[B" in doc


def test_each_op_has_a_wrapper():
    every = torch._C._dispatch_get_all_op_names()
    assert [name for name in sorted(every) if name.startswith("hivis::")] == [
        f"hivis::{name}" for name in OPS
    ]


@pytest.mark.parametrize("name", OPS)
def test_an_op_has_a_body_for_the_cpu(name: str):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"hivis::{name}", "CPU")


def test_the_cpu_lacks_no_op():
    assert ops.missing_on("cpu") == []
    assert "kv_compact_" in ops.missing_on("cuda") or ops.build_info()["cuda"]


def test_an_op_for_cuda_is_there_exactly_when_the_build_says_so():
    has = torch._C._dispatch_has_kernel_for_dispatch_key("hivis::kv_compact_", "CUDA")
    assert has == ops.build_info()["cuda"]


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    """A folder with hivis as it is checked out, before it is built."""
    shutil.copytree(ROOT / "hivis", tmp_path / "hivis", ignore=shutil.ignore_patterns(*NOT_SOURCE))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "hivis").write_text("from hivis.__main__ import run\nrun()\n")
    return tmp_path


def run_unbuilt(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True)


@pytest.mark.parametrize(
    "program", [("-m", "hivis"), ("-B", "-m", "hivis"), (str(Path("bin") / "hivis"),)]
)
@pytest.mark.parametrize("arguments", [("--help",), ("info",), ()])
def test_without_the_extension_a_command_ends_with_one_line(
    unbuilt: Path, program: tuple[str, ...], arguments: tuple[str, ...]
):
    done = run_unbuilt(unbuilt, *program, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {WANTED}") and line.endswith("named 'hivis._C'")


def test_without_the_extension_an_import_says_how_to_build_it(unbuilt: Path):
    code = "try:\n    import hivis\nexcept ImportError as error:\n    print(error)"
    done = run_unbuilt(unbuilt, "-c", code, "-m", "hivis")
    assert done.returncode == 0 and done.stdout.startswith(WANTED), done.stderr


def test_an_extension_that_cannot_be_loaded_says_why(unbuilt: Path):
    (unbuilt / "hivis" / "_C.py").write_text("raise ImportError('undefined symbol: f')")
    done = run_unbuilt(unbuilt, "-m", "hivis", "info")
    assert done.returncode == 2 and done.stderr.endswith("got: undefined symbol: f\n")
