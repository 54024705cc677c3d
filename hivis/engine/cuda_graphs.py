"""Recording what a cycle asks of the device, and replaying it as one CUDA graph.

A cycle is over a thousand small launches, and Python and driver take longer for them than a GPU
does for the work. All that a cycle reads and writes has a fixed place and a fixed shape, so it can
be recorded once for every kind of tree, and then be launched as one. What a cycle is recorded from
is what would have run: a replay cannot change a text.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, cast

import torch

from hivis.core.clock import PhaseClock
from hivis.errors import HivisError, first_line

T = TypeVar("T")

#: Recordings that are kept at a time. Each takes memory for what it computes with.
MOST = 32


class Recorder(Protocol):
    """Records work on a device."""

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record ``work`` without doing it.

        Returns:
            What it returned, whose tensors hold nothing yet, and what does the work: every call of
            it fills these very tensors.
        """
        ...


class CudaRecorder:
    """Records CUDA graphs. They share their memory: one is over before the next begins."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """See :class:`Recorder`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            # torch's own default is one stream for all devices, of the one that came first.
            self._stream = self._stream or torch.cuda.Stream(self._device)
            before = torch.cuda.current_stream(self._device)
            capture = torch.cuda.graph(
                graph, self._pool, self._stream, capture_error_mode="thread_local"
            )
            try:
                with capture:
                    result = work()
            except Exception as error:
                # The end of a capture that has failed raises, too, and keeps the stream.
                raise (error.__context__ or error) from None
            finally:
                torch.cuda.set_stream(before)
        self._pool = self._pool or graph.pool()
        return result, graph.replay


class Graphs:
    """Work that comes again and again, by name: done as it is the first time, recorded the second.

    The first time is no loss: it makes whatever is made only once, which must not be recorded. Work
    that cannot be recorded is done as it is.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder: Recorder | None = recorder
        self._recorded: dict[Hashable, tuple[Any, Callable[[], None]] | None] = {}

    def run(self, name: Hashable, work: Callable[[], T], clock: PhaseClock | None = None) -> T:
        """Do ``work``, or replay it. What it returns is overwritten by the next replay.

        ``clock`` gets the phases ``record`` and ``cycle`` (a replay).
        """
        clock = clock or PhaseClock(torch.device("cpu"))
        if name not in self._recorded or self._recorder is None:
            result = work()
            self._keep(name, None)
            return result
        found = self._recorded.pop(name)
        if found is None:
            with clock.phase("record"):
                found = self._record(work)
        self._keep(name, found)
        if found is None:
            return work()
        result, replay = found
        with clock.phase("cycle"):
            replay()
        return cast(T, result)

    def _keep(self, name: Hashable, found: tuple[Any, Callable[[], None]] | None) -> None:
        """``name`` is the one used last; of too many the one goes that was used before all."""
        self._recorded[name] = found
        if len(self._recorded) > MOST:
            del self._recorded[next(iter(self._recorded))]

    def replay(self, name: Hashable, work: Callable[[], T]) -> T:
        """The same, but ``work`` may be done twice more, so that what is done last is a replay."""
        while self._recorder is not None and self._recorded.get(name) is None:
            self.run(name, work)
        return self.run(name, work)

    def _record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]] | None:
        assert self._recorder is not None
        try:
            return self._recorder.record(work)
        except Exception as error:  # whatever the driver, torch or a model's code may raise
            self._recorder = None
            self._recorded.clear()
            message = f"cycle: wanted to record it, go on without, got {first_line(error)}"
            warnings.warn(message, stacklevel=2)
            return None


def recorder_for(device: torch.device, wanted: bool | None) -> Recorder | None:
    """What records on ``device``; ``None`` where nothing does and nothing has to.

    Raises:
        HivisError: it is ``wanted`` (and not only welcome, ``None``) where nothing does.
    """
    if device.type == "cuda":
        return None if wanted is False else CudaRecorder(device)
    if wanted:
        raise HivisError(f"graphs: wanted a CUDA device to replay them, got {device}")
    return None


def lateness(device: torch.device) -> int:
    """How many cycles are under way on ``device`` while the host reads the one before them.

    One on CUDA, which so never waits for the host. On a CPU there is nothing to be gained.
    """
    return int(device.type == "cuda")
