"""What quantizing a drafter costs in accepted length and brings in time.

    python -m bench.quantized [--json PATH] [--shape llava-1.5-7b]

First the bundled model with HiViS drafters in all formats of weights and with several draft
vocabularies; all prompts are run by every method in turn. Then the products of one level of a draft
tree at the size of a real model, with random weights. Decoding stays lossless: outputs are equal in
float32, and in bfloat16 they may diverge where two tokens are nearly tied (docs/lossless.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bench.common.environment import make_header, print_machine
from bench.common.files import write_json
from bench.common.level_bytes import bytes_of_level
from bench.common.options import add_device, add_json, check_at_least_one, prepare
from bench.common.tables import new_table, number
from bench.headline.measure import measure
from bench.headline.methods import PLAIN, hivis_method
from bench.headline.prompts import bundled_prompts, long_ones
from bench.headline.summary import Row, make_rows
from bench.headline.tables import print_rows, warn_if_busy
from bench.quantized.level import ROWS, SHAPES, time_level
from hivis.bundled import paths
from hivis.bundled.prompts import held_out_prompts
from hivis.cli.parser import Parser
from hivis.core.device import DTYPES
from hivis.core.sampling import SamplingParams
from hivis.drafters.load import load_drafter
from hivis.errors import run_cli
from hivis.models.load import load_target
from hivis.policies.fixed import FixedPolicy

#: Format of the weights, and tokens of the draft vocabulary (``None``: all).
DRAFTERS: tuple[tuple[str, int | None], ...] = (
    ("full", None),
    ("int8", None),
    ("int4-32", None),
    ("int4", None),
    ("int4-128", None),
    ("full", 1024),
    ("full", 512),
    ("int4", 1024),
)
#: The same at the size of a real model, with a quarter of LLaVA's vocabulary.
LEVELS: tuple[tuple[str, int | None], ...] = (
    ("full", None),
    ("int8", None),
    ("int4", None),
    ("full", 8000),
    ("int4", 8000),
)
#: Bytes per second of an H100's memory, by its data sheet.
BANDWIDTH = 3.35e12


def name_of(weights: str, draft_vocab: int | None, dtype: str = "bfloat16") -> str:
    name = dtype if weights == "full" else weights
    return name if draft_vocab is None else f"{name}, draft vocabulary of {draft_vocab}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m bench.quantized", description=__doc__)
    add = parser.add_argument
    add("--count", type=int, default=12, help="held-out prompts with long answers (default: 12)")
    add("--repeat", type=int, default=3, help="passes, of which medians count (default: 3)")
    add("--max-new-tokens", type=int, default=120, help="(default: 120)")
    add(
        "--shape",
        choices=SHAPES,
        default="llava-1.5-7b",
        help="size of the level (default: %(default)s)",
    )
    add("--no-level", action="store_true", help="leave out the level of a real model's size")
    add_device(add, dtype="bfloat16")
    add_json(add)
    options = parser.parse_args(arguments)
    check_at_least_one(options, "count", "repeat", "max_new_tokens")
    return options


def measure_drafters(options: argparse.Namespace, console: Console) -> list[Row]:
    """The bundled model's rows: plain decoding, then every drafter."""
    target, processor = load_target(paths.TARGET, DTYPES[options.dtype], options.device)
    methods = [hivis_method(PLAIN, target)]
    sizes = {}
    for weights, draft_vocab in DRAFTERS:
        drafter = load_drafter(paths.HIVIS, weights=weights, draft_vocab=draft_vocab)
        drafter.bind(target.embedding, target.head)
        name = name_of(weights, draft_vocab, options.dtype)
        sizes[name] = drafter.level_bytes
        methods.append(hivis_method(name, target, drafter, FixedPolicy))
    prompts = bundled_prompts(long_ones(held_out_prompts(), options.count), processor)
    settings = [
        SamplingParams(temperature=temperature, max_new_tokens=options.max_new_tokens)
        for temperature in (0.0, 1.0)
    ]
    rows = make_rows(measure(methods, prompts, settings, options.repeat, console), {})
    return [row | {"level_bytes": sizes.get(row["method"])} for row in rows]


def print_drafters(rows: Sequence[Row], console: Console) -> None:
    cells = [
        (
            number(row["accepted_length"] if row["level_bytes"] else None, "{:.2f}"),
            f"{row['tokens_per_s']:.0f}",
            number(row["decoding_tokens_per_s"], "{:.0f}"),
            number(row["phases_ms_per_token"]["draft"], "{:.2f}"),
            f"{row['identical_prompts']}/{row['prompts']}",
            number(row["level_bytes"] and row["level_bytes"] / 1e6, "{:.2f}"),
        )
        for row in rows
    ]
    title = (
        "The bundled model, trees of 16 nodes, depth 7 (draft: ms a token; same: outputs equal to "
        "plain decoding; MB: of a level)"
    )
    columns = ("accepted", "tokens/s", "decoding", "draft", "same", "MB")
    print_rows(console, title, columns, rows, cells)
    warn_if_busy(rows, console)


def measure_level(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One level at the size of a real model: bytes, floor, and milliseconds by rows."""
    sizes, dtype = SHAPES[options.shape], DTYPES[options.dtype]
    found: list[dict[str, Any]] = []
    for weights, draft_vocab in LEVELS:
        size = bytes_of_level(sizes, weights, draft_vocab, dtype)
        found.append(
            {
                "drafter": name_of(weights, draft_vocab, options.dtype),
                "bytes": size,
                "h100_floor_us": size / BANDWIDTH * 1e6,
            }
        )
    times = time_level(sizes, LEVELS, options.device, dtype)
    return [entry | {"ms": ms} for entry, ms in zip(found, times, strict=True)]


def print_level(entries: Sequence[dict[str, Any]], shape: str, console: Console) -> None:
    console.print(
        f"The products of a level at the size of {shape}, random weights: ms by rows.\n"
        "Floor: its bytes at 3.35 TB/s (H100), in us, an estimate."
    )
    table = new_table(("drafter",), ("MB", "floor", *map(str, ROWS)))
    for entry in entries:
        table.add_row(
            entry["drafter"],
            f"{entry['bytes'] / 1e6:.0f}",
            f"{entry['h100_floor_us']:.0f}",
            *(f"{entry['ms'][str(m)]:.1f}" for m in ROWS),
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    prepare(options)
    console = Console()
    document = make_header(options, options.device)
    print_machine(document, console)
    console.print(
        f"bundled model, {options.dtype}, {options.count} prompts, at most "
        f"{options.max_new_tokens} new tokens"
    )
    document["rows"] = measure_drafters(options, console)
    print_drafters(document["rows"], console)
    if not options.no_level:
        document["level"] = measure_level(options)
        print_level(document["level"], options.shape, console)
    if options.json:
        write_json(options.json, document)


if __name__ == "__main__":
    run_cli(main)
