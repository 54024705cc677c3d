"""The emulated ops in Python, and the programs that CMake builds around the emulator."""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
PROGRAMS = BUILD / "tests" / "emulation"


def _cmake() -> str:
    beside = Path(sys.executable).parent / "cmake"
    found = str(beside) if beside.exists() else shutil.which("cmake")
    if found is None:
        raise RuntimeError("cmake: wanted it beside python or on the PATH, got neither")
    return found


def build(*targets: str) -> None:
    """Builds these targets, as far as they can be built, in the folder that built hivis."""
    command = [_cmake(), "--build", str(BUILD), "--target", *targets, "--", "-k", "0"]
    with open(BUILD / "emulation.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one build at a time among the processes of a test run
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"build of {' '.join(targets)} failed:\n{result.stdout[-4000:]}")


@functools.cache
def _load() -> None:
    build("emulation_library")
    torch.ops.load_library(str(PROGRAMS / "hivis_emulated.so"))


def _names() -> list[str]:
    """All ops. One without an emulated body would run the body for the CPU and pass every test."""
    every = torch._C._dispatch_get_all_op_names()
    names = [name.removeprefix("hivis::") for name in every if name.startswith("hivis::")]
    missing = [name for name in names if not hasattr(torch.ops.hivis_emulated, name)]
    if missing:
        raise RuntimeError(f"binding.cpp: wanted the schemas of all ops, got none of {missing}")
    return names


@contextmanager
def emulated_ops(seed: int) -> Iterator[None]:
    """Within it, hivis' ops on CPU tensors run the CUDA kernels in the emulator.

    `seed` picks the schedule. Fresh tensors are filled with NaN, so that what a kernel leaves out
    shows. A kernel that misbehaves raises RuntimeError with the emulator's report.
    """
    _load()
    memory = torch.utils.deterministic.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    library = torch.library.Library("hivis", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a body is overridden, once per process
            for name in _names():
                body = getattr(torch.ops.hivis_emulated, name).default
                library.impl(name, body, "CPU", allow_override=True)
        torch.ops.hivis_emulated.set_schedule(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = memory
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        library._destroy()
