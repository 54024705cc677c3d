"""The headline benchmark: how much sooner the same text is there.

    python bench/latency.py                          the bundled model, T = 0 and T = 1
    python bench/latency.py --model PATH --drafter PATH --dtype bfloat16
    python bench/latency.py --image cat.png --prompt "What is in the image?"
    python bench/latency.py --compare --ablate       all drafters, and what each part brings
    python bench/latency.py --shape llava-1.5-7b --device cuda --accepted 3.0
                                                     a model of real size with random weights, and
                                                     simulated acceptance

Every prompt is run by every method in turn, in an order that rotates from prompt to prompt, so that
a machine that slows down slows all of them. Both baselines and hivis see the same token ids, count
the same new tokens (up to and with EOS) and include the image's encoding and the prefill.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.common.environment import commit, device_name, has_fast_bfloat16, set_up, versions
from bench.headline.compare import compare
from bench.headline.loading import LoadedMethods, load_methods
from bench.headline.measure import find_margins, measure
from bench.headline.options import parse, sampling_settings
from bench.headline.prompts import Case, load_cases
from bench.headline.summary import make_rows
from bench.headline.tables import check_plot, check_writable, print_table, warn_if_busy, write_json
from bench.synthetic import run as shape_run
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.errors import run_cli


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(__doc__, arguments)
    console = Console()
    check_writable(options.json, "--json")
    check_writable(options.plot, "--plot")
    check_plot(options.plot)
    set_up(options.device, options.threads)
    if options.dtype is None:
        options.dtype = "bfloat16" if has_fast_bfloat16(options.device) else "float32"
    header = make_header(options)
    if options.shape is not None:
        document = {**header, **shaped(options, header, console)}
    else:
        document = {**header, **written(options, header, console)}
    if options.json:
        write_json(options.json, document)
    if options.plot:
        from bench.headline import compare_plot, plot
        from bench.synthetic import plot as shape_plot

        drawn = shape_plot if options.shape else compare_plot if options.compare else plot
        drawn.draw(document, options.plot)


def shaped(options: argparse.Namespace, header: dict[str, Any], console: Console) -> dict[str, Any]:
    """A model of real size with random weights."""
    print_machine(header, console)
    console.print(
        f"{options.shape}, {options.dtype}, T = 0, a {options.drafter} drafter (weights "
        f"{options.drafter_weights}, head of {options.draft_vocab or 'all'} tokens), trees of "
        f"{options.nodes} nodes, depth {options.depth}"
    )
    print_trial(options, console)
    return shape_run.run(options, console)


def written(
    options: argparse.Namespace, header: dict[str, Any], console: Console
) -> dict[str, Any]:
    """A model with weights that were trained, and the texts that it writes."""
    settings = sampling_settings(options)
    loaded = load_methods(options)
    cases = load_cases(options, loaded.processor)
    for case in cases:  # a text that does not fit should be known before the others are measured
        Engine(loaded.target).check_context(case.inputs, settings[0])
    print_header(header, options, cases, console)
    run = compare if options.compare else latency
    return run(options, loaded, cases, settings, console)


def latency(
    options: argparse.Namespace,
    loaded: LoadedMethods,
    cases: Sequence[Case],
    settings: Sequence[SamplingParams],
    console: Console,
) -> dict[str, Any]:
    """The default run: measure, and print one table."""
    series = measure(loaded.methods, cases, settings, options.repeat, console)
    rows = make_rows(series, find_margins(series, cases, settings, loaded.target))
    print_table(rows, console)
    warn_if_busy(rows, console)
    return {"rows": rows}


def make_header(options: argparse.Namespace) -> dict[str, Any]:
    """What stands above every result."""
    return {
        "device": device_name(options.device),
        "versions": versions(),
        "commit": commit(),
        "settings": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(options).items()
            if key not in ("json", "plot")
        },
    }


def print_header(
    header: dict[str, Any], options: argparse.Namespace, cases: Sequence[Case], console: Console
) -> None:
    """On what, by what and of what the figures are."""
    print_machine(header, console)
    console.print(
        f"{options.model or 'bundled model'}, {options.dtype}, {len(cases)} prompts, at most "
        f"{options.max_new_tokens} new tokens, "
        + (
            f"trees of {options.nodes} nodes, depth {options.depth}"
            if options.policy == "fixed"
            else f"trees by {options.policy}"
        )
    )
    print_trial(options, console)


def print_machine(header: dict[str, Any], console: Console) -> None:
    console.print(f"{header['device']}, commit {header['commit']}")
    console.print(", ".join(f"{name} {number}" for name, number in header["versions"].items()))


def print_trial(options: argparse.Namespace, console: Console) -> None:
    if options.quick:
        console.print("A trial run: too short for its figures to be quoted.")


if __name__ == "__main__":
    run_cli(main)
