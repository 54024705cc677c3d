"""Continuous batching: tokens per second with B sequences at a time.

    python bench/throughput.py                       the bundled model, B = 1, 2, 4, 8
    python bench/throughput.py --model PATH --drafter PATH --device cuda --batch 1 8 32

One queue of prompts, for long answers and short ones in turn, goes through B slots; a sequence that
ends gives its slot to the next prompt. With B = 1, sequences are generated one after another. Every
turn runs all methods at all B, in an order that rotates, and the median time of a method's turns
counts. All times include the images' encoding and the prefill.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from bench.common.environment import make_header, print_machine
from bench.common.files import write_json
from bench.common.options import add_device, add_json, check_at_least_one, prepare
from bench.common.tables import new_table
from bench.headline.methods import PLAIN, row_name
from bench.headline.prompts import BenchPrompt, bundled_prompts, mixed
from hivis.api.load_drafter import load_any_drafter
from hivis.bundled import paths
from hivis.bundled.prompts import held_out_prompts
from hivis.cli.parser import Parser
from hivis.core.device import DTYPES
from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.drafters.registry import title_of
from hivis.engine.batch import Batch, BatchRequest
from hivis.engine.engine import Engine
from hivis.engine.results import Generation
from hivis.errors import HivisError, run_cli
from hivis.models.load import load_target
from hivis.models.target import HuggingFaceTarget
from hivis.policies.registry import policy_names, policy_of


@dataclass
class BatchMethod:
    """A method at one B.

    Attributes:
        batch: B, sequences at a time.
        times: seconds of every turn.
        made: what the last turn generated, by number of the prompt.
    """

    name: str
    batch: int
    drafter: Drafter | None
    policy: Policy
    times: list[float] = field(default_factory=list)
    made: dict[int, Generation] = field(default_factory=dict)

    def run(
        self, target: HuggingFaceTarget, prompts: Sequence[BenchPrompt], params: SamplingParams
    ) -> dict[int, Generation]:
        """Run all prompts once, and add the time to the others."""
        queue = [
            BatchRequest(prompt.inputs, params, number) for number, prompt in enumerate(prompts)
        ]
        start = time.perf_counter()
        self.made = dict(Batch(Engine(target, self.drafter, self.policy), queue, self.batch))
        if target.device.type == "cuda":
            torch.cuda.synchronize(target.device)
        self.times.append(time.perf_counter() - start)
        return self.made

    @property
    def tokens_per_s(self) -> float:
        return sum(len(one.tokens) for one in self.made.values()) / median(self.times)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    console = Console()
    prepare(options)
    path = options.model or paths.TARGET
    target, processor = load_target(path, DTYPES[options.dtype], options.device)
    chosen = options.drafter or (None if options.model else paths.HIVIS)
    drafter = None if chosen is None else load_any_drafter(chosen, target, processor)
    prompts = bundled_prompts(mixed(held_out_prompts(), options.count, 1), processor, grouped=True)
    params = SamplingParams(
        temperature=options.temperature, seed=0, max_new_tokens=options.max_new_tokens
    )
    for prompt in prompts:
        Engine(target).check_context(prompt.inputs, params)
    drafters: dict[str, Drafter | None] = {PLAIN: None}
    if drafter is not None:
        drafters[row_name(title_of(drafter))] = drafter
    methods = [
        BatchMethod(name, batch, with_, policy_of(options.policy))
        for batch in options.batch
        for name, with_ in drafters.items()
    ]
    header = {**make_header(options, options.device), "prompts": len(prompts)}
    print_machine(header, console)
    console.print(
        f"{options.model or 'bundled model'}, {options.dtype}, {len(prompts)} prompts, at most "
        f"{options.max_new_tokens} new tokens, T = {options.temperature:g}, trees: {options.policy}"
    )
    for method in track(methods, "warm-up", console=console, transient=True):
        method.run(target, prompts, params)
        method.times.clear()
    for turn in track(range(options.repeat), "measuring", console=console, transient=True):
        first = turn % len(methods)
        for method in [*methods[first:], *methods[:first]]:
            method.run(target, prompts, params)
    rows = make_rows(methods)
    print_table(rows, console)
    if options.json:
        write_json(options.json, {**header, "rows": rows})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="bench/throughput.py", description=__doc__)
    add = parser.add_argument
    add("--model", help="folder or hub name of a VLM (default: the bundled one)")
    add("--drafter", help="folder or hub name of a drafter (default: the bundled HiViS one)")
    add_device(add)
    add(
        "--batch",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8],
        metavar="B",
        help="sequences at a time (default: 1 2 4 8)",
    )
    add("--count", type=int, default=12, help="long answers, and as many short ones (default: 12)")
    add("--max-new-tokens", type=int, default=160)
    add("--temperature", type=float, default=0.0)
    add("--policy", choices=policy_names(), default=policy_names()[0])
    add("--repeat", type=int, default=3, help="turns, whose median time counts (default: 3)")
    add_json(add)
    options = parser.parse_args(arguments)
    check_at_least_one(options, "count", "repeat")
    if min(options.batch) < 1:
        raise HivisError(f"--batch: wanted at least 1, got {min(options.batch)}")
    options.batch = sorted(set(options.batch))
    return options


def make_rows(methods: Sequence[BatchMethod]) -> list[dict[str, Any]]:
    """The figures of every method at every B.

    ``over_one`` compares with the smallest B of the same method, ``over_plain`` with plain decoding
    at the same B; ``same_output`` counts outputs that equal those of plain decoding at the smallest
    B. ``batch`` is B, the number of sequences.
    """
    by_name: dict[str, BatchMethod] = {}
    for method in methods:
        by_name.setdefault(method.name, method)
    plain = {method.batch: method for method in methods if method.name == PLAIN}
    reference = by_name[PLAIN].made
    return [
        {
            "method": m.name,
            "batch": m.batch,
            "tokens_per_s": m.tokens_per_s,
            "over_one": m.tokens_per_s / by_name[m.name].tokens_per_s,
            "over_plain": m.tokens_per_s / plain[m.batch].tokens_per_s,
            "tokens": sum(len(one.tokens) for one in m.made.values()),
            "accepted_length": _accepted(list(m.made.values())),
            "seconds": m.times,
            "same_output": sum(m.made[n].tokens == reference[n].tokens for n in reference),
            "prompts": len(reference),
        }
        for m in methods
    ]


def _accepted(outputs: Sequence[Generation]) -> float:
    cycles = sum(output.statistics.cycles for output in outputs)
    return sum(sum(output.statistics.accepted_lengths) for output in outputs) / max(1, cycles)


def print_table(rows: Sequence[dict[str, Any]], console: Console) -> None:
    over_one = f"over B = {rows[0]['batch']}"
    table = new_table(
        ("method",), ("B", "tokens/s", over_one, "over plain", "accepted", "same output")
    )
    for row in rows:
        table.add_row(
            row["method"],
            str(row["batch"]),
            f"{row['tokens_per_s']:.0f}",
            f"{row['over_one']:.2f}x",
            f"{row['over_plain']:.2f}x",
            f"{row['accepted_length']:.2f}",
            f"{row['same_output']}/{row['prompts']}",
        )
    console.print(table)


if __name__ == "__main__":
    run_cli(main)
