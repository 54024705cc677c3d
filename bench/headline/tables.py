"""From rows to tables on the terminal and a JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from tempfile import NamedTemporaryFile
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.headline.markdown import number
from bench.headline.summary import PHASES, SLOW, Row
from hivis.errors import HivisError

PLOT_TYPES = (".png", ".svg", ".pdf")
BUSY = 4  # answers of a group differ in length by less than this
TOO_MANY = 0.05


def print_table(rows: Sequence[Row], console: Console, where: str = "") -> None:
    """The figures in tables that fit a terminal of 80 columns; ``where`` begins their titles."""
    speed = [
        (
            f"{row['tokens_per_s']:.1f}",
            number(row["speedup_vs_plain"], "{:.2f}x"),
            number(row["speedup_vs_hf"], "{:.2f}x"),
            f"{row['identical_prompts']}/{row['prompts']}"
            if row["identical_prompts"] is not None
            else "-",
        )
        for row in rows
    ]
    cycles = [
        (
            number(row["accepted_length"] if row["drafter_rows"] else None, "{:.2f}"),
            number(row["tokens_per_cycle"], "{:.2f}"),
            f"{row['first_token_ms']['median']:.1f}",
            f"{row['latency_ms']['median']:.0f}",
            f"{row['latency_ms']['p95']:.0f}",
            prefill_cell(row),
        )
        for row in rows
    ]
    print_rows(
        console,
        f"{where}Speed, prefill included; same text: prompts with plain hivis' tokens",
        ("tokens/s", "over plain", "over HF", "same text"),
        rows,
        speed,
    )
    print_rows(
        console,
        f"{where}Drafting (accepted: drafted tokens per cycle), and latency in ms",
        ("accepted", "tok/cycle", "first", "median", "p95", "drafter prefill"),
        rows,
        cycles,
    )
    ours = [row for row in rows if row["phases_ms"]["prefill"] is not None]
    phases = [[f"{row['phases_ms'][phase]:.1f}" for phase in PHASES] for row in ours]
    print_rows(console, f"{where}Milliseconds per text, by phase", PHASES, ours, phases)


def prefill_cell(row: Row) -> str:
    """Rows that the drafter prefilled, on average, and their share of the target's."""
    rows = row["drafter_rows"]
    return f"{rows:.0f} ({row['drafter_prefill_share']:.0%})" if rows else "-"


def warn_if_busy(rows: Sequence[Row], console: Console) -> None:
    """Say so if the machine did something else meanwhile."""
    if any(row["latency_ms"]["p95"] > BUSY * row["latency_ms"]["median"] for row in rows):
        console.print(
            f"Some texts took over {BUSY} times the median: the machine was busy with something "
            "else. Do not quote these figures."
        )
    known = [row["disturbed"] for row in rows if row["disturbed"] is not None]
    if known and fmean(known) > TOO_MANY:
        console.print(
            f"{fmean(known):.0%} of the runs took over {SLOW} times their prompt's median: the "
            "machine was busy with something else. Do not quote these figures."
        )


def print_rows(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    cells: Sequence[Sequence[str]],
) -> None:
    """A table with ``cells`` behind the method and temperature of each row."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("T")
    for name in columns:
        table.add_column(name, justify="right")
    for i, row in enumerate(rows):
        last = i + 1 < len(rows) and rows[i + 1]["temperature"] != row["temperature"]
        table.add_row(row["method"], f"{row['temperature']:g}", *cells[i], end_section=last)
    console.print(table)


def check_writable(path: Path | None, name: str) -> None:
    """Find out before the run, not after it, that a result could not be kept."""
    if path is None:
        return
    # Asking for permission is not enough: root has it everywhere, and some folders take no file.
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        with NamedTemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise HivisError(
            f"{name}: wanted a file in a folder that can be written, got {path} ({error.strerror})"
        ) from None


def check_plot(path: Path | None) -> None:
    """Likewise for an image that could not be drawn."""
    if path is None:
        return
    if path.suffix.lower() not in PLOT_TYPES:
        raise HivisError(f"--plot: wanted a name in {', '.join(PLOT_TYPES)}, got {path}")
    if find_spec("matplotlib") is None:
        raise HivisError("--plot: wanted matplotlib installed (pip install matplotlib), got none")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write beside the target and rename, so that no half a file is ever seen."""
    text = json.dumps(document, indent=1)
    # A list of plain numbers goes on one line.
    text = re.sub(r"\[\n[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), text)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text + "\n")
    draft.replace(path)
