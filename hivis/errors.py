"""The exception that hivis raises for bad input, and how command-line tools report it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class HivisError(ValueError):
    """Bad input, in one line: the name of what is wrong, what was wanted, and what was got."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; if it has no message, the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__


def shorten(value: object) -> str:
    """``repr(value)`` for an error message, at most 60 characters; ``none`` for ``None``."""
    text = "none" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


#: Characters that move a terminal's cursor, change its state or reverse the reading order: all
#: control characters except newline and tab, and Unicode's direction marks.
_CONTROLS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}


def printable(text: str) -> str:
    """``text`` for a terminal, with control characters as escapes such as ``\\x1b``."""
    return text.translate(_CONTROLS)


def refuse_to_start(program: str, error: ImportError) -> None:
    """Exit as :func:`run_cli` does for bad input, if the process is ``program`` or ``python -m
    program`` and is still importing its package, which comes before its main function."""
    # While Python looks for a module, sys.argv is -m and what follows the module's name.
    looking = sys.argv[0] == "-m" and sys.orig_argv[-len(sys.argv)] == program
    if looking or Path(sys.argv[0]).stem == program:

        def refuse() -> NoReturn:
            raise HivisError(first_line(error)) from error

        run_cli(refuse)


def run_cli(main: Callable[[], object]) -> NoReturn:
    """Run a command-line tool and exit. Bad input is one line on stderr and exit status 2.

    Ctrl-C exits with 130 and a closed pipe with 141, both without a message.
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
        _flush_or_discard()
        sys.exit(141)
    except OSError as error:  # a full disk, a folder without write permission
        named = f"{error.filename}: " if error.filename else ""
        print(f"error: {named}{error.strerror or error}", file=sys.stderr)
        _flush_or_discard()
        sys.exit(2)
    sys.exit(0)


def _flush_or_discard() -> None:
    """Python flushes stdout once more when it exits; that must not fail, for want of a reader or of
    room."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
