"""``hivis chat``: several turns about the same images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hivis.cli.model_options import (
    add_model,
    add_settings,
    given_settings,
    images_of,
    load_model,
    report_out_of_memory,
)
from hivis.errors import HivisError, printable

if TYPE_CHECKING:
    from hivis.api.chat import Chat

ABOUT = """Talk with a model about images; it keeps what it has read from turn to turn.

Every line is a turn, from the terminal or from a pipe. Ctrl-C ends an answer, and at the prompt the
chat. Lines of your own:
  /image PATH   show another image with the next question
  /new          begin anew, with the images of the command line
  /quit         end"""
EXAMPLES = """examples:
  python -m hivis chat
  python -m hivis chat --model llava-hf/llava-1.5-7b-hf --image cat.png
  printf 'What is this?\\nWhich color is it?\\n' | python -m hivis chat"""


def add_chat(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=chat)
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="images that it begins with",
    )
    add_model(parser)
    add_settings(parser)


def chat(options: argparse.Namespace) -> None:
    settings = given_settings(options)
    with report_out_of_memory():
        model = load_model(options)
        from hivis.api.chat import Chat
        from hivis.models.processor import open_image

        first = images_of(options)
        for image in first:
            open_image(image)  # a wrong path should be known before anything is asked
        talk, images = Chat(model), list(first)
        for line in _lines():
            word, _, rest = line.partition(" ")
            if word == "/quit":
                break
            if word == "/new":
                talk, images = Chat(model), list(first)
                continue
            try:
                if word == "/image":
                    open_image(rest.strip())
                    images.append(rest.strip())
                    continue
                if word.startswith("/"):
                    raise HivisError(f"{word}: wanted /image PATH, /new or /quit, got {line}")
                _answer(talk, line, images, settings)
                images = []
            except HivisError as error:
                if not sys.stdin.isatty():
                    raise
                print(f"error: {printable(str(error))}", file=sys.stderr)


def _lines() -> Iterator[str]:
    """What is asked, line by line, until the end of input."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            if sys.stdin.isatty():
                print()
            return
        if line:
            yield line


def _answer(talk: Chat, question: str, images: list[Any], settings: dict[str, Any]) -> None:
    from hivis.cli import terminal

    stream = talk.say(question, images, **settings)
    try:
        terminal.print_stream(stream)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        return  # what was said so far stays said
    print(terminal.summary(stream.result), file=sys.stderr)
