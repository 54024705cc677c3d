"""The image of a headline run: speed-ups, and the time of a token by phase.

python -m bench.headline.plot bench/results/cpu.json docs/latency.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common.environment import title_of
from bench.common.options import redraw
from bench.headline.summary import PHASES, Row
from hivis.errors import run_cli


def draw(run: dict[str, Any], path: Path) -> None:
    """Left: speed-up over plain decoding. Right: milliseconds per token, by phase."""
    rows: Sequence[Row] = run["rows"]
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    temperatures = sorted({row["temperature"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    by_key = {(row["method"], row["temperature"]): row for row in rows}
    shades = plt.get_cmap("viridis")
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 0.9 + 0.85 * len(methods)))

    height = 0.8 / len(temperatures)
    for i, temperature in enumerate(temperatures):
        for j, method in enumerate(methods):
            row = by_key.get((method, temperature))
            if row is None or row["speedup_vs_plain"] is None:
                continue
            y = j + (i - (len(temperatures) - 1) / 2) * height
            left.barh(
                y,
                row["speedup_vs_plain"],
                height * 0.92,
                color=shades(0.25 + 0.5 * i / max(1, len(temperatures) - 1)),
                label=f"T = {temperature:g}" if j == 0 else None,
            )
            left.text(
                row["speedup_vs_plain"] + 0.03,
                y,
                f"{row['speedup_vs_plain']:.2f}x",
                va="center",
                bbox={"color": "white", "pad": 0.5},
                fontsize=9,
            )
    left.axvline(1.0, color="gray", linewidth=0.8)
    left.set_yticks(range(len(methods)), methods)
    left.invert_yaxis()
    left.margins(x=0.12)
    left.set_xlabel("tokens/s over plain decoding in hivis")
    left.legend(loc="upper right", frameon=False)

    ours = [row for row in rows if row["phases_ms"]["prefill"] is not None]
    labels = [f"{row['method']}, T = {row['temperature']:g}" for row in ours]
    starts = [0.0] * len(ours)
    colors = plt.get_cmap("tab10")
    for k, phase in enumerate(PHASES):
        widths = [row["phases_ms"][phase] * row["prompts"] / row["tokens"] for row in ours]
        right.barh(labels, widths, left=starts, color=colors(k), label=phase, height=0.7)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    right.invert_yaxis()
    right.set_xlabel("milliseconds per token")
    right.legend(loc="lower right", frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title_of(run), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    run_cli(lambda: redraw("bench.headline.plot", draw))
