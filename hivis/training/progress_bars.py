"""What a training run shows while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hivis.training.trainer import StageProgress

#: Between two lines where there is no terminal.
LINE_SECONDS = 60.0


class ProgressBars:
    """A bar for each stage, with losses and accepted length; where there is no terminal, lines."""

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
        self._said = time.monotonic()

    def __enter__(self) -> Callable[[StageProgress], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, now: StageProgress) -> None:
        text = _described(now)
        if now.stage not in self._tasks:
            self._tasks[now.stage] = self._progress.add_task("", total=now.total, stage=now.stage)
        self._progress.update(self._tasks[now.stage], completed=now.updates, description=text)
        last = now.updates == now.total
        if not self._console.is_terminal and (last or time.monotonic() - self._said > LINE_SECONDS):
            self._console.print(f"{now.stage} {now.updates}/{now.total} {text}", soft_wrap=True)
            self._said = time.monotonic()


def _described(now: StageProgress) -> str:
    """Losses of the first pass, top-1 of every pass, accepted length: short, for 80 columns."""
    if not now.losses:
        return ""
    first = " ".join(f"{one['first']:.2f}" for one in now.losses)
    text = f"feature {now.losses[0]['feature']:.2f} ce {now.losses[0]['soft']:.2f} top-1 {first}"
    return text if now.accepted is None else f"{text} accepted {now.accepted:.2f}"
