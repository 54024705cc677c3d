"""Many texts at a time: tokens per second for B texts side by side.

    python bench/throughput.py                       the bundled model, B = 1, 2, 4, 8
    python bench/throughput.py --model PATH --drafter PATH --device cuda --batch 1 8 32

One queue of prompts, long answers and short ones in turn, goes through B slots; a text that ends
gives its slot to the next. B = 1 is one text after the other. Every turn runs all methods at all B,
in an order that rotates, and of each the median time of the turns counts. All times include the
images' encoding and the prefill.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.common.environment import commit, device_name, has_fast_bfloat16, set_up, versions
from bench.headline.methods import HIVIS, PLAIN
from bench.headline.options import DTYPES
from bench.headline.prompts import Case, mixed
from bench.headline.tables import check_writable, write_json
from hivis.api.load_drafter import load_any_drafter
from hivis.bundled import paths
from hivis.bundled.prompts import held_out_prompts
from hivis.cli.parser import Parser
from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.engine.batch import Batch, BatchRequest
from hivis.engine.engine import Engine
from hivis.engine.results import Generation
from hivis.errors import HivisError, run_cli
from hivis.models.load import load_target
from hivis.models.target import HuggingFaceTarget
from hivis.policies.registry import policy_names, policy_of


@dataclass
class Method:
    """A method at one B, and what its turns gave."""

    name: str
    texts: int
    drafter: Drafter | None
    policy: Policy
    times: list[float] = field(default_factory=list)
    made: dict[int, Generation] = field(default_factory=dict)

    def run(
        self, target: HuggingFaceTarget, cases: Sequence[Case], params: SamplingParams
    ) -> dict[int, Generation]:
        """All prompts once; the time joins the others."""
        queue = [BatchRequest(case.inputs, params, number) for number, case in enumerate(cases)]
        start = time.perf_counter()
        self.made = dict(Batch(Engine(target, self.drafter, self.policy), queue, self.texts))
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
    check_writable(options.json, "--json")
    set_up(options.device, options.threads)
    dtype = options.dtype or ("bfloat16" if has_fast_bfloat16(options.device) else "float32")
    path = options.model or paths.TARGET
    target, processor = load_target(path, DTYPES[dtype], options.device)
    chosen = options.drafter or (None if options.model else paths.HIVIS)
    drafter = None if chosen is None else load_any_drafter(chosen, target, processor)
    items = mixed(held_out_prompts(), options.count, 1)
    cases = [
        Case(item.id, processor(item.prompt, [item.image] if item.image else []), item.kind)
        for item in items
    ]
    params = SamplingParams(
        temperature=options.temperature, seed=0, max_new_tokens=options.max_new_tokens
    )
    for case in cases:
        Engine(target).check_context(case.inputs, params)
    methods = [
        Method(name, texts, with_, policy_of(options.policy))
        for texts in options.batch
        for name, with_ in ((PLAIN, None), (HIVIS, drafter))
        if with_ is drafter or name == PLAIN
    ]
    header = {
        "device": device_name(options.device),
        "versions": versions(),
        "commit": commit(),
        "settings": {**vars(options), "dtype": dtype, "json": None},
        "prompts": len(cases),
    }
    console.print(f"{header['device']}, commit {header['commit']}")
    console.print(
        f"{options.model or 'bundled model'}, {dtype}, {len(cases)} prompts, at most "
        f"{options.max_new_tokens} new tokens, T = {options.temperature:g}, trees: {options.policy}"
    )
    for method in track(methods, "warm-up", console=console, transient=True):
        method.run(target, cases, params)
        method.times.clear()
    for turn in track(range(options.repeat), "measuring", console=console, transient=True):
        first = turn % len(methods)
        for method in [*methods[first:], *methods[:first]]:
            method.run(target, cases, params)
    rows = make_rows(methods)
    print_table(rows, console)
    if options.json:
        write_json(options.json, {**header, "rows": rows})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="bench/throughput.py", description=__doc__)
    add = parser.add_argument
    add("--model", help="folder or hub name of a VLM (default: the bundled one)")
    add("--drafter", help="folder or hub name of a drafter (default: the embedded HiViS one)")
    add("--device", default="cpu")
    add("--dtype", choices=DTYPES, help="default: bfloat16 where the device has it, else float32")
    add("--threads", type=int, help="threads of the CPU (default: torch's)")
    add("--batch", type=int, nargs="+", default=[1, 2, 4, 8], metavar="B", help="texts at a time")
    add("--count", type=int, default=12, help="long answers, and as many short ones (default: 12)")
    add("--max-new-tokens", type=int, default=160)
    add("--temperature", type=float, default=0.0)
    add("--policy", choices=policy_names(), default=policy_names()[0])
    add("--repeat", type=int, default=3, help="turns; of their times the median counts")
    add("--json", type=Path, help="write everything here")
    options = parser.parse_args(arguments)
    for name in ("count", "repeat"):
        if getattr(options, name) < 1:
            raise HivisError(f"--{name}: wanted at least 1, got {getattr(options, name)}")
    if min(options.batch) < 1:
        raise HivisError(f"--batch: wanted at least 1, got {min(options.batch)}")
    options.batch = sorted(set(options.batch))
    return options


def make_rows(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """The figures of every method at every B.

    ``over_one`` is against the least B of the same method, ``over_plain`` against plain decoding at
    the same B; ``same_text`` counts the texts that are those of plain decoding at the least B.
    """
    by_name: dict[str, Method] = {}
    for method in methods:
        by_name.setdefault(method.name, method)
    plain = {method.texts: method for method in methods if method.name == PLAIN}
    reference = by_name[PLAIN].made
    return [
        {
            "method": m.name,
            "texts": m.texts,
            "tokens_per_s": m.tokens_per_s,
            "over_one": m.tokens_per_s / by_name[m.name].tokens_per_s,
            "over_plain": m.tokens_per_s / plain[m.texts].tokens_per_s,
            "tokens": sum(len(one.tokens) for one in m.made.values()),
            "accepted_length": _accepted(list(m.made.values())),
            "seconds": m.times,
            "same_text": sum(m.made[n].tokens == reference[n].tokens for n in reference),
            "prompts": len(reference),
        }
        for m in methods
    ]


def _accepted(texts: Sequence[Generation]) -> float:
    cycles = sum(text.statistics.cycles for text in texts)
    return sum(sum(text.statistics.accepted_lengths) for text in texts) / max(1, cycles)


def print_table(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table()
    for name in ("method", "B", "tokens/s", "over B = 1", "over plain", "accepted", "same text"):
        table.add_column(name, justify="left" if name == "method" else "right")
    if rows[0]["texts"] != 1:
        table.columns[3].header = f"over B = {rows[0]['texts']}"
    for row in rows:
        table.add_row(
            row["method"],
            str(row["texts"]),
            f"{row['tokens_per_s']:.0f}",
            f"{row['over_one']:.2f}x",
            f"{row['over_plain']:.2f}x",
            f"{row['accepted_length']:.2f}",
            f"{row['same_text']}/{row['prompts']}",
        )
    console.print(table)


if __name__ == "__main__":
    run_cli(main)
