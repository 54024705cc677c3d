"""The rows of a latency run as a Markdown table: python -m bench.markdown bench/results/cpu.json"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEADER = (
    "| method | T | tokens/s | over plain | over HF | accepted length | tokens per cycle "
    "| first token ms | latency ms (p95) | drafter prefill | same text |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per method and temperature, as the README shows them."""
    return HEADER + "".join(_line(row) for row in rows)


def _line(row: dict[str, Any]) -> str:
    same = row["identical_prompts"]
    cells = (
        row["method"],
        f"{row['temperature']:g}",
        f"{row['tokens_per_s']:.0f}",
        number(row["speedup_vs_plain"], "{:.2f}x"),
        number(row["speedup_vs_hf"], "{:.2f}x"),
        number(row["accepted_length"] or None, "{:.2f}"),
        number(row["tokens_per_cycle"], "{:.2f}"),
        f"{row['first_token_ms']['median']:.0f}",
        f"{row['latency_ms']['median']:.0f} ({row['latency_ms']['p95']:.0f})",
        number(row["drafter_prefill_share"] or None, "{:.0%}"),
        "-" if same is None else f"{same}/{row['prompts']}",
    )
    return "| " + " | ".join(cells) + " |\n"


def number(value: float | None, form: str) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else form.format(value)


if __name__ == "__main__":
    print(markdown_table(json.loads(Path(sys.argv[1]).read_text())["rows"]), end="")
