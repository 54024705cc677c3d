"""Output on the terminal while it is generated, and its statistics."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from hivis.errors import printable
from hivis.page.labels import plural

if TYPE_CHECKING:
    from hivis.api.stream import Chunk, TextGeneration, TextStream
    from hivis.engine.results import Statistics

DRAFTED, OWN, RESET = "\x1b[32m", "\x1b[1;35m", "\x1b[0m"


def print_stream(stream: TextStream, tree: bool = False) -> None:
    """Print a stream's text as it is generated.

    On a terminal, control characters are printed as escapes, since a model's output is not trusted
    to control the terminal.

    Args:
        tree: color drafted tokens and the target's own ones, on a terminal that has colors.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    colored = tree and has_colors()
    safe = printable if sys.stdout.isatty() else str
    started = False
    try:
        for chunk in stream.chunks():
            if not started:  # after "ASSISTANT:" many models start with a space
                chunk = replace(chunk, pieces=_without_first_spaces(chunk.pieces))
            started = started or bool(chunk.text)
            chunk = replace(chunk, pieces=tuple(map(safe, chunk.pieces)))
            print("".join(_colored(chunk)) if colored else chunk.text, end="", flush=True)
    finally:
        # Also after an interruption, so that whatever follows starts on its own line.
        print(flush=True)
    if colored:
        print(
            f"{DRAFTED}drafted and accepted{RESET}, {OWN}the target's own{RESET}", file=sys.stderr
        )


def has_colors() -> bool:
    """Whether stdout is a terminal that shows colors."""
    dumb = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return sys.stdout.isatty() and not dumb


def _without_first_spaces(pieces: Sequence[str]) -> tuple[str, ...]:
    remaining = len("".join(pieces).lstrip())
    shown: list[str] = []
    for piece in reversed(pieces):
        shown.append(piece[max(0, len(piece) - remaining) :])
        remaining -= len(shown[-1])
    return tuple(reversed(shown))


def _colored(chunk: Chunk) -> Iterator[str]:
    for place, piece in enumerate(chunk.pieces):
        if piece:
            yield (OWN if place + 1 == len(chunk.tokens) else DRAFTED) + piece + RESET


def summary(result: TextGeneration) -> str:
    """The statistics of a generation in one line."""
    took = result.statistics
    tokens = len(result.tokens)
    parts = [f"{tokens} {plural(tokens, 'token')}", f"{tokens_per_second(result):.0f} tokens/s"]
    if any(nodes > 1 for nodes, _ in took.tree_sizes):
        parts.append(f"accepted length {took.accepted_length:.2f}")
        parts.append(f"tokens per cycle {took.tokens_per_cycle:.2f}")
    else:
        parts.append("nothing drafted")
    parts.append(f"first token {took.prepare_ms + took.first_token_ms:.0f} ms")
    return " | ".join([*parts, f"ended by {result.finish}"])


def tokens_per_second(result: TextGeneration) -> float:
    """Of the whole generation, including the preparation and prefill of the prompt."""
    took = result.statistics
    return 1e3 * len(result.tokens) / max(took.prepare_ms + took.total_ms, 1e-6)


def to_json(result: TextGeneration) -> dict[str, Any]:
    """Text, tokens and statistics, ready for ``json.dumps``."""
    took: Statistics = result.statistics
    return {
        "text": result.text,
        "tokens": list(result.tokens),
        "finish": result.finish,
        "statistics": {
            "tokens_per_second": tokens_per_second(result),
            "accepted_length": took.accepted_length,
            "tokens_per_cycle": took.tokens_per_cycle,
            **asdict(took),
        },
    }
