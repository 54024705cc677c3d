"""The image of a run: speed-up by accepted length, the target's pass by N, a cycle by phase.

python -m bench.synthetic.plot run.json image.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common.environment import title_of
from bench.common.options import redraw
from bench.synthetic.cycles import DRAFTED, EAGER, PLAIN
from bench.synthetic.phases import PASS
from bench.synthetic.tables import PHASES
from hivis.errors import run_cli

#: The line style of each mode.
STYLES = {"eager": ":", "graph": "-"}


def draw(run: dict[str, Any], path: Path) -> None:
    """Left: speed-ups, and what was published. Middle: the target's pass. Right: the phases."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(16, 6), width_ratios=(1.5, 0.8, 1.1)
    )
    _speedups(left, run)
    _passes(middle, run)
    _phases(right, run)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    shape = run["shape"]
    scaled = f", NOT of its size ({shape['scaled']})" if shape["scaled"] else ""
    figure.suptitle(
        f"{shape['name']}, random weights, {run['label']}{scaled}\n{title_of(run)}", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _color(prompt: int, over: str) -> Any:
    """Blue over plain, orange over Hugging Face; the longer the prompt, the darker."""
    import matplotlib.pyplot as plt

    shades = plt.get_cmap("Blues" if over == "over_plain" else "Oranges")
    return shades(min(0.55 + 0.25 * prompt, 1.0))


def _speedups(axes: Any, run: dict[str, Any]) -> None:
    highest = 1.0
    for place, found in enumerate(run["prompts"]):
        for over, words in (("over_plain", "plain"), ("over_hf", "HF generate")):
            for mode in dict.fromkeys(row["mode"] for row in found["speedups"]):
                rows = [row for row in found["speedups"] if row["mode"] == mode]
                if rows[0][over] is None:
                    continue
                lengths = [row["accepted_length"] for row in rows]
                gains = [row[over] for row in rows]
                highest = max(highest, *gains)
                axes.plot(
                    lengths,
                    gains,
                    STYLES[mode],
                    color=_color(place, over),
                    marker=".",
                    label=f"over {words}, {mode}, {found['prompt_rows']} rows",
                )
    for one in run["published"]:
        label = f"{one['method']} {one['speedup']:.2f}x ({one['model']})"
        if one["accepted_length"] is None:
            axes.axhline(one["speedup"], color="gray", linewidth=0.8, linestyle="--")
            axes.text(0, one["speedup"], label, fontsize=7.5, color="dimgray", va="bottom")
        else:
            axes.plot(one["accepted_length"], one["speedup"], "k*", markersize=9)
            axes.annotate(
                label,
                (one["accepted_length"], one["speedup"]),
                fontsize=7.5,
                xytext=(7, -11),
                textcoords="offset points",
            )
    axes.axhline(1.0, color="gray", linewidth=0.8)
    axes.axvline(run["accepted"]["drawn_mean"], color="tab:green", linewidth=0.8)
    axes.text(run["accepted"]["drawn_mean"], 0.05, " replayed", color="tab:green", fontsize=8)
    axes.set_ylim(0, 1.08 * max(highest, *(one["speedup"] for one in run["published"])))
    axes.set_xlabel(f"accepted length ({run['label']}; published: drafted tokens)")
    axes.set_ylabel("speed-up of decoding, times")
    axes.set_title("(length + 1) x step / cycle; published over own baselines", fontsize=9)
    _legend(axes, 2)


def _passes(axes: Any, run: dict[str, Any]) -> None:
    for place, found in enumerate(run["prompts"]):
        for mode, parts in found["parts_ms"].items():
            sizes = sorted(int(name.split()[1]) for name in parts if name.startswith("verify"))
            axes.plot(
                sizes,
                [parts[PASS.format(nodes)] for nodes in sizes],
                STYLES[mode],
                marker=".",
                color=_color(place, "over_plain"),
                label=f"{mode}, {found['prompt_rows']} rows",
            )
        axes.axhline(
            found["floors_ms"]["verify"],
            color=_color(place, "over_plain"),
            linewidth=0.8,
            linestyle="--",
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("N")
    axes.set_ylabel("ms (dashed: floor)")
    axes.set_title("the target's pass", fontsize=9)
    _legend(axes, 1)


def _phases(axes: Any, run: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt

    colors = plt.get_cmap("tab10")
    names: list[str] = []
    for found in run["prompts"]:
        for row in found["cycles"]:
            words = {PLAIN: "plain step", DRAFTED: "cycle"}[row["loop"]]
            name = f"{words}, {row['mode']}\n{found['prompt_rows']} rows"
            names.append(name)
            start = 0.0
            phases = row["phases_ms"] if row["mode"] == EAGER else {}
            for k, phase in enumerate(PHASES):
                width = phases.get(phase, 0.0)
                label = phase if len(names) == 1 else None
                axes.barh(
                    len(names) - 1, width, left=start, color=colors(k), label=label, height=0.7
                )
                start += width
            # The time outside all phases; in a graph, phases cannot be told apart.
            axes.barh(
                len(names) - 1,
                max(0.0, row["ms"] - start),
                left=start,
                color="lightgray",
                label="rest, or whole" if len(names) == 1 else None,
                height=0.7,
            )
            axes.text(row["ms"], len(names) - 1, f" {row['ms']:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("ms")
    axes.set_title(f"a cycle by phase ({run['label']})", fontsize=9)
    _legend(axes, 4)


def _legend(axes: Any, columns: int) -> None:
    """Below the axes, since no corner of them is always free."""
    axes.legend(
        frameon=False, fontsize=7.5, ncol=columns, loc="upper center", bbox_to_anchor=(0.5, -0.13)
    )


if __name__ == "__main__":
    run_cli(lambda: redraw("bench.synthetic.plot", draw))
