"""Command-line options that several benchmarks have, and what is checked before a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.common.environment import set_up
from bench.common.files import PLOT_TYPES, check_plot, check_writable
from hivis.cli.parser import Parser
from hivis.core.device import DTYPES, has_fast_bfloat16
from hivis.core.tree_shape import TreeShape
from hivis.drafters.quantize import FORMATS
from hivis.errors import HivisError

#: ``add_argument`` of a parser or of a group of its options.
Add = Callable[..., object]


def add_threads(add: Add) -> None:
    add("--threads", type=int, help="threads of the CPU (default: torch's)")


def add_device(add: Add, dtype: str | None = None) -> None:
    """``--device``, ``--dtype`` and ``--threads``; ``dtype`` is the default where it is given."""
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add(
        "--dtype",
        choices=DTYPES,
        default=dtype,
        help=f"default: {dtype or 'bfloat16 where the device has units for it, else float32'}",
    )
    add_threads(add)


def add_drafter_weights(add: Add) -> None:
    """``--drafter-weights`` and ``--draft-vocab``."""
    add(
        "--drafter-weights",
        choices=FORMATS,
        default="full",
        help="format of the weights of one-layer drafters (default: full, as the target's)",
    )
    add(
        "--draft-vocab",
        type=int,
        metavar="N",
        help="tokens that these draft, the most frequent of the list beside them (default: all)",
    )


def add_tree(add: Add, default: TreeShape) -> None:
    """``--nodes``, ``--depth`` and ``--tree-top-k``."""
    add(
        "--nodes",
        type=int,
        default=default.nodes,
        help="N, the root included (default: %(default)s)",
    )
    add("--depth", type=int, default=default.depth, help="drafted levels (default: %(default)s)")
    add(
        "--tree-top-k",
        type=int,
        default=default.top_k,
        metavar="K",
        help="nodes expanded per level (default: %(default)s)",
    )


def add_json(add: Add) -> None:
    add("--json", type=Path, help="write everything here")


def add_plot(add: Add) -> None:
    add("--plot", type=Path, help="draw the figures here (.png, .svg, .pdf)")


def check_at_least_one(options: argparse.Namespace, *names: str) -> None:
    """HivisError for an option of these names that is below 1."""
    for name in names:
        value = getattr(options, name)
        if value < 1:
            raise HivisError(f"--{name.replace('_', '-')}: wanted at least 1, got {value}")


def redraw(program: str, draw: Callable[[dict[str, Any], Path], None]) -> None:
    """The program that draws the image of a run's JSON file again."""
    parser = Parser(prog=f"python -m {program}", description="Draw a run's JSON file.")
    parser.add_argument("run", type=Path, metavar="JSON", help="what a run wrote with --json")
    parser.add_argument("image", type=Path, metavar="IMAGE", help=f"{', '.join(PLOT_TYPES)}")
    options = parser.parse_args()
    check_plot(options.image, "IMAGE")
    draw(json.loads(options.run.read_text()), options.image)


def prepare(options: argparse.Namespace) -> None:
    """Check the results' files and the device, apply ``--threads``, and choose the dtype.

    Raises:
        HivisError: a file could not be written or drawn, or the device cannot serve.
    """
    check_writable(options.json, "--json")
    if "plot" in options:
        check_writable(options.plot, "--plot")
        check_plot(options.plot, "--plot")
    set_up(options.device, options.threads)
    if options.dtype is None:
        options.dtype = "bfloat16" if has_fast_bfloat16(options.device) else "float32"
