"""Time by phase, without making the device wait while a text is being generated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PhaseClock:
    """Adds up the milliseconds spent in named phases.

    On a CPU that is the wall clock. On CUDA events are recorded into the stream and only looked at
    in :meth:`totals`, since reading them earlier would force a synchronisation.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: dict[str, list] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        spans = self._spans.setdefault(name, [])
        if not self._cuda:
            start = time.perf_counter()
            yield
            spans.append((time.perf_counter() - start) * 1e3)
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        spans.append((begin, end))

    def totals(self) -> dict[str, float]:
        """Milliseconds by phase. On CUDA this waits for the stream."""
        if not self._cuda:
            return {name: sum(spans) for name, spans in self._spans.items()}
        torch.cuda.synchronize()
        return {
            name: sum(begin.elapsed_time(end) for begin, end in spans)
            for name, spans in self._spans.items()
        }
