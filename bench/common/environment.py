"""What a figure was measured on: device, versions, commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from hivis.core.device import choose_device, device_name, has_fast_bfloat16, versions
from hivis.errors import HivisError

__all__ = ["commit", "device_name", "has_fast_bfloat16", "set_up", "versions"]


def set_up(device: str | torch.device, threads: int | None) -> None:
    """Apply --threads and refuse a --device that this machine or this build cannot serve."""
    if threads is not None:
        if threads < 1:
            raise HivisError(f"--threads: wanted at least 1, got {threads}")
        torch.set_num_threads(threads)
    if device == "auto":  # what was measured on is to be said
        raise HivisError("--device: wanted cpu or cuda, got auto")
    choose_device(device, "--device")


def commit() -> str:
    """The checkout's commit, with a mark if tracked files differ from it."""
    here = Path(__file__).resolve().parents[2]

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
