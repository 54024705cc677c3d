"""What the commands are told; here, and not beside them, so that --help loads no model code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CollectOptions:
    """What the command line chooses; see ``python -m hivis capture --help``."""

    target: str
    data: Path
    out: Path
    images: Path | None = None
    count: int | None = None
    turns: int = 1
    sampled: float = 0.5
    max_new_tokens: int = 512
    answer_batch: int = 16
    dtype: str = "bfloat16"
    device: str = "cpu"
    seed: int = 0
    draft: str | None = None


@dataclass(frozen=True)
class TrainOptions:
    """What the command line chooses; see ``python -m hivis train --help``.

    ``None`` stands for the method's own default.
    """

    method: str
    target: str
    data: Path
    out: Path
    resume: bool = False
    device: str = "cpu"
    seed: int = 0
    draft: str | None = None
    updates: int = 4000
    batch: int = 16
    lr: float | None = None
    soft: float | None = None
    noise: float | None = None
    residual_rows: int | None = None
    held_out: int = 64
    fp32: bool = False
