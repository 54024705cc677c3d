"""The one exception that hivis raises for bad input, and how the command-line tools show it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


class HivisError(ValueError):
    """Bad input, said in one line: the name of what was wrong, what was wanted, what was got."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which may have many or none; then its kind."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__


def shorten(value: object) -> str:
    """A value for a message: as Python writes it, ``none`` for ``None``, at most 60 characters."""
    text = "none" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


#: What moves a terminal's cursor, changes its state or turns the order of what is read: all control
#: characters but newline and tab, and Unicode's marks of direction.
_CONTROLS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}


def printable(text: str) -> str:
    """``text`` as a terminal may show it: control characters as ``\\x1b`` and the like."""
    return text.translate(_CONTROLS)


def run_cli(main: Callable[[], object]) -> NoReturn:
    """Run a command-line tool: bad input becomes one line on stderr and exit status 2.

    Ctrl-C gives 130, and a pipe whose reader has gone 141, both without a word.
    """
    try:
        main()
        sys.stdout.flush()
    except HivisError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # What Python would still write at its end goes nowhere, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a full disk, a folder that may not be written to
        named = f"{error.filename}: " if error.filename else ""
        print(f"error: {named}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
