"""``hivis bench``: the benchmark of a checkout, ``bench/latency.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from hivis.errors import HivisError

ABOUT = "measure how much sooner texts are there (bench/latency.py, in a checkout of hivis)"
CHECKOUT = Path(__file__).resolve().parent.parent.parent


def bench(arguments: Sequence[str]) -> None:
    """Hand all arguments on, ``--help`` included."""
    script = CHECKOUT / "bench" / "latency.py"
    if not script.is_file():
        raise HivisError(
            f"bench: wanted a checkout of hivis, with bench/latency.py in it, got {CHECKOUT}"
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))
    import_module("bench.latency").main(arguments)
