"""``hivis batch``: answer a file of prompts, several at a time."""

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
from hivis.cli.terminal import to_json
from hivis.errors import HivisError
from hivis.page.labels import plural

if TYPE_CHECKING:
    from hivis.api.model import Request
    from hivis.api.stream import TextGeneration

ABOUT = """Answer the prompts of a file, several at a time. Each output is the same as if its
prompt were answered alone.

FILE has one JSON object per line: "prompt", and optionally "image" (a path or a list of paths,
relative to the folder of FILE) and "settings" for this prompt, by their names in transformers. Each
output is written as one JSON object per line as soon as it is finished, with the "number" of its
prompt, counted from 0. As with generate --json, a space at the start of the output is kept."""
EXAMPLES = """examples:
  python -m hivis batch prompts.jsonl --out outputs.jsonl
  echo '{"prompt": "What is this?", "image": "cat.png"}' | python -m hivis batch - | jq -r .text
  python -m hivis batch prompts.jsonl --slots 8 --temperature 1 --seed 7"""
KEYS = {"prompt", "image", "settings"}


def add_batch(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=batch)
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("file", metavar="FILE", help="the prompts as JSON Lines; - reads them from stdin")
    add("--out", type=Path, metavar="PATH", help="write the outputs here (default: stdout)")
    add("--slots", type=whole_number, default=4, metavar="B", help="outputs at a time (default: 4)")
    add_model(parser)
    add_settings(parser)


def batch(options: argparse.Namespace) -> None:
    settings = given_settings(options)
    if options.out is not None and (options.out.is_dir() or not options.out.parent.is_dir()):
        raise HivisError(f"--out: wanted a file in a folder that exists, got {options.out}")
    if options.out is not None and same_file(options.out, options.file):
        raise HivisError(f"--out: wanted another file than the prompts', got {options.out}")
    with _input_lines(options.file) as lines, report_out_of_memory():
        model = load_model(options)
        with _output(options.out) as out:
            requests = _requests(lines, options.file)
            results = model.batch(requests, slots=options.slots, **settings)
            start, outputs, tokens = time.perf_counter(), 0, 0
            try:
                for number, result in results:
                    _write(out, number, result)
                    outputs, tokens = outputs + 1, tokens + len(result.tokens)
            finally:
                seconds = time.perf_counter() - start
                print(
                    f"{outputs} {plural(outputs, 'output')} | {tokens} {plural(tokens, 'token')} | "
                    f"{tokens / seconds:.0f} tokens/s | {options.slots} at a time",
                    file=sys.stderr,
                )


def _write(out: TextIO, number: int, result: TextGeneration) -> None:
    print(json.dumps({"number": number, **to_json(result)}), file=out, flush=True)


@contextmanager
def _input_lines(file: str) -> Iterator[Iterable[str]]:
    """The lines, read one by one, since they may arrive more slowly than they are answered."""
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
    """The file for the outputs. Written outputs stay in it even if a later one fails."""
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
            f'{where}: wanted a JSON object with "prompt" and optionally "image" and "settings", '
            f"got {line.strip()[:60]}"
        )
    return entry["prompt"], images, entry.get("settings", {})
