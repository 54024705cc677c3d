"""What a quantized drafter costs in acceptance, and brings in time: python -m bench.quantized

Texts of the bundled model with HiViS drafters of every kind of weights and head, all prompts by
every method in turn, and the products of one level of a draft tree at the size of a real model,
with random weights. Losslessness is not in question: the same text counts in float32, and in
bfloat16 texts part at near-ties (docs/lossless.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.common.environment import commit, device_name, set_up, versions
from bench.headline.markdown import number
from bench.headline.measure import measure
from bench.headline.methods import PLAIN, hivis_method
from bench.headline.options import DTYPES
from bench.headline.prompts import load_cases
from bench.headline.summary import Row, make_rows
from bench.headline.tables import check_writable, print_rows, warn_if_busy, write_json
from bench.quantized.level import BANDWIDTH, ROWS, SHAPES, bytes_of_level, time_level
from hivis.bundled import paths
from hivis.cli.parser import Parser
from hivis.core.policy import TreePolicy
from hivis.core.sampling import SamplingParams
from hivis.drafters.load import load_drafter
from hivis.errors import HivisError, run_cli
from hivis.models.load import load_target

#: Weights and head (``None``: all tokens) of each row.
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
#: The same at the size of a real model, of whose vocabulary a quarter may be drafted.
LEVELS: tuple[tuple[str, int | None], ...] = (
    ("full", None),
    ("int8", None),
    ("int4", None),
    ("full", 8000),
    ("int4", 8000),
)


def name_of(weights: str, head: int | None, dtype: str = "bfloat16") -> str:
    name = dtype if weights == "full" else weights
    return name if head is None else f"{name}, head of {head}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="bench/quantized", description=__doc__)
    add = parser.add_argument
    add("--count", type=int, default=12, help="held-out prompts with long answers (default: 12)")
    add("--repeat", type=int, default=3, help="passes, of which medians count (default: 3)")
    add("--max-new-tokens", type=int, default=120, help="(default: 120)")
    add(
        "--shape",
        choices=SHAPES,
        default="llava-1.5-7b",
        help="of the level (default: %(default)s)",
    )
    add("--no-level", action="store_true", help="leave out the level of a real model's size")
    add("--device", default="cpu")
    add("--dtype", choices=DTYPES, default="bfloat16")
    add("--threads", type=int, help="threads of the CPU (default: torch's)")
    add("--json", type=Path, help="write everything here")
    options = parser.parse_args(arguments)
    for name in ("count", "repeat", "max_new_tokens"):
        if getattr(options, name) < 1:
            flag = "--" + name.replace("_", "-")
            raise HivisError(f"{flag}: wanted at least 1, got {getattr(options, name)}")
    return options


def texts(options: argparse.Namespace, console: Console) -> list[Row]:
    """The bundled model's rows: plain decoding, then every drafter."""
    target, processor = load_target(paths.TARGET, DTYPES[options.dtype], options.device)
    methods = [hivis_method(PLAIN, target)]
    sizes = {}
    for weights, head in DRAFTERS:
        drafter = load_drafter(paths.HIVIS, weights=weights, head=head)
        drafter.bind(target.embedding, target.head)
        name = name_of(weights, head, options.dtype)
        sizes[name] = drafter.level_bytes
        methods.append(hivis_method(name, target, drafter, TreePolicy))
    chosen = argparse.Namespace(
        prompt=None, image=[], prompts=None, compare=False, count=options.count, quick=False
    )
    cases = load_cases(chosen, processor)
    settings = [
        SamplingParams(temperature=temperature, max_new_tokens=options.max_new_tokens)
        for temperature in (0.0, 1.0)
    ]
    series = measure(methods, cases, settings, options.repeat, console)
    rows = make_rows(series, {})
    return [row | {"level_bytes": sizes.get(row["method"])} for row in rows]


def print_texts(rows: Sequence[Row], console: Console) -> None:
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
    title = "The bundled model, trees of 16 nodes, depth 7; draft: ms a token; MB: of a level"
    columns = ("accepted", "tokens/s", "decoding", "draft", "same text", "MB")
    print_rows(console, title, columns, rows, cells)
    warn_if_busy(rows, console)


def level(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One level at the size of a real model: bytes, floor, and milliseconds by rows."""
    found: list[dict[str, Any]] = []
    for weights, head in LEVELS:
        size = bytes_of_level(SHAPES[options.shape], weights, head, DTYPES[options.dtype])
        found.append(
            {
                "drafter": name_of(weights, head, options.dtype),
                "bytes": size,
                "h100_floor_us": size / BANDWIDTH * 1e6,
            }
        )
    times = time_level(SHAPES[options.shape], LEVELS, options.device, DTYPES[options.dtype])
    return [entry | {"ms": ms} for entry, ms in zip(found, times, strict=True)]


def print_level(entries: Sequence[dict[str, Any]], shape: str, console: Console) -> None:
    console.print(
        f"The products of a level at the size of {shape}, random weights: ms by rows.\n"
        "Floor: its bytes at 3.35 TB/s (H100), in us, an estimate."
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("drafter", no_wrap=True)
    for column in ("MB", "floor", *map(str, ROWS)):
        table.add_column(column, justify="right")
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
    check_writable(options.json, "--json")
    set_up(options.device, options.threads)
    console = Console()
    console.print(f"{device_name(options.device)}, commit {commit()}, {options.dtype}")
    document: dict[str, Any] = {
        "device": device_name(options.device),
        "versions": versions(),
        "commit": commit(),
        "settings": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(options).items()
            if key != "json"
        },
    }
    rows = texts(options, console)
    print_texts(rows, console)
    document["rows"] = rows
    if not options.no_level:
        document["level"] = level(options)
        print_level(document["level"], options.shape, console)
    if options.json:
        write_json(options.json, document)


if __name__ == "__main__":
    run_cli(main)
