"""The two charts: time by phase, and tokens per cycle. The style sheet has their colors.

Both are scaled to the width of the page. They contain no text, which scaling would distort.
"""

from __future__ import annotations

from collections.abc import Sequence

from hivis.engine.results import Statistics
from hivis.page.labels import escape, plural
from hivis.page.run import Cycle

ABOUT_PHASES = {
    "prepare": "convert prompt and images to tokens and pixels",
    "prefill": "target and drafter read the prompt",
    "draft": "the drafter grows the tree",
    "verify": "one pass of the target over the tree",
    "accept": "find the accepted path of the tree",
    "compact": "move the accepted cache rows together",
    "commit": "the drafter reads the accepted tokens",
    "cycle": "all phases of a cycle, replayed as one CUDA graph",
    "capture": "capture a cycle as a CUDA graph, once per tree size",
    "read": "the host reads the new tokens",
    "measure": "the policy times target and drafter, once per model",
    "rest": "between the phases: detokenizing, printing, keeping the trees for this page",
}
#: The height of the chart of cycles and the largest width of a bar with its margins, in pixels.
HEIGHT, WIDEST = 132, 62


def phases(statistics: Statistics) -> dict[str, float]:
    """Milliseconds by phase, and the rest of the total time."""
    before = {"prepare": statistics.prepare_ms} if statistics.prepare_ms else {}
    known = before | statistics.phases_ms
    found = {name: known[name] for name in ABOUT_PHASES if name in known}
    found |= {name: ms for name, ms in known.items() if name not in found}
    rest = statistics.prepare_ms + statistics.total_ms - sum(found.values())
    return found | ({"rest": rest} if rest > 0 else {})


def phase_bar(statistics: Statistics) -> str:
    """The stacked bar, and a table as its legend."""
    parts = phases(statistics)
    whole = sum(parts.values())
    bars, rows, x = [], [], 0.0
    for name, ms in parts.items():
        width = 1000 * ms / max(whole, 1e-9)
        kind = name if name in ABOUT_PHASES else "rest"
        title = f"<title>{escape(name)}: {ms:.1f} ms</title>"
        bars.append(
            f'<rect class="ph-{kind}" x="{x:.2f}" y="0" width="{width:.2f}" height="10">'
            f"{title}</rect>"
        )
        rows.append(
            f'<tr><th scope="row"><i class="ph-{kind}"></i>{escape(name)}</th>'
            f"<td>{_ms(ms)}</td><td>{width / 10:.1f}%</td>"
            f'<td class="about">{ABOUT_PHASES.get(name, "")}</td></tr>'
        )
        x += width
    return (
        '<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" '
        f'aria-label="Time by phase; see the table below for the values">{"".join(bars)}</svg>'
        '<table class="phases"><thead><tr><th scope="col">phase</th><th scope="col">ms</th>'
        '<th scope="col">share</th><th scope="col" class="about">description</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody><tfoot><tr><th scope='row'>total</th>"
        f"<td>{_ms(whole)}</td><td>100%</td><td class='about'></td></tr></tfoot></table>"
    )


def _ms(ms: float) -> str:
    return f"{ms:.1f}" if ms < 1000 else f"{ms:,.0f}"


def cycle_chart(cycles: Sequence[Cycle], mean: float) -> str:
    """A bar for each cycle: its drafted tokens, and on top the target's own."""
    top = max(len(cycle.pieces) for cycle in cycles)
    step = max(1, -(-top // 5))
    ceiling = -(-top // step) * step
    ticks = range(0, ceiling + 1, step)
    lines = "".join(f'<path d="M0,{ceiling - t}H{len(cycles)}"/>' for t in ticks)
    bars = "".join(_bar(place, cycle, ceiling) for place, cycle in enumerate(cycles))
    level = ceiling - mean
    return (
        '<div class="chart">'
        f'<svg class="axis" width="26" height="{HEIGHT + 12}" aria-hidden="true">'
        + "".join(
            f'<text x="20" y="{6 + HEIGHT * (1 - t / ceiling) + 4:.1f}">{t}</text>' for t in ticks
        )
        + f'</svg><svg class="bars" width="{WIDEST * len(cycles)}" height="{HEIGHT}" '
        f'viewBox="0 0 {len(cycles)} {ceiling}" preserveAspectRatio="none" role="group" '
        f'aria-label="Tokens per cycle, on average {mean:.2f}"><g class="grid">{lines}</g>{bars}'
        f'<path class="mean" d="M0,{level:.3f}H{len(cycles)}"/></svg></div>'
    )


def _bar(place: int, cycle: Cycle, ceiling: int) -> str:
    number, drafted, own = place + 1, cycle.drafted, len(cycle.pieces) - cycle.drafted
    parts = [
        f'<rect class="{kind}" x="{place + 0.12:.2f}" y="{ceiling - upto}" width=".76" '
        f'height="{height}"/>'
        for kind, height, upto in (("d", drafted, drafted), ("o", own, drafted + own))
        if height
    ]
    tokens = f"{len(cycle.pieces)} {plural(len(cycle.pieces), 'token')}"
    title = f"<title>cycle {number}: {drafted} drafted + {own} drawn by the target</title>"
    return (
        f'<a href="#cycle-{number}" data-c="{number}" class="k{place % 5}" '
        f'aria-label="cycle {number}: {tokens}">{title}'
        f'<rect class="hit" x="{place}" y="0" width="1" height="{ceiling}"/>{"".join(parts)}</a>'
    )
