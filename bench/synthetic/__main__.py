"""Decoding speed at real size without the weights of a model.

    python -m bench.synthetic llava-1.5-7b --device cuda --accepted 3.0
    python -m bench.synthetic qwen2.5-vl-7b --device cuda --accepted counts.json --json run.json
    python -m bench.synthetic qwen2.5-vl-7b --scale tiny       the same code in seconds on a CPU

The target and the drafter have the sizes of a published model and random weights. What a cycle
takes does not depend on the weights. How many tokens it accepts does, so accepted lengths are
replayed from a distribution (simulated acceptance). Temperature is 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from bench.common.environment import make_header, print_machine
from bench.common.files import write_json
from bench.common.options import prepare
from bench.synthetic.options import parse
from bench.synthetic.run import run
from hivis.errors import run_cli


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(__doc__, arguments)
    prepare(options)
    console = Console()
    header = make_header(options, options.device)
    print_machine(header, console)
    print_settings(options, console)
    document = {**header, **run(options, console)}
    if options.json:
        write_json(options.json, document)
    if options.plot:
        from bench.synthetic import plot

        plot.draw(document, options.plot)


def print_settings(options: argparse.Namespace, console: Console) -> None:
    """The model, the drafter and the trees."""
    console.print(
        f"{options.shape}, {options.dtype}, T = 0, a {options.drafter} drafter (weights "
        f"{options.drafter_weights}, draft vocabulary of {options.draft_vocab or 'all'} tokens), "
        f"trees of {options.nodes} nodes, depth {options.depth}"
    )
    if options.quick:
        console.print("A trial run: too short for its figures to be quoted.")


if __name__ == "__main__":
    run_cli(main)
