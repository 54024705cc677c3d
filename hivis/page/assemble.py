"""The page as HTML. It has no external references, and no text in it can become code.

All text of models and users goes through :func:`hivis.page.labels.escape`. The page's
Content-Security-Policy allows only its own style sheet and script, by their hashes, and images
inside the page.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from importlib.resources import files

from PIL import Image

from hivis.page.charts import cycle_chart, phase_bar
from hivis.page.labels import escape, plural
from hivis.page.run import Cycle, Run
from hivis.page.text import inner, prompt_html, text_html
from hivis.page.tree import TreeDrawing

#: The longest side of an image on the page, in pixels: twice the size that it is shown at.
LONGEST_SIDE = 640
FINISH = {"eos": "the model's end token", "stop": "a stop string", "length": "the token limit"}


def page(run: Run) -> str:
    """The HTML of the page."""
    style = files("hivis.page").joinpath("page.css").read_text("utf-8")
    script = files("hivis.page").joinpath("page.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    headline = _headline(run)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>hivis: {headline}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<p class="brand">hivis <span>{escape(_names(run))}</span></p>
<h1>{headline}</h1>
<p class="how">{escape(f"{_sampling(run)} · {run.device}")}</p>
{_tiles(run)}
</header>
<section class="run" aria-label="Prompt and output">
{_images(run.images)}
<div>
{prompt_html(run)}
{text_html(run)}
</div>
</section>
{_charts(run)}
{_trees(run)}
<footer>
{_facts(run)}
</footer>
</main>
<script>{script}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _headline(run: Run) -> str:
    cycles = len(run.cycles)
    tokens = _count(run.tokens, "token")
    if not cycles:
        return f"{tokens}, from the prefill only"
    if not run.has_drafts:
        return f"{tokens}, one at a time"
    return f"{tokens} in {_count(cycles, 'cycle')}"


def _names(run: Run) -> str:
    return f"{run.model}, " + (f"drafted by {run.drafter}" if run.drafter else "nothing drafted")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {plural(number, noun)}"


def _tiles(run: Run) -> str:
    took = run.statistics
    first_ms, whole_ms = (took.prepare_ms + ms for ms in (took.first_token_ms, took.total_ms))
    tiles = [(f"{1e3 * run.tokens / max(whole_ms, 1e-6):,.0f}", "tokens/s", "prefill included")]
    if run.cycles:
        tiles.append((f"{took.tokens_per_cycle:.2f}", "tokens per cycle", "on average"))
    if run.has_drafts:
        tiles.append((f"{took.accepted_length:.2f}", "accepted length", "drafted tokens per cycle"))
    tiles += [
        (f"{first_ms:,.0f}", "ms to the first token", "prefill included"),
        (f"{whole_ms:,.0f}", "ms in total", f"ended by {run.finish}"),
    ]
    return (
        "<dl class='tiles'>"
        + "".join(
            f"<div><dt>{name}</dt><dd>{figure}</dd><dd class='note'>{escape(note)}</dd></div>"
            for figure, name, note in tiles
        )
        + "</dl>"
    )


def _facts(run: Run) -> str:
    from hivis import __version__

    took = run.statistics
    read = f"target {took.prompt_rows}"
    facts = [
        ("model", run.model),
        ("drafter", run.drafter or "none"),
        ("device", run.device),
        ("sampling", _sampling(run)),
        ("prompt rows read", f"{read}, drafter {took.drafter_rows}" if run.drafter else read),
        ("ended by", f"{run.finish}: {FINISH.get(run.finish, '')}"),
        ("generated with", f"hivis {__version__}"),
    ]
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{rows}</dl>'


def _sampling(run: Run) -> str:
    params = run.params
    parts = [f"temperature {params.temperature:g}" + ("" if params.temperature else " (greedy)")]
    parts += [f"top-k {params.top_k}"] if params.top_k else []
    parts += [f"top-p {params.top_p:g}"] if params.top_p < 1 else []
    parts += [f"min-p {params.min_p:g}"] if params.min_p else []
    penalty = params.repetition_penalty
    parts += [f"repetition penalty {penalty:g}"] if penalty != 1 else []
    return ", ".join([*parts, f"seed {params.seed}"])


def _images(images: Sequence[Image.Image]) -> str:
    if not images:
        return ""
    shown = [
        f'<img src="{data_uri(image)}" width="{image.width}" height="{image.height}" '
        f'alt="Image {place} of {len(images)} of the prompt">'
        for place, image in enumerate(images, 1)
    ]
    return f'<figure class="{"many" if len(shown) > 1 else "one"}">{"".join(shown)}</figure>'


def data_uri(image: Image.Image) -> str:
    """The image, scaled down, as a data URI: PNG or JPEG, whichever is smaller."""
    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    made = {}
    for kind, settings in (("png", {"optimize": True}), ("jpeg", {"quality": 88})):
        buffer = io.BytesIO()
        small.save(buffer, kind, **settings)
        made[kind] = buffer.getvalue()
    kind = min(made, key=lambda kind: len(made[kind]))
    return f"data:image/{kind};base64,{base64.b64encode(made[kind]).decode()}"


def _charts(run: Run) -> str:
    chart = ""
    if run.has_drafts:
        mean = run.statistics.tokens_per_cycle
        chart = (
            f"<section><h2>Tokens per cycle <small>the solid top is the "
            f"target’s own token; the dashed line is the average, {mean:.2f}</small></h2>"
            f"{cycle_chart(run.cycles, mean)}</section>"
        )
    return f"{chart}<section><h2>Time by phase</h2>{phase_bar(run.statistics)}</section>"


def _trees(run: Run) -> str:
    if not run.cycles:
        return ""
    about = (
        "Each node is a token that the drafter proposed. The boxes along the top are the accepted "
        "path, with the drafter’s probability above each token; the last, underlined one is the "
        "target’s own token. The other nodes were not accepted; a thicker edge means a higher "
        "probability. · is a space, ⏎ a line break. Point at a node for its values."
        if run.has_drafts
        else "Nothing was drafted: every tree is a root, and the token that the target drew."
    )
    trees = (_tree(place, cycle, run.texts) for place, cycle in enumerate(run.cycles))
    return (
        '<section class="trees"><h2>Draft trees <button type="button" id="all" hidden>open all'
        f'</button></h2><p class="about">{about}</p>{"".join(trees)}</section>'
    )


def _tree(place: int, cycle: Cycle, texts: dict[int, str]) -> str:
    number = place + 1
    phrase = "".join(
        f'<span class="{"d" if piece.drafted else "o"}">{inner(piece)}</span>'
        for piece in cycle.pieces
    )
    nodes = cycle.nodes - 1
    meta = f"{cycle.drafted} of {nodes} accepted" if nodes else "nothing drafted"
    about = f"Draft tree of cycle {number}: {_count(cycle.nodes, 'node')}, {cycle.drafted} accepted"
    return (
        f'<details class="k{place % 5}" data-c="{number}"{" open" if place == 0 else ""}>'
        f'<summary><b>{number}</b><span class="phrase" dir="auto">{phrase}</span>'
        f'<span class="meta">{meta}</span></summary>'
        f'<div class="tree" id="cycle-{number}" tabindex="0" role="group" aria-label="{about}">'
        f"{TreeDrawing(cycle.trace, texts).svg(about)}</div></details>"
    )
