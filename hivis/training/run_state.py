"""The state of a training run on disk, from which it can be resumed at any time."""

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
#: Seconds between two saves within a stage.
SAVE_SECONDS = 60.0


@dataclass
class RunProgress:
    """The progress of a run.

    Attributes:
        stage: index of the current stage; all earlier ones are finished.
        update: finished updates of that stage.
        metrics: of each finished stage.
        optimizer: the optimizer's state; ``None`` at the start of a stage.
    """

    stage: int = 0
    update: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None


class Checkpoint:
    """The saved state of one run, in its folder.

    Args:
        folder: the run's output folder, created if it does not exist.
        resume: continue the run in the folder; otherwise the folder must not contain one.

    Raises:
        HivisError: the folder has another run or a model, or cannot be written.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self.folder = folder
        self.recipe: dict[str, Any] = {}
        self._saved = time.monotonic()
        runs = [name for name in (STATE_FILE, METRICS_FILE) if (folder / name).exists()]
        models = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if (folder / name).exists()]
        if runs and not resume:
            raise HivisError(
                f"--out {folder}: wanted a folder without a training run, or --resume to continue "
                f"it, got {runs[0]}"
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
        """The progress so far; the saved weights are copied into ``module``.

        Args:
            description: everything that the result depends on, as JSON; a resumed run must have
                been started with the same.

        Raises:
            HivisError: the saved state cannot be read, or is one of another run.
        """
        # Through JSON and back, so that it compares equal to the saved one.
        self.recipe = json.loads(json.dumps(description))
        path = self.folder / STATE_FILE
        if not path.exists():
            if (self.folder / METRICS_FILE).exists():
                return self._finished()
            return RunProgress()
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            recipe = json.loads(state["recipe"])
        except Exception as error:  # pickle, zip and torch each raise their own classes
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
            raise HivisError(f"{path}: wanted a run to resume with {name} {wanted!r}, got {got!r}")

    def save_if_due(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: RunProgress
    ) -> None:
        """Save if the last save was more than ``SAVE_SECONDS`` ago."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._save(module, optimizer.state_dict(), progress)

    def finish_stage(self, learner: Learner, progress: RunProgress, last: bool) -> None:
        """Write the drafter of the finished stage; after the last one, delete the saved state."""
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
        position = {"stage": progress.stage, "update": progress.update, "metrics": progress.metrics}
        state = {
            "recipe": json.dumps(self.recipe),
            "progress": json.dumps(position),
            "module": trained,
            "optimizer": optimizer,
        }
        with replacing(self.folder / STATE_FILE) as draft:
            torch.save(state, draft)
        self._saved = time.monotonic()


def _differences(wanted: Any, found: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The differences between two JSON documents, each as (name, wanted, found)."""
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
