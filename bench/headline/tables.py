"""From rows to tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.console import Console

from bench.common.tables import new_table, number
from bench.headline.summary import PHASES, SLOW, Row

#: Lengths of a group's outputs, and so their latencies, differ by less than this factor.
BUSY = 4
#: The largest share of disturbed runs with which figures may be quoted.
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
        f"{where}Speed, prefill included; same output as plain hivis",
        ("tokens/s", "over plain", "over HF", "same output"),
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
    print_rows(console, f"{where}Milliseconds per output, by phase", PHASES, ours, phases)


def prefill_cell(row: Row) -> str:
    """The mean number of rows that the drafter prefilled, and their share of the target's."""
    rows = row["drafter_rows"]
    return f"{rows:.0f} ({row['drafter_prefill_share']:.0%})" if rows else "-"


def warn_if_busy(rows: Sequence[Row], console: Console) -> None:
    """Print a warning if the machine was busy with something else during the run."""
    if any(row["latency_ms"]["p95"] > BUSY * row["latency_ms"]["median"] for row in rows):
        console.print(
            f"Some outputs took over {BUSY} times the median: the machine was busy with something "
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
    """A table with ``cells`` after the method and temperature of each row."""
    table = new_table(("method", "T"), columns, title)
    for i, row in enumerate(rows):
        last = i + 1 < len(rows) and rows[i + 1]["temperature"] != row["temperature"]
        table.add_row(row["method"], f"{row['temperature']:g}", *cells[i], end_section=last)
    console.print(table)
