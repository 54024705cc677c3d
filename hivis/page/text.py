"""Prompt and output on the page, with every token marked by its cycle."""

from __future__ import annotations

import re

from hivis.page.labels import escape
from hivis.page.run import Cycle, Piece, Run


def prompt_html(run: Run) -> str:
    """The prompt, turn by turn."""
    turns = "".join(
        f'<div class="turn"><span class="role">{escape(role)}</span>'
        f'<p dir="auto">{escape(text)}</p></div>'
        for role, text in run.prompt
    )
    return f'<div class="prompt">{turns}</div>'


def text_html(run: Run) -> str:
    """The output. Tokens are spans whose attributes describe them, so the text stays unchanged."""
    first = "".join(_span(piece, run) for piece in run.first)
    cycles = "".join(_cycle(place, cycle, run) for place, cycle in enumerate(run.cycles))
    rest = f'<span class="rest">{escape(run.rest)}</span>' if run.rest else ""
    body = f'<span class="c first">{first}</span>{cycles}{rest}'
    kinds = "text" if run.has_drafts else "text plain"
    if re.search("  |\\t|^ ", run.text.strip(" "), re.MULTILINE):
        kinds += " spaced"  # keep spaces that have a meaning; others collapse at line ends
    return f'<p id="text" class="{kinds}" dir="auto">{body}</p>{_legend(run)}'


def _cycle(place: int, cycle: Cycle, run: Run) -> str:
    """A cycle's tokens. Its number is attached to its first word, so that they share a line."""
    number, words = place + 1, [bool(piece.text.strip()) for piece in cycle.pieces]
    at = words.index(True) if True in words else -1
    spans = "".join(
        _span(piece, run, number if i == at else None) for i, piece in enumerate(cycle.pieces)
    )
    alone = f'<i data-n="{number}"></i>' if at < 0 else ""
    return f'<a class="c k{place % 5}" href="#cycle-{number}" data-c="{number}">{alone}{spans}</a>'


def _span(piece: Piece, run: Run, number: int | None = None) -> str:
    kind = "d" if piece.drafted else "o"
    by = "drafted, and accepted by the target" if piece.drafted else "drawn by the target"
    sign = ""
    if piece.token in run.special:
        kind += " s"
        sign = f' data-s="{escape(run.texts[piece.token])}"'
    title = f"token {piece.token}, {by}"
    return f'<span class="{kind}"{sign} title="{title}">{inner(piece, number)}</span>'


def inner(piece: Piece, number: int | None = None) -> str:
    """A token's text. The target's own tokens are underlined, without the space before."""
    word = piece.text.strip()
    if not word or (piece.drafted and number is None):
        return escape(piece.text)
    before, after = piece.text.split(word, 1)
    mark = "" if number is None else f'<i data-n="{number}"></i>'
    shown = escape(word) if piece.drafted else f"<u>{escape(word)}</u>"
    return f"{escape(before)}{mark}{shown}{escape(after)}"


def _legend(run: Run) -> str:
    if not run.cycles:
        return ""
    if not run.has_drafts:
        return "<p class='legend'>Nothing was drafted: the target drew every token itself.</p>"
    own = "<span class='o k1'><u>target’s own</u></span>"
    return (
        "<p class='legend'>Each color is one cycle; the small number is its number. "
        "<span class='d k1'>Drafted tokens</span> were proposed by the drafter and accepted; each "
        f"accepted path ends with the {own} token. Without a drafter, the same seed gives the same "
        "output, one token at a time. Click on a cycle to see its draft tree.</p>"
    )
