"""Accepted lengths to replay: where they come from, and how they are drawn.

A model with random weights accepts none of its drafted tokens. The distribution of accepted lengths
is therefore given: as a histogram that was counted elsewhere, or as a mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hivis.errors import HivisError

#: The largest count of a histogram.
MOST = 1e15


@dataclass(frozen=True)
class AcceptedLengths:
    """A distribution of accepted lengths (drafted tokens accepted in a cycle).

    Attributes:
        source: where it comes from, in words.
        shares: the probability of 0, 1, ... up to the depth of the trees; they sum to 1.
    """

    source: str
    shares: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(length * share for length, share in enumerate(self.shares))

    def draw(self, count: int, seed: int = 0) -> list[int]:
        """``count`` lengths, the same ones for the same seed."""
        make = torch.Generator().manual_seed(seed)
        shares = torch.tensor(self.shares, dtype=torch.float64)
        return torch.multinomial(shares, count, replacement=True, generator=make).tolist()


def parse_accepted(text: str, depth: int) -> AcceptedLengths:
    """What ``--accepted`` says: a mean, or a file with counts by accepted length.

    Raises:
        HivisError: the mean is not within 0..depth, or the file holds no such counts.
    """
    try:
        mean = float(text)
    except ValueError:
        return _read(Path(text), depth)
    if not 0 <= mean <= depth:
        raise HivisError(
            f"--accepted: wanted a mean of 0 to {depth} (the depth of the trees), got {text}"
        )
    shares = truncated_geometric(mean, depth)
    return AcceptedLengths(f"truncated geometric on 0..{depth} with mean {mean:g}", shares)


def truncated_geometric(mean: float, depth: int) -> tuple[float, ...]:
    """Shares proportional to ``r ** length`` on 0..depth, with r such that they have this mean.

    This is the distribution of a chain of tokens that are each accepted with the same probability,
    cut off at the depth. With r above 1 (a mean above depth / 2) most cycles reach the depth, as in
    the histograms of good drafters.
    """
    if mean in (0, depth):
        return tuple(float(length == mean) for length in range(depth + 1))

    def shares(slope: float) -> list[float]:
        # Relative to the largest, so that no power overflows.
        weights = [
            math.exp(slope * length - max(0.0, slope * depth)) for length in range(depth + 1)
        ]
        return [weight / sum(weights) for weight in weights]

    low, high = -700.0, 700.0
    for _ in range(200):
        middle = (low + high) / 2
        got = sum(length * share for length, share in enumerate(shares(middle)))
        low, high = (middle, high) if got < mean else (low, middle)
    return tuple(shares((low + high) / 2))


def _read(path: Path, depth: int) -> AcceptedLengths:
    """``[n0, n1, ...]`` or ``{"0": n0, ...}``: how many cycles accepted that many tokens."""
    wanted = f"--accepted {path}: wanted counts by accepted length, as a list or an object"
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise HivisError(
            f"--accepted: wanted a mean or a file, got {path} ({error.strerror})"
        ) from None
    except (ValueError, RecursionError):
        raise HivisError(f"{wanted}, got something that is not JSON") from None
    if isinstance(found, list):
        counts: list[tuple[Any, Any]] = list(enumerate(found))
    elif isinstance(found, dict):
        counts = list(found.items())
    else:
        raise HivisError(f"{wanted}, got {json.dumps(found)[:60]}")
    totals = [0.0] * (depth + 1)
    for length, count in counts:
        if not str(length).isdecimal() or len(str(length)) > 9 or not _is_count(count):
            raise HivisError(f"{wanted}, got {json.dumps(count)[:60]} at {str(length)[:60]!r}")
        if count and int(length) > depth:
            raise HivisError(
                f"--accepted {path}: wanted lengths up to {depth} (the depth of the trees), "
                f"got {length}"
            )
        if count:
            totals[int(length)] += count
    if not sum(totals):
        raise HivisError(f"{wanted}, got none above 0")
    return AcceptedLengths(f"histogram of {path.name}", tuple(n / sum(totals) for n in totals))


def _is_count(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= MOST


def mean_of(lengths: Sequence[int]) -> float:
    return sum(lengths) / max(1, len(lengths))
