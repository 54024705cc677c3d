"""What a figure was measured on: device, versions, commit."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hivis.core.device import choose_device, device_name, versions
from hivis.errors import HivisError


def set_up(device: str | torch.device, threads: int | None) -> None:
    """Apply ``--threads``.

    Raises:
        HivisError: ``--threads`` is below 1, or this machine or this build cannot serve
            ``--device``.
    """
    if threads is not None:
        if threads < 1:
            raise HivisError(f"--threads: wanted at least 1, got {threads}")
        torch.set_num_threads(threads)
    if device == "auto":  # a result has to name the device it was measured on
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


def make_header(options: argparse.Namespace, device: str) -> dict[str, Any]:
    """How the JSON document of every run begins."""
    return {
        "device": device_name(device),
        "versions": versions(),
        "commit": commit(),
        "settings": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(options).items()
            if key not in ("json", "plot")
        },
    }


def print_machine(header: Mapping[str, Any], console: Console) -> None:
    """Device, commit and versions, as the first lines of a run."""
    console.print(f"{header['device']}, commit {header['commit']}")
    console.print(", ".join(f"{name} {number}" for name, number in header["versions"].items()))


def title_of(run: Mapping[str, Any]) -> str:
    """The title of the image of a run's JSON document."""
    return f"{run['device']}, {run['settings']['dtype']}, commit {run['commit']}"
