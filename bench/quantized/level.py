"""The products of one level of a draft tree at the size of a real model, and their bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.common.timing import time_together
from hivis.drafters.quantize import format_of, group_of
from hivis.drafters.quantized_linear import Matrix, matrix

#: Bytes a second of an H100's memory, by its data sheet.
BANDWIDTH = 3.35e12
#: Frontiers that the products are timed with.
ROWS = (1, 4, 10)


@dataclass(frozen=True)
class Shape:
    """Hidden size, that of the MLP, width of all queries and of all keys, vocabulary."""

    hidden: int
    inner: int
    queries: int
    keys: int
    vocab: int

    def matrices(self, head: int | None) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of what a level multiplies with."""
        e = self.hidden
        return {
            "fc": (e, 2 * e),
            "qkv": (self.queries + 2 * self.keys, e),
            "o": (e, self.queries),
            "gate_up": (2 * self.inner, e),
            "down": (e, self.inner),
            "head": (self.vocab if head is None else min(head, self.vocab), e),
        }


#: Of the language models of these VLMs, by their config.json; "tiny" is for tests.
SHAPES = {
    "llava-1.5-7b": Shape(4096, 11008, 4096, 4096, 32064),
    "llava-1.5-13b": Shape(5120, 13824, 5120, 5120, 32064),
    "qwen2.5-vl-7b": Shape(3584, 18944, 3584, 512, 152064),
    "tiny": Shape(64, 96, 64, 32, 208),
}


def bytes_of_level(
    shape: Shape, weights: str, head: int | None, dtype: torch.dtype = torch.bfloat16
) -> int:
    """What a level streams of weights, codes, scales and zeros, rows and caches aside.

    ``dtype`` is that of full weights.
    """
    bits, most = format_of(weights)
    total = 0
    for outputs, inputs in shape.matrices(head).values():
        if bits == 0:
            total += dtype.itemsize * outputs * inputs
        elif bits == 8:
            total += outputs * inputs + 2 * outputs
        else:
            total += outputs * inputs // 2 + 4 * outputs * inputs // group_of(inputs, most)
    return total


def time_level(
    shape: Shape,
    drafters: Sequence[tuple[str, int | None]],
    device: str,
    dtype: torch.dtype,
    seconds: float = 3.0,
) -> list[dict[str, float]]:
    """Milliseconds of all products of a level, for each drafter by number of rows.

    The drafters take turns. All weights are random and there once for each.
    """
    place = torch.device(device)
    made = [_matrices(shape, weights, head, place, dtype) for weights, head in drafters]
    found: list[dict[str, float]] = [{} for _ in drafters]
    with torch.inference_mode():
        for rows in ROWS:
            calls: dict[str, Callable[[], Any]] = {
                str(i): partial(_level, own, _inputs(own, rows, place, dtype))
                for i, own in enumerate(made)
            }
            for i, us in time_together(calls, place, seconds).items():
                found[int(i)][str(rows)] = us / 1e3
    return found


def _matrices(
    shape: Shape, weights: str, head: int | None, device: torch.device, dtype: torch.dtype
) -> list[tuple[Matrix, int]]:
    made = []
    for outputs, inputs in shape.matrices(head).values():
        weight = torch.empty(outputs, inputs, dtype=dtype, device=device).normal_(std=0.02)
        made.append((matrix(weight, weights, dtype), inputs))
    return made


def _inputs(
    made: Sequence[tuple[Matrix, int]], rows: int, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    return [torch.randn(rows, inputs, dtype=dtype, device=device) for _, inputs in made]


def _level(made: Sequence[tuple[Matrix, int]], inputs: Sequence[Tensor]) -> None:
    for (own, _), x in zip(made, inputs, strict=True):
        own(x)
