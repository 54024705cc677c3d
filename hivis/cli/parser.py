"""An argument parser whose complaints are hivis's own: one line with name, wanted and got."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from hivis.errors import HivisError


class Parser(argparse.ArgumentParser):
    """Raises HivisError where argparse prints its usage and leaves the program."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise HivisError(_in_our_words(message, self.prog))


def _in_our_words(message: str, program: str) -> str:
    """What argparse says as name, wanted, got. What the types below say is in that form already."""
    message = message.removeprefix("argument ")
    name, _, said = message.partition(": ")
    if name == "unrecognized arguments":
        return f"{program}: wanted options that it knows, got {said}"
    if name == "the following arguments are required":
        return f"{program}: wanted {said}, got none"
    if choice := re.fullmatch(r"invalid choice: (.*) \(choose from (.*)\)", said):
        wanted = choice[2].replace("'", "")
        return f"{name}: wanted one of {wanted}, got {choice[1]}"
    if kind := re.fullmatch(r"invalid (\w+) value: (.*)", said):
        return f"{name}: wanted {kind[1]}, got {kind[2]}"
    if said.startswith("expected "):
        return f"{name}: wanted {said.removeprefix('expected ')}, got none"
    return message


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted a number, got {text!r}") from None


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted a whole number, got {text!r}") from None


def one_of(*choices: str) -> Callable[[str], str]:
    """A type for an option that is one of ``choices``."""

    def check(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"wanted one of {', '.join(choices)}, got {text!r}")
        return text

    return check
