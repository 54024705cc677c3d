"""Time by phase, without making the device wait while a text is being generated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Spans that are kept at most before those that the device is done with are added up.
_KEPT = 512


class PhaseClock:
    """Adds up the milliseconds spent in named phases.

    On a CPU that is the wall clock. On CUDA events are recorded into the device's stream and looked
    at once the device has passed them: earlier would force a synchronisation. While the stream is
    being captured into a graph nothing happens, and no time is counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._sums: dict[str, float] = {}
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._sums.setdefault(name, 0.0)
        if not self._cuda:
            start = time.perf_counter()
            yield
            self._sums[name] += (time.perf_counter() - start) * 1e3
            return
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
        return dict(self._sums)

    def _add_up(self) -> None:
        """Add up the spans that the device has passed."""
        passed = 0
        for name, begin, end in self._spans:
            if not end.query():
                break
            self._sums[name] += begin.elapsed_time(end)
            passed += 1
        del self._spans[:passed]
