"""Running every method on every prompt, interleaved."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.common.generation import TimedOutput
from bench.headline.divergence import margin_at_divergence
from bench.headline.methods import PLAIN, Method
from bench.headline.prompts import BenchPrompt
from bench.headline.summary import Key, Series
from hivis.core.sampling import SamplingParams
from hivis.core.target import Target
from hivis.errors import HivisError


def measure(
    methods: Sequence[Method],
    prompts: Sequence[BenchPrompt],
    settings: Sequence[SamplingParams],
    repeat: int,
    console: Console,
) -> list[Series]:
    """All runs, in one series for every group, temperature and method.

    A prompt is run by every method at every temperature before the next prompt's turn, in an order
    that rotates from prompt to prompt, and all of this ``repeat`` times.
    """
    plan = {
        params.temperature: [m for m in methods if params.temperature > 0 or not m.sampled_only]
        for params in settings
    }
    runs: dict[Key, list[list[TimedOutput]]] = {
        (method.name, params.temperature, group): []
        for group in dict.fromkeys(prompt.group for prompt in prompts)
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
                _warm_up(method, prompts, params)
                progress.advance(warm)
        bar = progress.add_task("measuring", total=repeat * len(prompts) * rows)
        for turn in range(repeat * len(prompts)):
            prompt = prompts[turn % len(prompts)]
            for params in settings:
                ours = plan[params.temperature]
                first = turn % len(ours)
                for method in [*ours[first:], *ours[:first]]:
                    by_prompt = runs[method.name, params.temperature, prompt.group]
                    done = method.run(prompt.inputs, params)
                    if turn < len(prompts):
                        by_prompt.append([done])
                    else:
                        by_prompt[_place(prompts, turn % len(prompts))].append(done)
                    progress.advance(bar)
    return [
        Series(method, temperature, by_prompt, group)
        for (method, temperature, group), by_prompt in runs.items()
    ]


def _place(prompts: Sequence[BenchPrompt], index: int) -> int:
    """The place within its group of the prompt with this index."""
    return sum(prompt.group == prompts[index].group for prompt in prompts[:index])


def _warm_up(method: Method, prompts: Sequence[BenchPrompt], params: SamplingParams) -> None:
    """Generate outputs until they have had the cycles that the method wants."""
    cycles = 0
    while cycles < method.warm_up_cycles:
        before = cycles
        for prompt in prompts:
            made = method.run(prompt.inputs, params).generation
            cycles += 1 if made is None else made.statistics.cycles
            if cycles >= method.warm_up_cycles:
                break
        if cycles == before:  # every output ends with its first token
            break


def find_margins(
    series: Sequence[Series],
    prompts: Sequence[BenchPrompt],
    settings: Sequence[SamplingParams],
    target: Target,
) -> dict[Key, list[float]]:
    """How close the two tokens were wherever hivis diverges from its plain decoding."""
    margins: dict[Key, list[float]] = {}
    by_key = {s.key: s for s in series}
    params_of = {params.temperature: params for params in settings}
    for s in series:
        if not s.is_ours:
            continue
        plain = by_key[PLAIN, s.temperature, s.group]
        mine = [prompt for prompt in prompts if prompt.group == s.group]
        for prompt, ours, theirs in zip(mine, s.runs, plain.runs, strict=True):
            # Repeats nearly always give the same output; one that diverges is looked at once.
            for output in dict.fromkeys(run.tokens for run in ours):
                if output == theirs[0].tokens:
                    continue
                try:
                    margin = margin_at_divergence(
                        target, prompt.inputs, output, theirs[0].tokens, params_of[s.temperature]
                    )
                except HivisError:  # a sampled output may hold an image token, which no prompt may
                    continue
                margins.setdefault(s.key, []).append(margin)
    return margins
