"""Runs the cases of a GPU, each against the machine's ceilings and against its peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.common.ceilings import Ceilings, Timer
from bench.common.goals import goal_text, judge_goal
from bench.common.timing import time_graphs
from bench.ops.cases import OpCase
from bench.ops.peers import reason

TOLERANCE = 0.02  # relative, in the Euclidean norm: 16-bit results of sums in different orders


@dataclass(frozen=True)
class CudaResult:
    """One line of the table. Times are microseconds per call inside a CUDA graph.

    Attributes:
        launch_us: what one call costs the host without a graph.
        bounds_us: of calls that do less than ours.
        copies: sets of buffers.
        figures: what goals are about.
        targets: the goals, judged.
        errors: how far the results of other calls are from ours.
    """

    op: str
    label: str
    us: float
    launch_us: float
    peers_us: dict[str, float]
    bounds_us: dict[str, float]
    floor_us: float
    gb_per_s: float
    gflop_per_s: float
    mm_gflop_per_s: float
    ratio: float | None
    copies: int
    figures: dict[str, float]
    targets: list[dict[str, Any]]
    errors: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def differing(self) -> list[str]:
        return [name for name, error in self.errors.items() if not error <= TOLERANCE]


def difference(ours: Tensor, other: Tensor) -> float:
    """Relative error of floats, where equal infinities do not differ; integers are equal or
    infinitely far apart."""
    if ours.shape != other.shape:
        return float("inf")
    if not ours.is_floating_point():
        return 0.0 if torch.equal(ours, other) else float("inf")
    same = ours == other  # for example a node that ends the sequence has a score of -inf in both
    a, b = (values.double().masked_fill(same & values.isinf(), 0) for values in (ours, other))
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def compare(case: OpCase) -> tuple[dict[str, float], dict[str, str]]:
    """How far every other outcome is from ours, and why calls failed."""
    errors: dict[str, float] = {}
    failed: dict[str, str] = {}
    if "ours" not in case.outcomes:
        return errors, failed
    ours = case.outcomes["ours"]()
    for name, outcome in case.outcomes.items():
        if name == "ours":
            continue
        try:
            errors[name] = difference(ours, outcome())
        except Exception as error:  # another package's call, which may raise anything
            failed[name] = reason(error)
    return errors, failed


def figures(
    case: OpCase, us: float, floor_us: float, peers_us: Mapping[str, float], machine: Ceilings
) -> dict[str, float]:
    """What goals are about: microseconds, the share of the copy bandwidth, multiples of the
    larger floor, and times as fast as the fastest scaled_dot_product_attention with a mask."""
    values = {
        "us": us,
        "of copy": case.bytes / us / 1e3 / machine.copy_gb_per_s,
        "floors": us / floor_us,
    }
    dense = [time for name, time in peers_us.items() if name.startswith("sdpa")]
    if dense:
        values["x sdpa"] = min(dense) / us
    return values


def run_case(
    op: str, case: OpCase, machine: Ceilings, seconds: float, timer: Timer = time_graphs
) -> CudaResult:
    """Compare the outcomes once, then time ours and the peers that agree with it."""
    errors, failed = compare(case)
    skipped = dict(case.skipped) | failed
    peers = {
        name: calls
        for name, calls in case.peers.items()
        if name not in failed and errors.get(name, 0.0) <= TOLERANCE
    }
    calls = {"ours": case.ours} | peers | dict(case.bounds)
    times, failures = timer(calls, case.reset, seconds)
    if "ours" in failures:
        raise failures["ours"]
    skipped |= {name: reason(error) for name, error in failures.items()}
    ours = times["ours"]
    peers_us = {name: times[name].us for name in peers if name in times}
    bounds_us = {name: times[name].us for name in case.bounds if name in times}
    rate = machine.mm_gflop_per_s[str(case.dtype)]
    floor_us = max(case.bytes / machine.copy_gb_per_s, case.flops / rate) / 1e3
    values = figures(case, ours.us, floor_us, peers_us, machine)
    return CudaResult(
        op=op,
        label=case.label,
        us=ours.us,
        launch_us=ours.launch_us,
        peers_us=peers_us,
        bounds_us=bounds_us,
        floor_us=floor_us,
        gb_per_s=case.bytes / ours.us / 1e3,
        gflop_per_s=case.flops / ours.us / 1e3,
        mm_gflop_per_s=rate,
        ratio=min(peers_us.values()) / ours.us if peers_us else None,
        copies=len(case.ours),
        figures=values,
        targets=[judge_goal(goal, values) for goal in case.goals],
        errors=errors,
        skipped=skipped,
    )


def cuda_line(result: CudaResult) -> str:
    """One line per case; peers fastest first, goals last."""
    parts = [
        f"{result.op} {result.label}",
        f"{result.us:8.2f} us",
        f"launch {result.launch_us:5.1f} us",
        f"{result.gb_per_s:6.0f} GB/s ({result.figures['of copy']:4.0%} of copy)",
    ]
    if result.gflop_per_s:
        share = result.gflop_per_s / result.mm_gflop_per_s
        parts.append(f"{result.gflop_per_s / 1e3:5.1f} TFLOP/s ({share:4.0%} of mm)")
    parts.append(f"floor {result.floor_us:7.2f} us ({result.floor_us / result.us:4.0%})")
    by_time = sorted(result.peers_us.items(), key=lambda item: item[1])
    parts += [f"{time / result.us:.2f}x {name} ({time:.1f} us)" for name, time in by_time]
    parts += [
        f"bound {name} {time:.1f} us ({time / result.us:.2f}x)"
        for name, time in result.bounds_us.items()
    ]
    parts += [f"{name} DIFFERS by {result.errors[name]:.1e}" for name in result.differing]
    parts += [f"goal {goal_text(judged)}" for judged in result.targets]
    return " | ".join(parts)
