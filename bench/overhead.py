"""What a cycle takes beside the forward passes of its two models.

    python bench/overhead.py [--prompts 8] [--json PATH]

The target's pass and every pass of the drafter (its head over the root, each level of a tree, and
the commit) are timed separately. The rest of a cycle is the loop: scores and shapes of the tree,
the walk, the compaction, the one read of the device, and all Python in between. ``ops`` is the time
of the loop inside the native ops, ``python`` the rest of it. Medians over cycles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from rich.console import Console

from bench.common.environment import make_header, print_machine, set_up
from bench.common.files import check_writable, write_json
from bench.common.options import add_json, add_threads, check_at_least_one
from bench.common.tables import new_table
from bench.headline.prompts import bundled_prompts, long_ones
from hivis import ops
from hivis.bundled import paths
from hivis.bundled.prompts import held_out_prompts
from hivis.cli.parser import Parser
from hivis.core.clock import PhaseClock
from hivis.core.sampling import SamplingParams
from hivis.drafters.load import load_drafter
from hivis.drafters.tree_growth import Grower
from hivis.engine.engine import Engine
from hivis.engine.running_batch import RunningBatch
from hivis.errors import run_cli
from hivis.models.load import load_target
from hivis.policies.registry import policy_of

PARTS = ("target", "drafter", "grow", "accept", "compact", "read", "rest", "loop", "ops", "python")
#: The native ops that are called outside the passes of target and drafter.
OPS = ("tree_grow_", "tree_prune", "tree_accept", "kv_compact_")


class Stopwatch:
    """Milliseconds inside wrapped calls, by name; a nested call counts as part of the outer one."""

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


def measure(temperature: float, policy: str, count: int) -> list[dict[str, float]]:
    """The parts of every cycle, in ms, over the first ``count`` held-out prompts."""
    target, processor = load_target(paths.TARGET, torch.bfloat16)
    drafter = load_drafter(paths.HIVIS)
    chosen, watch, cycles = policy_of(policy), Stopwatch(), []
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
        for prompt in bundled_prompts(long_ones(held_out_prompts(), count), processor):
            params = SamplingParams(
                temperature=temperature, max_new_tokens=120, eos_token_ids=(), seed=1
            )
            loop = RunningBatch(Engine(target, drafter, chosen))
            tokens = 1
            with torch.inference_mode():
                loop.add(prompt.inputs, params, ())
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
    parser = Parser(prog="bench/overhead.py", description=__doc__)
    add = parser.add_argument
    add("--prompts", type=int, default=8, help="held-out prompts to answer (default: 8)")
    add_threads(add)
    add_json(add)
    options = parser.parse_args(arguments)
    check_at_least_one(options, "prompts")
    check_writable(options.json, "--json")
    set_up("cpu", options.threads)
    console, rows = Console(), []
    header = make_header(options, "cpu")
    print_machine(header, console)
    console.print("ms per cycle (medians)")
    for temperature in (0.0, 1.0):
        for policy in ("fixed", "cost"):
            cycles = measure(temperature, policy, options.prompts)
            row = {part: median(cycle[part] for cycle in cycles) for part in PARTS}
            rows.append({"temperature": temperature, "trees": policy, "cycles": len(cycles), **row})
    table = new_table(("",), (f"T = {row['temperature']:g}, {row['trees']}" for row in rows))
    for part in PARTS:
        table.add_row(part, *(f"{row[part]:.3f}" for row in rows))
    console.print(table)
    if options.json:
        write_json(options.json, {**header, "rows": rows})


if __name__ == "__main__":
    run_cli(main)
