"""``hivis chat``: a conversation about images."""

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
from hivis.cli.terminal import print_stream, summary
from hivis.errors import HivisError, printable

if TYPE_CHECKING:
    from hivis.api.chat import Chat

ABOUT = """Talk with a model about images. It keeps the conversation in its cache between turns.

Every line of input, from the terminal or a pipe, is a turn. Ctrl-C ends an answer; at the prompt it
ends the chat. Commands:
  /image PATH   add another image to the next question
  /new          start a new conversation, with the images of the command line
  /quit         end the chat"""
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
        help="images for the first question",
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
            open_image(image)  # so that a wrong path is reported before the first question
        conversation, images = Chat(model), list(first)
        for line in _lines():
            command, _, rest = line.partition(" ")
            if command == "/quit":
                break
            if command == "/new":
                conversation, images = Chat(model), list(first)
                continue
            try:
                if command == "/image":
                    open_image(rest.strip())
                    images.append(rest.strip())
                    continue
                if command.startswith("/"):
                    raise HivisError(f"{command}: wanted /image PATH, /new or /quit, got {line}")
                _answer(conversation, line, images, settings)
                images = []
            except HivisError as error:
                if not sys.stdin.isatty():
                    raise
                print(f"error: {printable(str(error))}", file=sys.stderr)


def _lines() -> Iterator[str]:
    """The user's lines, without empty ones, until the end of the input."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            if sys.stdin.isatty():
                print()
            return
        if line:
            yield line


def _answer(conversation: Chat, question: str, images: list[Any], settings: dict[str, Any]) -> None:
    stream = conversation.say(question, images, **settings)
    try:
        print_stream(stream)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        return  # the chat keeps the answer so far
    print(summary(stream.result), file=sys.stderr)
