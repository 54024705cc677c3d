"""From runs to rows, and from rows to a table, a JSON file and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from tempfile import NamedTemporaryFile
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.markdown import number
from bench.methods import HUGGING_FACE, PLAIN, Run
from hivis.errors import HivisError

Row = dict[str, Any]
PLOT_TYPES = (".png", ".svg", ".pdf")
BUSY = 4  # answers differ in length by less than this
PHASES = ("prefill", "draft", "verify", "accept", "compact", "commit", "read")


@dataclass(frozen=True)
class Series:
    """All runs of one method at one temperature, prompt by prompt."""

    method: str
    temperature: float
    runs: Sequence[Run]

    @property
    def tokens_per_s(self) -> float:
        """Pooled: all tokens over all time, first token included."""
        return 1e3 * sum(len(r.tokens) for r in self.runs) / sum(r.total_ms for r in self.runs)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]


def make_rows(series: Sequence[Series], margins: dict[tuple[str, float], list[float]]) -> list[Row]:
    """One row per series; speed-ups are against the same temperature's plain and HF series."""
    base = {(s.method, s.temperature): s for s in series}
    rows = []
    for s in series:
        plain = base.get((PLAIN, s.temperature))
        theirs = base.get((HUGGING_FACE, s.temperature))
        made = [r.generation.statistics for r in s.runs if r.generation is not None]
        cycles = sum(m.cycles for m in made)
        same = _identical(s, plain)
        rows.append(
            {
                "method": s.method,
                "temperature": s.temperature,
                "prompts": len(s.runs),
                "tokens": sum(len(r.tokens) for r in s.runs),
                "tokens_per_s": s.tokens_per_s,
                "speedup_vs_plain": s.tokens_per_s / plain.tokens_per_s if plain else None,
                "speedup_vs_hf": s.tokens_per_s / theirs.tokens_per_s if theirs else None,
                "accepted_length": _ratio(sum(sum(m.accepted_lengths) for m in made), cycles),
                "tokens_per_cycle": _ratio(
                    sum(sum(m.accepted_lengths) for m in made) + cycles, cycles
                ),
                "drafter_prefill_share": _ratio(
                    sum(m.drafter_rows for m in made), sum(m.prompt_rows for m in made)
                ),
                "first_token_ms": _spread([r.first_token_ms for r in s.runs]),
                "latency_ms": _spread([r.total_ms for r in s.runs]),
                "phases_ms": {
                    phase: fmean(m.phases_ms.get(phase, 0.0) for m in made) if made else None
                    for phase in PHASES
                },
                "identical": None if same is None else same == len(s.runs),
                "identical_prompts": same,
                "margins_where_texts_part": margins.get((s.method, s.temperature), []),
            }
        )
    return rows


def _identical(series: Series, plain: Series | None) -> int | None:
    """How many texts equal plain decoding's; not asked of other engines' random draws."""
    ours = all(run.generation is not None for run in series.runs)
    if plain is None or (series.temperature > 0 and not ours):
        return None
    return sum(a.tokens == b.tokens for a, b in zip(series.runs, plain.runs, strict=True))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "p95": percentile(values, 0.95)}


def print_table(rows: Sequence[Row], console: Console) -> None:
    """The figures in tables that fit a terminal of 80 columns."""
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
            number(row["accepted_length"] or None, "{:.2f}"),
            number(row["tokens_per_cycle"], "{:.2f}"),
            f"{row['first_token_ms']['median']:.1f}",
            f"{row['latency_ms']['median']:.0f}",
            f"{row['latency_ms']['p95']:.0f}",
            number(row["drafter_prefill_share"] or None, "{:.0%}"),
        )
        for row in rows
    ]
    ours = [row for row in rows if row["phases_ms"]["prefill"] is not None]
    phases = [[f"{row['phases_ms'][phase]:.1f}" for phase in PHASES] for row in ours]
    _table(
        console, "Speed, prefill included; same text: prompts with plain hivis' very tokens",
        ("tokens/s", "over plain", "over HF", "same text"), rows, speed,
    )  # fmt: skip
    _table(
        console, "Drafting and latency, in ms (accepted: drafted tokens per cycle)",
        ("accepted", "tok/cycle", "1st token", "median", "p95", "drafter prefill"), rows, cycles,
    )  # fmt: skip
    _table(console, "Milliseconds per text, by phase", PHASES, ours, phases)
    if any(row["latency_ms"]["p95"] > BUSY * row["latency_ms"]["median"] for row in rows):
        console.print(
            f"Some texts took over {BUSY} times the median: the machine was busy with something "
            "else. Do not quote these figures."
        )


def _table(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Row],
    cells: Sequence[Sequence[str]],
) -> None:  # fmt: skip
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
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
    """Likewise for a picture that could not be drawn."""
    if path is None:
        return
    if path.suffix.lower() not in PLOT_TYPES:
        raise HivisError(f"--plot: wanted a name in {', '.join(PLOT_TYPES)}, got {path}")
    if find_spec("matplotlib") is None:
        raise HivisError("--plot: wanted matplotlib installed (pip install matplotlib), got none")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write beside the target and rename, so that no half a file is ever seen."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(document, indent=1) + "\n")
    draft.replace(path)
