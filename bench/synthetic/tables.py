"""The figures of a run on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from bench.common.goals import goal_text
from bench.common.tables import new_table, number
from bench.synthetic.cycles import DRAFTED, EAGER, GRAPH, PLAIN
from bench.synthetic.phases import PASS
from bench.synthetic.simulated_acceptance import LABEL

PHASES = ("draft", "verify", "accept", "compact", "commit", "read")
LOOPS = {PLAIN: "hivis, plain", DRAFTED: "hivis, drafted"}


def print_run(document: Mapping[str, Any], console: Console) -> None:
    """The model, the accepted lengths, the published speed-ups and the bandwidth."""
    shape, accepted = document["shape"], document["accepted"]
    console.print(
        f"Random weights of the sizes of {shape['model']}. "
        f"Accepted lengths are replayed ({LABEL}): {accepted['source']}, "
        f"{accepted['drawn_mean']:.2f} on average."
    )
    if shape["scaled"]:
        console.print(
            f"NOT of that size: {shape['scaled']}. The figures say nothing about that model."
        )
    published = [
        [
            one["method"],
            one["model"],
            f"{one['speedup']:.2f}x",
            number(one["accepted_length"], "{:.2f}"),
            one["source"],
        ]
        for one in document["published"]
    ]
    _print(
        console,
        "Published, each over its authors' own baseline",
        ("method", "model", "speed-up", "accepted", "source"),
        published,
    )
    console.print(f"measured: copy {document['copy_gb_per_s']:.0f} GB/s (read plus written)")


def print_prompt(found: Mapping[str, Any], console: Console) -> None:
    """All tables for one length of the prompt."""
    console.print(
        f"\nA prompt of {found['prompt_rows']} rows, {found['image_rows']} of them of an image"
    )
    _passes(found, console)
    _phases(found, console)
    _cycles(found, console)
    _outputs(found, console)
    _speedups(found, console)
    memory = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in found["memory_bytes"].items())
    console.print(f"memory in GB: {memory}")
    for name, why in found["failed"].items():
        console.print(f"no graph of {name}: {escape(why)}")
    for goal in found["goals"]:
        console.print(f"goal ({goal['mode']}): {goal_text(goal)}")


def _print(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    table = new_table(columns[:1], columns[1:], title)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _modes(found: Mapping[str, Any]) -> list[str]:
    return [mode for mode in (EAGER, GRAPH) if mode in found["parts_ms"]]


def _passes(found: Mapping[str, Any], console: Console) -> None:
    parts, floor = found["parts_ms"], found["floors_ms"]["verify"]
    sizes = sorted(int(name.split()[1]) for name in parts[EAGER] if name.startswith("verify"))
    columns, rows = ["N"], []
    for mode in _modes(found):
        columns += [f"{mode} ms", "of N = 1", "of floor"]
    for nodes in sizes:
        row = [str(nodes)]
        for mode in _modes(found):
            ms, one = parts[mode].get(PASS.format(nodes)), parts[mode].get(PASS.format(1))
            row += [
                number(ms, "{:.3f}"),
                number(ms / one if ms and one else None, "{:.2f}x"),
                number(ms / floor if ms else None, "{:.2f}x"),
            ]
        rows.append(row)
    title = f"The target's pass (floor: {floor:.3f} ms)"
    _print(console, title, columns, rows)


def _phases(found: Mapping[str, Any], console: Console) -> None:
    floors, parts = found["floors_ms"], found["parts_ms"]
    inside = next(
        row["phases_ms"]
        for row in found["cycles"]
        if (row["loop"], row["mode"]) == (DRAFTED, EAGER)
    )
    rows = []
    for phase in PHASES:
        name = PASS.format(found["nodes"]) if phase == "verify" else phase
        alone = [parts[mode].get(name) for mode in _modes(found)]
        best, floor = alone[-1], floors.get(phase)
        rows.append(
            [
                phase,
                number(inside.get(phase), "{:.3f}"),
                *(number(ms, "{:.3f}") for ms in alone),
                number(floor, "{:.3f}"),
                number(best / floor if best and floor else None, "{:.1f}x"),
            ]
        )
        if phase == "draft":
            growth = [number(parts[mode].get("growth"), "{:.3f}") for mode in _modes(found)]
            rows.append(["  of it growth", "-", *growth, "-", "-"])
    columns = ["phase", "in a cycle", *(f"alone, {mode}" for mode in _modes(found)), "floor", ""]
    _print(console, f"A cycle by phase, in ms ({LABEL})", columns, rows)


def _cycles(found: Mapping[str, Any], console: Console) -> None:
    rows = []
    for row in found["cycles"]:
        length = row["accepted_length"]
        rows.append(
            [
                LOOPS[row["loop"]],
                row["mode"],
                f"{row['ms']:.3f}",
                f"{length:.2f}" if row["loop"] == DRAFTED else "-",
                f"{1e3 * (length + 1) / row['ms']:.1f}",
            ]
        )
    columns = ["loop", "mode", "ms per cycle", "accepted", "tokens/s"]
    _print(console, f"Cycles, without the prefill ({LABEL})", columns, rows)


def _outputs(found: Mapping[str, Any], console: Console) -> None:
    rows = [
        [
            LOOPS.get(row["method"], row["method"]),
            row["mode"],
            f"{row['first_token_ms']:.1f}",
            f"{row['ms_per_token']:.3f}",
            f"{row['total_ms']:.0f}",
            number(row["accepted_length"], "{:.2f}"),
            number(row["peak_bytes"] and row["peak_bytes"] / 1e9, "{:.2f}"),
        ]
        for row in found["outputs"]
    ]
    columns = ["method", "mode", "first", "per token", "total", "accepted", "peak GB"]
    tokens = found["outputs"][0]["tokens"]
    _print(console, f"Whole outputs of {tokens} tokens, in ms ({LABEL})", columns, rows)


def _speedups(found: Mapping[str, Any], console: Console) -> None:
    present = list(dict.fromkeys(row["mode"] for row in found["speedups"]))
    by_key = {(row["accepted_length"], row["mode"]): row for row in found["speedups"]}
    rows = []
    for length in dict.fromkeys(row["accepted_length"] for row in found["speedups"]):
        cells = []
        for mode in present:
            row = by_key[length, mode]
            cells += [number(row["over_plain"], "{:.2f}x"), number(row["over_hf"], "{:.2f}x")]
        rows.append([f"{length:.2f}", *cells])
    columns = ["accepted length"]
    for mode in present:
        columns += [f"{mode} over plain", "over HF"]
    _print(console, f"Speed-up of decoding ({LABEL})", columns, rows)
    for check in found["checks"]:
        console.print(
            f"check, {check['mode']}: the whole output ({LABEL} of {check['accepted_length']:.2f}) "
            f"decoded {check['by_outputs']:.2f}x as fast as plain, "
            f"by the table's formula {check['by_formula']:.2f}x"
        )
