"""Capturing what a cycle asks of the device, and replaying it as one CUDA graph.

A cycle is over a thousand small launches, and Python and driver take longer for them than a GPU
does for the work. All that a cycle reads and writes has a fixed place and a fixed shape, so it can
be captured once for every kind of tree, and then be launched as one. What is captured is what would
have run: a replay cannot change the output.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, cast

import torch

from hivis.core.clock import PhaseClock
from hivis.errors import HivisError, first_line

T = TypeVar("T")

#: Captures that are kept at a time. Each takes memory for its intermediate results.
MOST = 32


class Capturer(Protocol):
    """Captures work on a device."""

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Capture ``work`` without doing it.

        Returns:
            What it returned, whose tensors hold nothing yet, and what does the work: every call of
            it fills these very tensors.
        """
        ...


#: A stream for each device, on which everything is captured, and the right to do so.
_STREAMS: dict[int, torch.cuda.Stream] = {}
_CAPTURING = threading.Lock()


def _capture_stream(index: int) -> torch.cuda.Stream:
    """The stream on which this device's graphs are captured.

    cuBLAS keeps workspaces for every stream that it has ever been used on, 33 MiB on Hopper, and
    makes them where the first call is. One that is made in a capture lies in the graph's pool and
    stays there when the graph is gone. So there is one stream in all, and its workspaces are made
    here.
    """
    if index not in _STREAMS:
        stream = _STREAMS[index] = torch.cuda.Stream(index)
        with torch.cuda.stream(stream):
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                one = torch.ones(16, 16, dtype=dtype, device=torch.device("cuda", index))
                torch.mm(one, one)
                torch.addmm(one[0], one, one)
    return _STREAMS[index]


class CudaCapturer:
    """Captures CUDA graphs. They share one pool of memory, as no two of them run at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """See :class:`Capturer`."""
        graph = torch.cuda.CUDAGraph()
        with _CAPTURING, torch.cuda.device(self._device):
            index = torch.cuda.current_device()
            stream = _capture_stream(index)
            # A pool is given up with the last graph that uses it, and must not be named any more.
            alive = next(iter(self._graphs), None)
            pool = torch.cuda.graph_pool_handle() if alive is None else alive.pool()
            before = torch.cuda.current_stream(self._device)
            capture = torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local")
            try:
                with capture:
                    result = work()
            except Exception as error:
                _end_failed_capture(index, pool)
                # Ending a capture that has failed raises as well, and keeps the stream.
                raise (error.__context__ or error) from None
            finally:
                torch.cuda.set_stream(before)
        self._graphs.add(graph)
        return result, graph.replay


def _end_failed_capture(index: int, pool: Any) -> None:
    """Tell the allocator of a capture's end.

    Where CUDA itself has refused something, torch 2.11 forgets to: from then on nothing is given
    back to the device. An error of Python's in what is captured ends properly, and torch refuses to
    end it twice.
    """
    with contextlib.suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)


class Graphs:
    """Work that is repeated, by name: run as it is the first time, captured the second time.

    The first run makes whatever is made only once, which must not be captured. Work that cannot be
    captured is always run as it is.
    """

    def __init__(self, capturer: Capturer) -> None:
        self._capturer: Capturer | None = capturer
        self._captured: dict[Hashable, tuple[Any, Callable[[], None]] | None] = {}

    def run(self, name: Hashable, work: Callable[[], T], clock: PhaseClock | None = None) -> T:
        """Do ``work``, or replay it. What it returns is overwritten by the next replay.

        ``clock`` gets the phases ``capture`` and ``cycle`` (a replay).
        """
        clock = clock or PhaseClock(torch.device("cpu"))
        if name not in self._captured or self._capturer is None:
            result = work()
            self._keep(name, None)
            return result
        found = self._captured.pop(name)
        if found is None:
            with clock.phase("capture"):
                found = self._capture(work)
        self._keep(name, found)
        if found is None:
            return work()
        result, replay = found
        with clock.phase("cycle"):
            replay()
        return cast(T, result)

    def _keep(self, name: Hashable, found: tuple[Any, Callable[[], None]] | None) -> None:
        """``name`` is the one used last; of too many, the least recently used one is dropped."""
        self._captured[name] = found
        if len(self._captured) > MOST:
            del self._captured[next(iter(self._captured))]

    def replay(self, name: Hashable, work: Callable[[], T]) -> T:
        """As :meth:`run`, but ``work`` may be run twice more, so that the last run is a replay."""
        while self._capturer is not None and self._captured.get(name) is None:
            self.run(name, work)
        return self.run(name, work)

    def _capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]] | None:
        assert self._capturer is not None
        try:
            return self._capturer.capture(work)
        except Exception as error:  # whatever the driver, torch or a model's code may raise
            self._capturer = None
            self._captured.clear()
            message = f"cycle: wanted to capture it, go on without, got {first_line(error)}"
            warnings.warn(message, stacklevel=2)
            return None


def capturer_for(device: torch.device, wanted: bool | None) -> Capturer | None:
    """What captures on ``device``; ``None`` where nothing can be captured, or shall not.

    Args:
        wanted: whether to capture; ``None``: where the device can.

    Raises:
        HivisError: ``wanted`` is true and the device cannot.
    """
    if device.type == "cuda":
        return None if wanted is False else CudaCapturer(device)
    if wanted:
        raise HivisError(f"graphs: wanted a CUDA device to replay them, got {device}")
    return None


def cycles_in_flight(device: torch.device) -> int:
    """How many cycles are in flight on ``device`` while the host reads the one before them.

    One on CUDA, which so never waits for the host. On a CPU there is nothing to be gained.
    """
    return int(device.type == "cuda")
