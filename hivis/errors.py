"""The one exception that hivis raises for bad input, and how the command-line tools show it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn


class HivisError(ValueError):
    """Bad input, said in one line: the name of what was wrong, what was wanted, what was got."""


def run_cli(main: Callable[[], object]) -> NoReturn:
    """Run a command-line tool: bad input becomes one line on stderr and exit status 2."""
    try:
        main()
    except HivisError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
