"""An argument parser whose error messages have hivis's form: one line, name, wanted, got."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from hivis.errors import HivisError


class Parser(argparse.ArgumentParser):
    """Raises HivisError where argparse prints the usage and exits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise HivisError(_reworded(message, self.prog))


def _reworded(message: str, program: str) -> str:
    """argparse's message as name, wanted, got. The types below write that form themselves."""
    message = message.removeprefix("argument ")
    name, _, details = message.partition(": ")
    if name == "unrecognized arguments":
        return f"{program}: wanted known options, got {details}"
    if name == "the following arguments are required":
        return f"{program}: wanted {details}, got none"
    if choice := re.fullmatch(r"invalid choice: (.*) \(choose from (.*)\)", details):
        wanted = choice[2].replace("'", "")
        return f"{name}: wanted one of {wanted}, got {choice[1]}"
    if kind := re.fullmatch(r"invalid (\w+) value: (.*)", details):
        return f"{name}: wanted {kind[1]}, got {kind[2]}"
    if details.startswith("expected "):
        return f"{name}: wanted {details.removeprefix('expected ')}, got none"
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
