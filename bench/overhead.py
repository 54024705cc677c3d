"""What a cycle takes beside the forward passes of its two models: python bench/overhead.py

The target's pass, and every pass of the drafter (its head over the root, each level of a tree, and
the commit) are timed on their own; what is left of a cycle is the loop: scores and shapes of the
tree, the walk, the compaction, the one read of the device, and all Python in between. Of the loop
``ops`` is the time inside the native ops, and ``python`` everything else. Medians over cycles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.common.environment import commit, device_name, set_up
from bench.headline.tables import check_writable, write_json
from hivis import ops
from hivis.bundled import paths
from hivis.bundled.prompts import held_out_prompts
from hivis.core.clock import PhaseClock
from hivis.core.sampling import SamplingParams
from hivis.drafters.load import load_drafter
from hivis.drafters.tree_growth import Grower
from hivis.engine.engine import Engine
from hivis.engine.running_batch import RunningBatch
from hivis.errors import HivisError, run_cli
from hivis.models.load import load_target
from hivis.policies.registry import policy_of

PARTS = ("target", "drafter", "grow", "accept", "compact", "read", "rest", "loop", "ops", "python")
#: Those that are called outside of the passes of target and drafter.
OPS = ("tree_grow_", "tree_prune", "tree_accept", "kv_compact_")


class Watch:
    """Milliseconds inside wrapped calls, by name; calls within such calls are part of them."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._inside = False

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return call(*args, **kwargs)
            start, self._inside = time.perf_counter(), True
            try:
                return call(*args, **kwargs)
            finally:
                self._inside = False
                self.ms[name] = self.ms.get(name, 0.0) + (time.perf_counter() - start) * 1e3

        return timed


def measure(temperature: float, policy: str, texts: int) -> list[dict[str, float]]:
    """The parts of every cycle, in ms, of some held-out texts."""
    target, processor = load_target(paths.TARGET, torch.bfloat16)
    drafter = load_drafter(paths.HIVIS)
    chosen, watch, cycles = policy_of(policy), Watch(), []
    grown = Grower.__call__

    def grow(self: Grower, *given: Any) -> Any:
        *others, step = given
        return grown(self, *others, watch.wrap("step", step))

    target.verify = watch.wrap("target", target.verify)  # type: ignore[method-assign]
    drafter._predict = watch.wrap("step", drafter._predict)  # type: ignore[attr-defined]
    drafter.commit = watch.wrap("commit", drafter.commit)  # type: ignore[method-assign]
    Grower.__call__ = grow  # type: ignore[method-assign]
    native = {name: getattr(ops, name) for name in OPS}
    for name, op in native.items():
        setattr(ops, name, watch.wrap("ops", op))
    try:
        for item in [item for item in held_out_prompts() if item.kind == "long"][:texts]:
            params = SamplingParams(
                temperature=temperature, max_new_tokens=120, eos_token_ids=(), seed=1
            )
            loop = RunningBatch(Engine(target, drafter, chosen))
            inputs, tokens = processor(item.prompt, [item.image] if item.image else []), 1
            with torch.inference_mode():
                loop.add(inputs, params, ())
                while tokens < params.max_new_tokens:
                    watch.ms.clear()
                    loop.cycles.clock = PhaseClock(target.device)
                    start = time.perf_counter()
                    (step,) = loop.cycle()
                    total = (time.perf_counter() - start) * 1e3
                    tokens += len(step.drawn)
                    phases = loop.clock.totals()
                    if "measure" not in phases:
                        cycles.append(_parts(total, watch.ms, phases))
    finally:
        Grower.__call__ = grown  # type: ignore[method-assign]
        for name, op in native.items():
            setattr(ops, name, op)
    return cycles[5:]


def _parts(total: float, ms: dict[str, float], phases: dict[str, float]) -> dict[str, float]:
    drafter = ms.get("step", 0.0) + ms["commit"]
    parts = {
        "target": ms["target"],
        "drafter": drafter,
        "grow": phases["draft"] - ms.get("step", 0.0),
        "accept": phases["accept"],
        "compact": phases["compact"],
        "read": phases["read"],
        "loop": total - ms["target"] - drafter,
    }
    own = sum(parts[name] for name in ("grow", "accept", "compact", "read"))
    return {
        **parts,
        "rest": parts["loop"] - own,
        "ops": ms["ops"],
        "python": parts["loop"] - ms["ops"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=8, help="held-out texts (default: 8)")
    parser.add_argument("--threads", type=int, help="threads of the CPU (default: torch's)")
    parser.add_argument("--json", type=Path, help="write everything here")
    options = parser.parse_args(arguments)
    if options.texts < 1:
        raise HivisError(f"--texts: wanted at least 1, got {options.texts}")
    check_writable(options.json, "--json")
    set_up("cpu", options.threads)
    console, rows = Console(), []
    console.print(f"{device_name('cpu')}, commit {commit()}, ms per cycle (medians)")
    table = Table("T", "trees", *PARTS)
    for temperature in (0.0, 1.0):
        for policy in ("fixed", "cost"):
            cycles = measure(temperature, policy, options.texts)
            row = {part: median(cycle[part] for cycle in cycles) for part in PARTS}
            rows.append({"temperature": temperature, "trees": policy, "cycles": len(cycles), **row})
            table.add_row(f"{temperature:g}", policy, *(f"{row[part]:.3f}" for part in PARTS))
    console.print(table)
    if options.json:
        write_json(options.json, {"device": device_name("cpu"), "commit": commit(), "rows": rows})


if __name__ == "__main__":
    run_cli(main)
