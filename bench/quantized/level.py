"""The time of one level of a draft tree at the size of a real model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.common.level_bytes import LevelSizes
from bench.common.timing import time_together
from hivis.drafters.quantized_linear import Matrix, matrix

#: Nodes of a level that the products are timed with.
ROWS = (1, 4, 10)
#: Of the language models of these VLMs, by their config.json; "tiny" is for tests.
SHAPES = {
    "llava-1.5-7b": LevelSizes(4096, 11008, 4096, 4096, 32064),
    "llava-1.5-13b": LevelSizes(5120, 13824, 5120, 5120, 32064),
    "qwen2.5-vl-7b": LevelSizes(3584, 18944, 3584, 512, 152064),
    "tiny": LevelSizes(64, 96, 64, 32, 208),
}


def time_level(
    sizes: LevelSizes,
    drafters: Sequence[tuple[str, int | None]],
    device: str,
    dtype: torch.dtype,
    seconds: float = 3.0,
) -> list[dict[str, float]]:
    """Milliseconds of all products of a level, for each drafter by number of rows.

    The drafters take turns. Every drafter has random weights of its own.

    Args:
        drafters: format of the weights, and tokens of the draft vocabulary (``None``: all).
    """
    place = torch.device(device)
    made = [
        random_matrices(sizes, weights, draft_vocab, place, dtype)
        for weights, draft_vocab in drafters
    ]
    found: list[dict[str, float]] = [{} for _ in drafters]
    with torch.inference_mode():
        for rows in ROWS:
            calls: dict[str, Callable[[], Any]] = {
                str(i): partial(_multiply, own, _inputs(own, rows, place, dtype))
                for i, own in enumerate(made)
            }
            for i, us in time_together(calls, place, seconds).items():
                found[int(i)][str(rows)] = us / 1e3
    return found


def random_matrices(
    sizes: LevelSizes,
    weights: str,
    draft_vocab: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> list[tuple[Matrix, int]]:
    """The matrices of a level, each with the width of its inputs."""
    made = []
    for outputs, inputs in sizes.matrices(draft_vocab).values():
        weight = torch.empty(outputs, inputs, dtype=dtype, device=device).normal_(std=0.02)
        made.append((matrix(weight, weights, dtype), inputs))
    return made


def _inputs(
    made: Sequence[tuple[Matrix, int]], rows: int, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    return [torch.randn(rows, inputs, dtype=dtype, device=device) for _, inputs in made]


def _multiply(made: Sequence[tuple[Matrix, int]], inputs: Sequence[Tensor]) -> None:
    for (own, _), x in zip(made, inputs, strict=True):
        own(x)
