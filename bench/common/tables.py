"""Tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table


def new_table(names: Iterable[str], figures: Iterable[str], title: str | None = None) -> Table:
    """A table without rows: columns of names on the left, columns of figures on the right."""
    table = Table(
        title=None if title is None else escape(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right")
    return table


def number(value: float | None, form: str) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else form.format(value)
