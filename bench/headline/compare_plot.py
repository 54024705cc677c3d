"""The image of a comparison: speed-up, accepted length, drafter prefill, time by phase.

python -m bench.headline.compare_plot bench/results/compare.json docs/compare.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common.environment import title_of
from bench.common.options import redraw
from bench.headline.methods import LOOKUP, PLAIN
from bench.headline.summary import Row
from hivis.errors import run_cli

#: Temperatures from cold to warm; more than two share the last.
COLORS = ("#2f6690", "#e08e45", "#a23b3b")
PHASES = {  # what is drawn, and the phases in it
    "prefill": ("prefill",),
    "draft": ("draft", "commit"),
    "verify": ("verify",),
    "other": ("accept", "compact", "read"),
}
PHASE_COLORS = ("#b9b9b9", "#8cc084", "#5b4b8a", "#4d4d4d")
ROWS_COLOR = "#4f8a8b"
MUTED = "#6b6b6b"


def draw(run: dict[str, Any], path: Path) -> None:
    """Above: speed-up and accepted length by group. Below: drafter prefill and time by phase."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in run["rows"] if row["method"] in run["compared"]]
    groups, style = run["groups"], {"font.size": 9, "axes.titlesize": 9.5, "axes.linewidth": 0.6}
    drafted = [name for name in run["compared"] if any(_drafts(row, name) for row in rows)]
    faster = [name for name in run["compared"] if name in drafted or name == LOOKUP]
    above, below = max(2, len(faster)), max(2, 2 * len(drafted) + 1)
    heights = [0.44 * above + 0.8, 0.25 * below + 0.5]
    with plt.rc_context(style):
        figure = plt.figure(figsize=(10, sum(heights) + 1.0), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=heights)
        columns = upper.subplots(1, 2 * len(groups), squeeze=False, sharey=True)[0]
        _upper(columns, rows, faster, groups)
        columns[0].invert_yaxis()
        handles, labels = columns[0].get_legend_handles_labels()
        upper.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        columns = lower.subplots(1, 1 + len(groups), squeeze=False)[0]
        _prefill(columns[0], rows, drafted)
        for axes, group in zip(columns[1:], groups, strict=True):
            _phases(axes, rows, [PLAIN, *drafted], group)
        for axes in columns[2:]:
            axes.set_yticklabels([])
        handles, labels = columns[1].get_legend_handles_labels()
        lower.legend(handles, labels, loc="outside lower right", ncols=4, frameon=False)
        for axes in figure.get_axes():
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=2, width=0.6)
        figure.suptitle(title_of(run), fontsize=8.5, color=MUTED)
        figure.savefig(path, dpi=160)
        plt.close(figure)


def _upper(
    columns: Sequence[Any], rows: Sequence[Row], methods: Sequence[str], groups: Sequence[str]
) -> None:
    """Speed-up, then accepted length, each with one panel for every group, all on one scale."""
    figures = (
        (columns[: len(groups)], "Speed-up", "speedup_vs_plain", "{:.2f}x"),
        (columns[len(groups) :], "Accepted", "accepted_length", "{:.2f}"),
    )
    for panels, name, key, form in figures:
        for axes, group in zip(panels, groups, strict=True):
            _bars(axes, rows, methods, group, key, form)
            axes.set_title(f"{name}, {_of(group)}", loc="left")
        widest = max(axes.get_xlim()[1] for axes in panels)
        for axes in panels:
            axes.set_xlim(0, widest)
    for axes in columns[: len(groups)]:
        axes.axvline(1, color=MUTED, linewidth=0.8, zorder=0)
        axes.set_xlabel("tokens/s over plain", color=MUTED)
    for axes in columns[len(groups) :]:
        axes.set_xlabel("drafted tokens per cycle", color=MUTED)


def _drafts(row: Row, name: str) -> bool:
    return row["method"] == name and bool(row["drafter_rows"])


def _of(group: str) -> str:
    return f"{group} answers" if group in ("long", "short") else group


def _short(name: str) -> str:
    return name.removeprefix("hivis + ").removeprefix("hivis, ")


def _bars(
    axes: Any, rows: Sequence[Row], methods: Sequence[str], group: str, figure: str, form: str
) -> None:
    """One bar for every method and temperature."""
    temperatures = sorted({row["temperature"] for row in rows})
    height = 0.8 / len(temperatures)
    for i, temperature in enumerate(temperatures):
        color = COLORS[min(i, len(COLORS) - 1)]
        places, values = [], []
        for j, method in enumerate(methods):
            for row in rows:
                key = (row["method"], row["temperature"], row["group"])
                if key == (method, temperature, group) and row[figure] is not None:
                    places.append(j + (i - (len(temperatures) - 1) / 2) * height)
                    values.append(row[figure])
        bars = axes.barh(places, values, height * 0.9, color=color, label=f"T = {temperature:g}")
        labels = [form.format(value) for value in values]
        axes.bar_label(bars, labels, padding=2, fontsize=8, bbox={"color": "white", "pad": 0.2})
    axes.set_yticks(range(len(methods)), [_short(method) for method in methods])
    axes.margins(x=0.22)
    axes.set_xlim(left=0)


def _prefill(axes: Any, rows: Sequence[Row], methods: Sequence[str]) -> None:
    """Rows of a prompt, on average: of the target and of each drafter."""
    names, values = ["target"], [rows_of(rows, methods, "prompt_rows")]
    for method in methods:
        names.append(_short(method))
        values.append(rows_of(rows, [method], "drafter_rows"))
    bars = axes.barh(names, values, 0.7, color=[MUTED] + [ROWS_COLOR] * len(methods))
    axes.bar_label(bars, [f"{value:.0f}" for value in values], padding=2, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_title("Prompt rows that are prefilled", loc="left")


def rows_of(rows: Sequence[Row], methods: Sequence[str], figure: str) -> float:
    """The mean over all prompts of these methods; 0 without any."""
    chosen = [row for row in rows if row["method"] in methods and row[figure] is not None]
    prompts = sum(row["prompts"] for row in chosen)
    return sum(row[figure] * row["prompts"] for row in chosen) / prompts if prompts else 0.0


def _phases(axes: Any, rows: Sequence[Row], methods: Sequence[str], group: str) -> None:
    """Milliseconds per token at the lowest temperature, stacked."""
    lowest = min(row["temperature"] for row in rows)
    chosen = [
        row
        for method in methods
        for row in rows
        if (row["method"], row["temperature"], row["group"]) == (method, lowest, group)
    ]
    names = [_short(row["method"]) for row in chosen]
    starts = [0.0] * len(chosen)
    for (name, parts), color in zip(PHASES.items(), PHASE_COLORS, strict=True):
        widths = [sum(row["phases_ms_per_token"][part] for part in parts) for row in chosen]
        bars = axes.barh(names, widths, 0.7, left=starts, color=color, label=name)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.bar_label(bars, [f"{start:.1f}" for start in starts], padding=2, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(f"ms per token, {_of(group)}, T = {lowest:g}", loc="left")


if __name__ == "__main__":
    run_cli(lambda: redraw("bench.headline.compare_plot", draw))
