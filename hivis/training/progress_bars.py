"""The progress display of a training run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hivis.training.trainer import StageProgress

#: Seconds between two lines of output where there is no terminal.
LINE_SECONDS = 60.0


class ProgressBars:
    """A bar for each stage, with losses and accepted length; without a terminal, lines of text."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.fields[stage]}"),
            BarColumn(8),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._printed_at = time.monotonic()

    def __enter__(self) -> Callable[[StageProgress], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, state: StageProgress) -> None:
        text = _summary(state)
        if state.stage not in self._tasks:
            task = self._progress.add_task("", total=state.total, stage=state.stage)
            self._tasks[state.stage] = task
        self._progress.update(self._tasks[state.stage], completed=state.updates, description=text)
        due = time.monotonic() - self._printed_at > LINE_SECONDS or state.updates == state.total
        if due and not self._console.is_terminal:
            line = f"{state.stage} {state.updates}/{state.total} {text}"
            self._console.print(line, soft_wrap=True)
            self._printed_at = time.monotonic()


def _summary(state: StageProgress) -> str:
    """Losses of the first pass, top-1 of every pass, accepted length: short, for 80 columns."""
    if not state.losses:
        return ""
    first, top_1 = state.losses[0], " ".join(f"{means['first']:.2f}" for means in state.losses)
    text = f"feature {first['feature']:.2f} ce {first['soft']:.2f} top-1 {top_1}"
    return text if state.accepted is None else f"{text} accepted {state.accepted:.2f}"
