"""How long calls take, measured in turn so that a disturbance affects all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

Call = Callable[[], object]
LEAST_CALLS = 24  # in a graph


@dataclass(frozen=True)
class GraphTime:
    """Microseconds of one call: inside a CUDA graph, and for the host to issue it without one."""

    us: float
    launch_us: float


def _once_cpu(call: Call) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6


def _once_cuda(call: Call) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def time_together(
    calls: Mapping[str, Call], device: torch.device, seconds: float = 0.3, least: int = 5
) -> dict[str, float]:
    """Median duration of each call in microseconds.

    The calls take turns, in a new random order every round, so that no call always follows the one
    that evicts the caches.

    Args:
        calls: what to time, by name.
        seconds: time to spend on all rounds, after two rounds that are not counted.
        least: the least number of rounds, even if they take longer.
    """
    once = _once_cuda if device.type == "cuda" else _once_cpu
    order = random.Random(0)
    names = list(calls)
    for _ in range(2):
        for name in names:
            once(calls[name])
    samples: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[names[0]]) < least:
        order.shuffle(names)
        for name in names:
            samples[name].append(once(calls[name]))
    return {name: median(values) for name, values in samples.items()}


def time_graphs(
    calls: Mapping[str, Sequence[Call]],
    reset: Call | None = None,
    seconds: float = 0.4,
    least: int = 5,
) -> tuple[dict[str, GraphTime], dict[str, Exception]]:
    """Median time of each call as part of a CUDA graph that holds many of them.

    The graphs take turns like the calls of `time_together`. Each is replayed twice in a row and the
    second replay is timed, so that neither the launch of the graph nor the caches left by another
    graph affect the time.

    Args:
        calls: by name, the same call on one set of buffers after another; a graph repeats them in
            order until it holds at least 24 calls.
        reset: restores the buffers' state before a pair of replays; not timed.
        seconds: time to spend on all rounds.
        least: the least number of rounds, even if they take longer.

    Returns:
        The times by name, and the exceptions of the calls that failed.
    """
    counts, launches, graphs = {}, {}, {}
    failures: dict[str, Exception] = {}
    for name, sequence in calls.items():
        counts[name] = len(sequence) * -(-LEAST_CALLS // len(sequence))
        try:
            launches[name] = _launch_time(sequence, reset)
            graphs[name] = _capture(sequence, counts[name])
        except Exception as error:  # another package's call, which may raise anything
            failures[name] = error
    order = random.Random(0)
    names = list(graphs)
    samples: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    while names and (time.perf_counter() < end or len(samples[names[0]]) < least):
        order.shuffle(names)
        for name in names:
            if reset is not None:
                reset()
            graphs[name].replay()
            samples[name].append(_once_cuda(graphs[name].replay) / counts[name])
    for graph in graphs.values():
        graph.reset()
    times = {name: GraphTime(median(samples[name]), launches[name]) for name in graphs}
    return times, failures


def _launch_time(sequence: Sequence[Call], reset: Call | None, repeats: int = 5) -> float:
    """Median microseconds that the host takes to issue one of the calls. Also warms them up."""
    samples = []
    for _ in range(1 + repeats):
        if reset is not None:
            reset()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for call in sequence:
            call()
        samples.append((time.perf_counter() - start) / len(sequence) * 1e6)
    torch.cuda.synchronize()
    return median(samples[1:])


def _capture(sequence: Sequence[Call], count: int) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for i in range(count):
                sequence[i % len(sequence)]()
    except Exception:
        torch.cuda.set_stream(stream)  # a capture that fails leaves its own stream behind
        raise
    return graph
