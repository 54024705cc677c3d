"""``bench/latency.py --compare``: all drafters, by kind of answer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bench.common.generation import TimedOutput
from bench.headline.ablation import Labels, add_ablations, judge, print_ablation, verdict_lines
from bench.headline.loading import LoadedMethods
from bench.headline.measure import find_margins, measure
from bench.headline.prefill_rows import prefill_rows, print_prefill
from bench.headline.prompts import ALL, BenchPrompt
from bench.headline.summary import Row, Series, make_rows, pool
from bench.headline.tables import print_table, warn_if_busy
from hivis.core.sampling import SamplingParams

DECODING = "decoding: tokens/s after the first"


def compare(
    options: argparse.Namespace,
    loaded: LoadedMethods,
    prompts: Sequence[BenchPrompt],
    settings: Sequence[SamplingParams],
    console: Console,
) -> dict[str, Any]:
    """Measure, print the tables, and return the figures of the JSON file."""
    shown = [method.name for method in loaded.methods]
    parts, policies = add_ablations(options, loaded) if options.ablate else ({}, {})
    for note in loaded.notes:
        console.print(f"{note}.", markup=False)
    series = measure(loaded.methods, prompts, settings, options.repeat, console)
    margins = find_margins(series, prompts, settings, loaded.target)
    rows = make_rows(series, margins)
    groups = list(dict.fromkeys(prompt.group for prompt in prompts))
    document: dict[str, Any] = {
        "notes": loaded.notes,
        "groups": groups,
        "compared": shown,
        "rows": rows,
    }
    if len(groups) > 1:
        document["mix"] = make_rows(pool(series), {})
    for group in groups:
        ours = of_methods(rows, shown, group)
        print_table(ours, console, where(ours, f"{group} answers" if len(groups) > 1 else group))
    if len(groups) > 1:
        ours = of_methods(document["mix"], shown, ALL)
        print_table(ours, console, where(ours, "all prompts"))
    if options.ablate:
        document |= {"parts": parts, "policies": policies, "verdict": judge(series, policies)}
        print_ablations(document, parts, policies, console)
    warn_if_busy(rows, console)
    print_prefill(options.question, console)
    document["computed_prefill"] = {
        "about": "computed from image sizes, not measured",
        "text_rows": options.question,
        "rows": prefill_rows(options.question),
    }
    document["runs"] = raw_runs(series, prompts)
    return document


def of_methods(rows: Sequence[Row], methods: Sequence[str], group: str) -> list[Row]:
    """The rows of one group, temperature by temperature, in the order of ``methods``."""
    chosen = [row for row in rows if row["group"] == group and row["method"] in methods]
    temperatures = list(dict.fromkeys(row["temperature"] for row in chosen))
    return sorted(
        chosen,
        key=lambda row: (temperatures.index(row["temperature"]), methods.index(row["method"])),
    )


def where(rows: Sequence[Row], group: str) -> str:
    """The beginning of a table's title: which prompts, and how often they were run."""
    passes = f", medians of {rows[0]['passes']} passes" if rows[0]["passes"] > 1 else ""
    return f"{group.capitalize()} ({rows[0]['prompts']}{passes}). "


def print_ablations(
    document: dict[str, Any], parts: Labels, policies: Labels, console: Console
) -> None:
    """The parts of HiViS, the policies, and the judgment of the cost model, group by group."""
    for group in document["groups"]:
        print_ablation(
            f"HiViS without one part ({DECODING})", parts, document["rows"], group, console
        )
    for group in document["groups"]:
        print_ablation(
            f"HiViS by tree policy ({DECODING})", policies, document["rows"], group, console
        )
    for line in verdict_lines(document["verdict"]):
        console.print(line)


def raw_runs(series: Sequence[Series], prompts: Sequence[BenchPrompt]) -> list[dict[str, Any]]:
    """Every run's figures: by prompt, temperature and method, one number for each pass."""
    return [
        {
            "method": s.method,
            "temperature": s.temperature,
            "group": s.group,
            "prompt": prompt.name,
            "tokens": [len(run.tokens) for run in runs],
            "first_token_ms": [round(run.first_token_ms, 3) for run in runs],
            "total_ms": [round(run.total_ms, 3) for run in runs],
        }
        | _drafting(runs)
        for s in series
        for prompt, runs in zip([p for p in prompts if p.group == s.group], s.runs, strict=True)
    ]


def _drafting(runs: Sequence[TimedOutput]) -> dict[str, Any]:
    made = [run.generation.statistics for run in runs if run.generation is not None]
    if not made:
        return {}
    return {
        "cycles": [m.cycles for m in made],
        "accepted": [sum(m.accepted_lengths) for m in made],
        "drafter_rows": made[0].drafter_rows,
        "prompt_rows": made[0].prompt_rows,
    }
