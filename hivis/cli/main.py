"""The command line: ``python -m hivis COMMAND`` or ``hivis COMMAND``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from hivis import __version__
from hivis.cli import batch, chat, generate, info, training
from hivis.cli.parser import Parser

ABOUT = """Lossless speculative decoding for vision-language models.

  python -m hivis generate             generate with the small model that ships with hivis
  python -m hivis COMMAND --help       what a command takes, with examples"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Raises:
        HivisError: bad input; :func:`hivis.errors.run_cli` says it in one line.
    """
    options = make_parser().parse_args(arguments)
    options.run(options)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m hivis", description=ABOUT)
    parser.add_argument("--version", action="version", version=f"hivis {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, fill: Callable[[argparse.ArgumentParser], None], about: str, details: str = ""
    ) -> None:
        fill(commands.add_parser(name, help=about, description=details or about))

    add("generate", generate.add_generate, "answer a prompt about images", generate.ABOUT)
    add("chat", chat.add_chat, "talk about images, turn by turn", chat.ABOUT)
    add("batch", batch.add_batch, "answer a file of prompts, several at a time", batch.ABOUT)
    add("info", info.add_info, info.ABOUT)
    add(
        "train",
        training.add_train,
        "let the target answer the data's questions, and train a drafter on its answers",
    )
    add(
        "capture",
        training.add_capture,
        "let the target answer the data's questions, for the training of several drafters",
    )
    add(
        "draft-vocab",
        training.add_draft_vocab,
        "count the tokens that a target emits most often, for drafters with a draft vocabulary",
    )
    return parser
