"""How many prompt rows each drafter reads, computed from image sizes: nothing here is measured.

    python -m bench.headline.prefill_rows [ROWS]

The target prefills all rows. HiViS (arXiv 2509.23928, section 3) reads the text rows; ViSpec (arXiv
2509.15235, section 3) reads these and one row per image; EAGLE-2, and a draft VLM with as many rows
per image as the target, read all of them. Visual rows by model:

- LLaVA-1.5: every image becomes 336 x 336 pixels in patches of 14, so 24 x 24 rows.
- LLaVA-NeXT: the image scaled to 336 x 336, then the image in tiles of that size, in the grid that
  keeps most of its pixels. Patches in the padding are dropped, and every remaining line of patches
  ends with an extra row.
- Qwen2.5-VL: both sides rounded to multiples of 28, one row for 28 x 28 pixels, within the limits
  on pixels in its checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from bench.common.tables import new_table
from hivis.cli.parser import Parser, whole_number
from hivis.errors import HivisError, run_cli

#: Text rows of the prompt, chat template included: a system prompt and a question of two lines.
QUESTION = 64
#: Images as (width, height): a tile, a photo as in COCO, a square, a panorama.
IMAGES = ((336, 336), (640, 480), (672, 672), (1000, 300), (1024, 1024))

TILE, PATCH = 336, 14
#: LLaVA-NeXT's grids of tiles, as (columns, rows).
GRIDS = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))
CELL = 28
QWEN_PIXELS = (4 * CELL**2, 16384 * CELL**2)


@dataclass(frozen=True)
class PrefillRows:
    """How many rows of one prompt the target prefills, and how many each drafter reads."""

    text: int
    visual: int
    images: int = 1

    @property
    def target(self) -> int:
        return self.text + self.visual

    def rows(self) -> dict[str, int]:
        """By drafter."""
        return {
            "HiViS": self.text,
            "ViSpec": self.text + self.images,
            "EAGLE-2, draft VLM": self.target,
        }


def llava(width: int, height: int) -> int:
    """Visual rows of LLaVA-1.5, whatever the image's size."""
    _check(width, height)
    return (TILE // PATCH) ** 2


def llava_next(width: int, height: int) -> int:
    """Visual rows of LLaVA-NeXT (LLaVA-1.6)."""
    _check(width, height)
    side = TILE // PATCH
    columns, lines = (side * tiles for tiles in _grid(width, height))
    # The image fills the grid in one direction; in the other it is padded on both sides alike.
    if width * lines > columns * height:
        lines -= (lines - _floor(height * columns / width)) // 2 * 2
    else:
        columns -= (columns - _floor(width * lines / height)) // 2 * 2
    return side**2 + lines * (columns + 1)


def _grid(width: int, height: int) -> tuple[int, int]:
    """The grid that shows most of the image's own pixels; the smallest of several such grids."""

    def value(grid: tuple[int, int]) -> tuple[int, int]:
        across, down = grid[0] * TILE, grid[1] * TILE
        scale = min(across / width, down / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, -across * down

    return max(GRIDS, key=value)


def _floor(value: float) -> int:
    return int(round(value, 7))


def qwen(width: int, height: int) -> int:
    """Visual rows of Qwen2.5-VL."""
    _check(width, height)
    least, most = QWEN_PIXELS
    across, down = (round(side / CELL) for side in (width, height))
    pixels = across * down * CELL**2
    if pixels > most:
        shrink = math.sqrt(width * height / most)
        across, down = (max(1, math.floor(side / shrink / CELL)) for side in (width, height))
    elif pixels < least:
        grow = math.sqrt(least / (width * height))
        across, down = (math.ceil(side * grow / CELL) for side in (width, height))
    return across * down


def _check(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise HivisError(f"image: wanted some pixels, got {width}x{height}")


MODELS: dict[str, Callable[[int, int], int]] = {
    "LLaVA-1.5": llava,
    "LLaVA-NeXT": llava_next,
    "Qwen2.5-VL": qwen,
}


def prefill_rows(question: int = QUESTION) -> list[dict[str, Any]]:
    """One entry for every model and image: rows of the target and of each drafter."""
    if question < 1:
        raise HivisError(f"question: wanted at least one text row, got {question}")
    found = []
    for model, visual in MODELS.items():
        for width, height in IMAGES:
            prompt = PrefillRows(question, visual(width, height))
            found.append(
                {
                    "model": model,
                    "image": f"{width} x {height}",
                    "visual": prompt.visual,
                    "target": prompt.target,
                    "drafters": prompt.rows(),
                }
            )
    return found


def print_prefill(question: int, console: Console) -> None:
    """The table of :func:`prefill_rows`."""
    entries = prefill_rows(question)
    title = f"Rows read of a prompt of one image and {question} text rows (computed)"
    table = new_table(("model", "image"), ("target", *entries[0]["drafters"]), title)
    for i, entry in enumerate(entries):
        target = entry["target"]
        cells = [f"{rows} ({rows / target:.0%})" for rows in entry["drafters"].values()]
        last = i + 1 < len(entries) and entries[i + 1]["model"] != entry["model"]
        table.add_row(entry["model"], entry["image"], str(target), *cells, end_section=last)
    console.print(table)


def main() -> None:
    parser = Parser(prog="python -m bench.headline.prefill_rows", description=__doc__)
    parser.add_argument(
        "rows",
        metavar="ROWS",
        nargs="?",
        type=whole_number,
        default=QUESTION,
        help="text rows of the prompt (default: %(default)s)",
    )
    print_prefill(parser.parse_args().rows, Console())


if __name__ == "__main__":
    run_cli(main)
