"""The rows of a run as Markdown tables: python -m bench.headline.markdown bench/results/cpu.json"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common.tables import number
from hivis.cli.parser import Parser
from hivis.errors import run_cli

HEADER = (
    "| method | T | tokens/s | over plain | over HF | accepted length | tokens per cycle "
    "| first token ms | latency ms (p95) | drafter prefill | same output |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per method and temperature, for the README."""
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


COMPARED = (
    "| answers | method | T | tokens/s | over plain | over HF | accepted length "
    "| tokens per cycle | drafter prefill rows | same output |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)
PART = (
    "| answers | HiViS | T | accepted length | tokens/s | over plain |\n|---|---|---|---|---|---|\n"
)
COMPUTED = "| model | image | target | {} |\n|---|---|---|{}\n"


def compare_tables(run: dict[str, Any]) -> str:
    """All tables of the JSON document of a comparison, one after another."""
    tables = [COMPARED + "".join(_compared(row) for row in _ordered(run, run["compared"]))]
    for labels in (run.get("parts", {}), run.get("policies", {})):
        if labels:
            names = {method: label for label, method in labels.items()}
            rows = _ordered(run, list(labels.values()))
            tables.append(PART + "".join(_part(row, names[row["method"]]) for row in rows))
    entries = run["computed_prefill"]["rows"]
    drafters = list(entries[0]["drafters"])
    tables.append(
        COMPUTED.format(" | ".join(drafters), "---|" * len(drafters))
        + "".join(
            f"| {entry['model']} | {entry['image']} | {entry['target']} | "
            + " | ".join(str(entry["drafters"][name]) for name in drafters)
            + " |\n"
            for entry in entries
        )
    )
    return "\n".join(tables)


def _ordered(run: dict[str, Any], methods: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of these methods, group by group and temperature by temperature."""
    rows = [row for row in run["rows"] if row["method"] in methods]
    places = list(dict.fromkeys((row["group"], row["temperature"]) for row in rows))
    return sorted(
        rows,
        key=lambda row: (
            places.index((row["group"], row["temperature"])),
            methods.index(row["method"]),
        ),
    )


def _compared(row: dict[str, Any]) -> str:
    same, rows = row["identical_prompts"], row["drafter_rows"]
    cells = (
        row["group"],
        row["method"],
        f"{row['temperature']:g}",
        f"{row['tokens_per_s']:.0f}",
        number(row["speedup_vs_plain"], "{:.2f}x"),
        number(row["speedup_vs_hf"], "{:.2f}x"),
        number(row["accepted_length"] if rows else None, "{:.2f}"),
        number(row["tokens_per_cycle"], "{:.2f}"),
        f"{rows:.0f} ({row['drafter_prefill_share']:.0%})" if rows else "-",
        "-" if same is None else f"{same}/{row['prompts']}",
    )
    return "| " + " | ".join(cells) + " |\n"


def _part(row: dict[str, Any], label: str) -> str:
    cells = (
        row["group"],
        label,
        f"{row['temperature']:g}",
        number(row["accepted_length"], "{:.2f}"),
        f"{row['tokens_per_s']:.0f}",
        number(row["speedup_vs_plain"], "{:.2f}x"),
    )
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    parser = Parser(prog="python -m bench.headline.markdown", description=__doc__)
    parser.add_argument("run", type=Path, metavar="JSON", help="what a run wrote with --json")
    document = json.loads(parser.parse_args().run.read_text())
    compared = "compared" in document
    print(compare_tables(document) if compared else markdown_table(document["rows"]), end="")


if __name__ == "__main__":
    run_cli(main)
