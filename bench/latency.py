"""The headline benchmark: how much faster hivis generates the same output.

    python bench/latency.py                          the bundled model, T = 0 and T = 1
    python bench/latency.py --model PATH --drafter PATH --dtype bfloat16
    python bench/latency.py --image cat.png --prompt "What is in the image?"
    python bench/latency.py --compare --ablate       all drafters, and what each part brings

Every prompt is run by every method in turn, in an order that rotates from prompt to prompt, so that
a machine that slows down slows all of them. Both baselines and hivis see the same token ids, count
the same new tokens (up to and with EOS) and include the image's encoding and the prefill.

For a model of real size without its weights: python -m bench.synthetic
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bench.common.environment import make_header, print_machine
from bench.common.files import write_json
from bench.common.options import prepare
from bench.headline.compare import compare
from bench.headline.loading import LoadedMethods, load_methods
from bench.headline.measure import find_margins, measure
from bench.headline.options import parse, sampling_settings
from bench.headline.prompts import BenchPrompt, load_prompts
from bench.headline.summary import make_rows
from bench.headline.tables import print_table, warn_if_busy
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.errors import run_cli


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(__doc__, arguments)
    console = Console()
    prepare(options)
    header = make_header(options, options.device)
    settings = sampling_settings(options)
    loaded = load_methods(options)
    prompts = load_prompts(options, loaded.processor)
    for prompt in prompts:  # one that does not fit is refused before any other is run
        Engine(loaded.target).check_context(prompt.inputs, settings[0])
    print_machine(header, console)
    print_settings(options, len(prompts), console)
    run = compare if options.compare else measure_methods
    document = {**header, **run(options, loaded, prompts, settings, console)}
    if options.json:
        write_json(options.json, document)
    if options.plot:
        from bench.headline import compare_plot, plot

        (compare_plot if options.compare else plot).draw(document, options.plot)


def measure_methods(
    options: argparse.Namespace,
    loaded: LoadedMethods,
    prompts: Sequence[BenchPrompt],
    settings: Sequence[SamplingParams],
    console: Console,
) -> dict[str, Any]:
    """The default run: measure, print the tables, and return the figures of the JSON file."""
    series = measure(loaded.methods, prompts, settings, options.repeat, console)
    rows = make_rows(series, find_margins(series, prompts, settings, loaded.target))
    print_table(rows, console)
    warn_if_busy(rows, console)
    return {"rows": rows}


def print_settings(options: argparse.Namespace, prompts: int, console: Console) -> None:
    """The model, how much is generated, and the trees."""
    trees = f"trees by {options.policy}"
    if options.policy == "fixed":
        trees = f"trees of {options.nodes} nodes, depth {options.depth}"
    console.print(
        f"{options.model or 'bundled model'}, {options.dtype}, {prompts} prompts, at most "
        f"{options.max_new_tokens} new tokens, {trees}"
    )
    if options.quick:
        console.print("A trial run: too short for its figures to be quoted.")


if __name__ == "__main__":
    run_cli(main)
