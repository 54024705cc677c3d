"""Time by phase, without making the device wait while tokens are generated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

#: Spans that are kept at most before those that the device is done with are added up.
_KEPT = 512


class _Wall:
    """Adds up the wall clock's milliseconds. Made once a phase: it is entered in every cycle."""

    __slots__ = ("_start", "ms")

    def __init__(self) -> None:
        self._start, self.ms = 0.0, 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.ms += (time.perf_counter() - self._start) * 1e3


class PhaseClock:
    """Adds up the milliseconds spent in named phases.

    On a CPU that is the wall clock. On CUDA events are recorded into the device's stream and looked
    at once the device has passed them: earlier would force a synchronization. While the stream is
    being captured into a graph nothing happens, and no time is counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._walls: dict[str, _Wall] = {}
        self._sums: dict[str, float] = {}
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A span of this phase; spans of one phase do not lie within each other."""
        if self._cuda:
            return self._recorded(name)
        if name not in self._walls:
            self._walls[name] = _Wall()
        return self._walls[name]

    @contextmanager
    def _recorded(self, name: str) -> Iterator[None]:
        self._sums.setdefault(name, 0.0)
        if torch.cuda.is_current_stream_capturing():
            yield
            return
        stream = torch.cuda.current_stream(self._device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(stream)
        yield
        end.record(stream)
        self._spans.append((name, begin, end))
        if len(self._spans) > _KEPT:
            self._add_up()

    def totals(self) -> dict[str, float]:
        """Milliseconds by phase, as far as the device has come."""
        self._add_up()
        return {**self._sums, **{name: wall.ms for name, wall in self._walls.items()}}

    def _add_up(self) -> None:
        """Add up the spans that the device has passed."""
        passed = 0
        for name, begin, end in self._spans:
            if not end.query():
                break
            self._sums[name] += begin.elapsed_time(end)
            passed += 1
        del self._spans[:passed]
