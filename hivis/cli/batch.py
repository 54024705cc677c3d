"""``hivis batch``: a file of prompts, several at a time."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hivis.cli.model_options import (
    add_model,
    add_settings,
    given_settings,
    load_model,
    report_out_of_memory,
    same_file,
)
from hivis.cli.parser import whole_number
from hivis.errors import HivisError

if TYPE_CHECKING:
    from hivis.api.model import Request

ABOUT = """Answer the prompts of a file, several at a time, each as it would be alone.

FILE has one JSON object a line: "prompt", and if wanted "image" (a path or several, seen from the
file's folder) and "settings" of its own, by their names in transformers. Each text is written as
one JSON object a line as soon as it ends, with the "number" of its prompt, from 0. As with
generate --json, it is the whole text: one that begins with a space keeps it."""
EXAMPLES = """examples:
  python -m hivis batch prompts.jsonl --out texts.jsonl
  echo '{"prompt": "What is this?", "image": "cat.png"}' | python -m hivis batch - | jq -r .text
  python -m hivis batch prompts.jsonl --slots 8 --temperature 1 --seed 7"""
KEYS = {"prompt", "image", "settings"}


def add_batch(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=batch)
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("file", metavar="FILE", help="the prompts, JSON Lines; - reads them from stdin")
    add("--out", type=Path, metavar="PATH", help="write the texts here (default: stdout)")
    add("--slots", type=whole_number, default=4, metavar="B", help="texts at a time (default: 4)")
    add_model(parser)
    add_settings(parser)


def batch(options: argparse.Namespace) -> None:
    settings = given_settings(options)
    if options.out is not None and (options.out.is_dir() or not options.out.parent.is_dir()):
        raise HivisError(f"--out: wanted a file in a folder that exists, got {options.out}")
    if options.out is not None and same_file(options.out, options.file):
        raise HivisError(f"--out: wanted another file than the prompts', got {options.out}")
    with _opened(options.file) as lines, report_out_of_memory():
        model = load_model(options)
        with _output(options.out) as out:
            requests = _requests(lines, options.file)
            made = model.batch(requests, slots=options.slots, **settings)
            start, texts, tokens = time.perf_counter(), 0, 0
            try:
                for number, text in made:
                    _write(out, number, text)
                    texts, tokens = texts + 1, tokens + len(text.tokens)
            finally:
                seconds = time.perf_counter() - start
                print(
                    f"{texts} texts | {tokens} tokens | {tokens / seconds:.0f} tokens/s | "
                    f"{options.slots} at a time",
                    file=sys.stderr,
                )


def _write(out: TextIO, number: int, text: Any) -> None:
    from hivis.cli import terminal

    print(json.dumps({"number": number, **terminal.to_json(text)}), file=out, flush=True)


@contextmanager
def _opened(file: str) -> Iterator[Iterable[str]]:
    """The lines, read one by one: they may come slower than they are answered."""
    if file == "-":
        yield sys.stdin
        return
    try:
        opened = open(file, encoding="utf-8-sig")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise HivisError(f"FILE: wanted one that can be read, got {file} ({error})") from None
    with opened:
        yield opened


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Texts that were written stay, whatever becomes of the others."""
    if path is None:
        yield sys.stdout
        return
    try:
        opened = path.open("w", encoding="utf-8")
    except OSError as error:
        raise HivisError(f"--out: wanted a file that can be written, got {error}") from None
    with opened:
        yield opened


def _requests(lines: Iterable[str], file: str) -> Iterator[Request]:
    from hivis.api.model import Request

    folder = Path() if file == "-" else Path(file).parent
    file = "stdin" if file == "-" else file
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                prompt, images, settings = _entry(line, f"{file}:{number}")
                yield Request(prompt, [folder / image for image in images], settings)
    except UnicodeDecodeError as error:
        raise HivisError(f"FILE: wanted UTF-8 text, got {file} ({error})") from None


def _entry(line: str, where: str) -> tuple[str, list[str], dict[str, Any]]:
    try:
        entry = json.loads(line)
        images = entry.get("image", [])
        images = [images] if isinstance(images, str) else images
        fits = (
            isinstance(entry["prompt"], str)
            and isinstance(images, list)
            and all(isinstance(image, str) and image for image in images)
            and isinstance(entry.get("settings", {}), dict)
            and entry.keys() <= KEYS
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise HivisError(
            f'{where}: wanted a JSON object with "prompt" and, if need be, "image" and "settings", '
            f"got {line.strip()[:60]}"
        )
    return entry["prompt"], images, entry.get("settings", {})
