"""What a training run leaves on disk while it runs, so that it can go on after any stop."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from torch import Tensor, nn

from hivis.drafters.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from hivis.errors import HivisError, first_line
from hivis.training.data.atomic import replacing
from hivis.training.data.files import write_json
from hivis.training.learners.learner import Learner

STATE_FILE = "training_state.pt"
METRICS_FILE = "metrics.json"
SAVE_SECONDS = 60.0


@dataclass
class RunProgress:
    """Where a run is: ``update`` updates of stage number ``stage`` are done."""

    stage: int = 0
    update: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None


class Checkpoint:
    """The state of one run in its folder.

    Args:
        folder: where the run writes; it is made if it is not there.
        resume: go on with what is there; otherwise there must be nothing.

    Raises:
        HivisError: there is another run or a model in the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self.folder = folder
        self.recipe: dict[str, Any] = {}
        self._saved = time.monotonic()
        runs = [name for name in (STATE_FILE, METRICS_FILE) if (folder / name).exists()]
        models = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if (folder / name).exists()]
        if runs and not resume:
            raise HivisError(
                f"--out {folder}: wanted a folder without a training run, or --resume to go on "
                f"with it, got {runs[0]}"
            )
        if models and not runs:
            raise HivisError(f"--out {folder}: wanted a folder without a model, got {models[0]}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise HivisError(
                f"--out {folder}: wanted a folder that can be written, got {error.strerror}"
            ) from None

    def open(self, description: dict[str, Any], module: nn.Module) -> RunProgress:
        """The progress so far, with the weights of then put into ``module``.

        ``description`` is everything that decides what comes out: the run that is resumed must have
        had the same.
        """
        # Through JSON and back, so that what was read compares equal to what is new.
        self.recipe = json.loads(json.dumps(description))
        path = self.folder / STATE_FILE
        if not path.exists():
            if (self.folder / METRICS_FILE).exists():
                return self._finished()
            return RunProgress()
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            recipe = json.loads(state["recipe"])
        except Exception as error:  # pickle, zip and torch each raise their own kinds
            raise HivisError(f"{path}: wanted a training state, got {first_line(error)}") from None
        self._compare(recipe, path)
        own = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in state["module"].items():
                own[name].copy_(value)
        return RunProgress(**json.loads(state["progress"]), optimizer=state["optimizer"])

    def _finished(self) -> RunProgress:
        path = self.folder / METRICS_FILE
        try:
            done = json.loads(path.read_text())
            metrics = done.pop("metrics")
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise HivisError(f"{path}: wanted the metrics of a run, got {error!r}") from None
        self._compare(done, path)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (self.folder / name).exists():
                raise HivisError(f"{self.folder}: wanted the {name} of a finished run, got none")
        return RunProgress(stage=len(self.recipe["stages"]), metrics=metrics)

    def _compare(self, found: dict[str, Any], path: Path) -> None:
        if found == self.recipe:
            return
        for name, wanted, got in _differences(self.recipe, found):
            raise HivisError(
                f"{path}: wanted the run that is to be resumed, with {name} {wanted!r}, got {got!r}"
            )

    def save_if_due(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: RunProgress
    ) -> None:
        """Save if the last time is long enough ago."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._save(module, optimizer.state_dict(), progress)

    def finish_stage(self, learner: Learner, progress: RunProgress, last: bool) -> None:
        """Write the drafter of the stage that is done; after the last one, only it stays."""
        names = list(progress.metrics)
        learner.save(self.folder if last else self.folder / names[-1])
        progress.stage, progress.update, progress.optimizer = progress.stage + 1, 0, None
        if last:
            write_json(self.folder / METRICS_FILE, self.recipe | {"metrics": progress.metrics})
            (self.folder / STATE_FILE).unlink(missing_ok=True)
        else:
            self._save(learner.module, None, progress)

    def _save(
        self, module: nn.Module, optimizer: dict[str, Any] | None, progress: RunProgress
    ) -> None:
        trained: dict[str, Tensor] = {
            name: p.detach() for name, p in module.named_parameters() if p.requires_grad
        }
        plain = {"stage": progress.stage, "update": progress.update, "metrics": progress.metrics}
        state = {
            "recipe": json.dumps(self.recipe),
            "progress": json.dumps(plain),
            "module": trained,
            "optimizer": optimizer,
        }
        with replacing(self.folder / STATE_FILE) as draft:
            torch.save(state, draft)
        self._saved = time.monotonic()


def _differences(wanted: Any, found: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """What differs between two JSON documents: (name, wanted, found)."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            each
            for key in [*wanted, *(found.keys() - wanted.keys())]
            for each in _differences(wanted.get(key), found.get(key), f"{name}.{key}".strip("."))
        ]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [each for i, (a, b) in pairs for each in _differences(a, b, f"{name}[{i}]")]
    return [] if wanted == found else [(name, wanted, found)]
