"""Running every method on every prompt, interleaved."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.headline.divergence import margin_where_they_part
from bench.headline.methods import PLAIN, Method, Run
from bench.headline.prompts import Case
from bench.headline.summary import Key, Series
from hivis.core.sampling import SamplingParams
from hivis.core.target import Target
from hivis.errors import HivisError


def measure(
    methods: Sequence[Method],
    cases: Sequence[Case],
    settings: Sequence[SamplingParams],
    repeat: int,
    console: Console,
) -> list[Series]:
    """All runs, in one series for every group, temperature and method.

    A prompt is run by every method at every temperature before the next one's turn, in an order
    that rotates from prompt to prompt, and all of this ``repeat`` times over.
    """
    plan = {
        params.temperature: [m for m in methods if params.temperature > 0 or not m.sampled_only]
        for params in settings
    }
    runs: dict[Key, list[list[Run]]] = {
        (method.name, params.temperature, group): []
        for group in dict.fromkeys(case.group for case in cases)
        for params in settings
        for method in plan[params.temperature]
    }
    rows = sum(map(len, plan.values()))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        warm = progress.add_task("warm-up", total=rows)
        for params in settings:
            for method in plan[params.temperature]:
                _warm_up(method, cases, params)
                progress.advance(warm)
        bar = progress.add_task("measuring", total=repeat * len(cases) * rows)
        for turn in range(repeat * len(cases)):
            case = cases[turn % len(cases)]
            for params in settings:
                ours = plan[params.temperature]
                first = turn % len(ours)
                for method in [*ours[first:], *ours[:first]]:
                    prompts = runs[method.name, params.temperature, case.group]
                    done = method.run(case.inputs, params)
                    if turn < len(cases):
                        prompts.append([done])
                    else:
                        prompts[_place(cases, turn % len(cases))].append(done)
                    progress.advance(bar)
    return [
        Series(method, temperature, prompts, group)
        for (method, temperature, group), prompts in runs.items()
    ]


def _place(cases: Sequence[Case], index: int) -> int:
    """Which of its group's prompts the case of this index is."""
    return sum(case.group == cases[index].group for case in cases[:index])


def _warm_up(method: Method, cases: Sequence[Case], params: SamplingParams) -> None:
    """Generate texts until they have had the cycles that the method wants, or run out of them."""
    cycles = 0
    while cycles < method.warm_up_cycles:
        before = cycles
        for case in cases:
            made = method.run(case.inputs, params).generation
            cycles += 1 if made is None else made.statistics.cycles
            if cycles >= method.warm_up_cycles:
                break
        if cycles == before:  # every text ends with its first token
            break


def find_margins(
    series: Sequence[Series],
    cases: Sequence[Case],
    settings: Sequence[SamplingParams],
    target: Target,
) -> dict[Key, list[float]]:
    """Where a hivis text parts from plain decoding's: how close the two tokens were there."""
    margins: dict[Key, list[float]] = {}
    by_key = {s.key: s for s in series}
    params_of = {params.temperature: params for params in settings}
    for s in series:
        if not s.is_ours:
            continue
        plain = by_key[PLAIN, s.temperature, s.group]
        mine = [case for case in cases if case.group == s.group]
        for case, ours, theirs in zip(mine, s.runs, plain.runs, strict=True):
            # Repeats nearly always make the same text, and a text that parts is looked at once.
            for text in dict.fromkeys(run.tokens for run in ours):
                if text == theirs[0].tokens:
                    continue
                try:
                    margin = margin_where_they_part(
                        target, case.inputs, text, theirs[0].tokens, params_of[s.temperature]
                    )
                except HivisError:  # a sampled text may hold a placeholder, which no prompt may
                    continue
                margins.setdefault(s.key, []).append(margin)
    return margins
