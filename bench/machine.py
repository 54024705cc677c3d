"""What a figure was measured on: device, versions, commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from hivis import ops
from hivis.errors import HivisError


def device_name(device: str | torch.device) -> str:
    """The processor or the GPU, in words."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def has_fast_bfloat16(device: str | torch.device) -> bool:
    """Whether bfloat16 products run on units made for them; elsewhere float32 is faster."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags


def set_up(device: str | torch.device, threads: int | None) -> None:
    """Apply --threads and refuse a --device that this machine or this build cannot serve."""
    if threads is not None:
        if threads < 1:
            raise HivisError(f"--threads: wanted at least 1, got {threads}")
        torch.set_num_threads(threads)
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = "unknown"
    if kind != "cpu" and not (kind == "cuda" and torch.cuda.is_available()):
        raise HivisError(f"--device: wanted cpu, or cuda where torch sees a GPU, got {device}")
    missing = ops.missing_on(device)
    if missing:
        raise HivisError(
            f"--device: wanted one that this build has all ops for, got {device} "
            f"(without {', '.join(missing)})"
        )


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for package in ("hivis", "torch", "transformers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def commit() -> str:
    """The checkout's commit, with a mark if tracked files differ from it."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
