"""An argument parser whose complaints are hivis's own: one line with name, wanted and got."""

from __future__ import annotations

import argparse
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
        # "argument --x: wanted ..." is the form of what the types below say.
        message = message.removeprefix("argument ")
        if message.startswith("unrecognized arguments: "):
            message = f"{self.prog}: wanted known options, got {message.split(': ', 1)[1]}"
        raise HivisError(message)


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted a number, got {text!r}") from None


def whole(text: str) -> int:
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
