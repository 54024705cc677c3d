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


def run_cli(main: Callable[[], object]) -> NoReturn:
    """Run a command-line tool: bad input becomes one line on stderr and exit status 2.

    Ctrl-C gives 130, and a pipe whose reader has gone 141, both without a word.
    """
    try:
        main()
        sys.stdout.flush()
    except HivisError as error:
        print(f"error: {error}", file=sys.stderr)
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
