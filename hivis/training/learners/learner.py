"""The Learner protocol, which the training loop uses, how a learner is made, and its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from hivis.core.drafter import Drafter
from hivis.models.drafter_sizes import TargetSizes
from hivis.training.data.samples import Columns, Sample
from hivis.training.learners.losses import LossWeights, RowLosses, TargetTables
from hivis.training.options import TrainOptions


@dataclass(frozen=True)
class Stage:
    """One stage of a method's training.

    Attributes:
        name: also the name of the folder for the drafter at the end of this stage.
        updates: number of updates, over which the learning rate falls to zero.
        lr: peak learning rate.
        weights: weights of the loss terms.
        steps: number of self-feedback passes. The first is teacher-forced; in each later one the
            drafter reads its own output of the pass before, one row back.
        noise: uniform noise on the target's hidden states, relative to their root mean square.
        images: whether visual rows are used; otherwise only the text rows of a sample are.
    """

    name: str
    updates: int
    lr: float
    weights: LossWeights
    steps: int = 1
    noise: float = 0.0
    images: bool = True


@dataclass(frozen=True)
class LearnerRequest:
    """The arguments of a method's ``learner`` (``hivis/drafters/registry.py``).

    Attributes:
        options: the options of the command line, where ``None`` means the method's default.
        sizes: the sizes that a drafter takes over from its target.
        target: the target's embedding and head, on the device to train on.
        folder: the target's folder.
        draft: the folder of the model to start from, for a method that needs one.
    """

    options: TrainOptions
    sizes: TargetSizes
    target: TargetTables
    folder: Path
    draft: Path | None = None

    def given(self, *names: str) -> dict[str, Any]:
        """The options ``names`` that have a value."""
        found = {name: getattr(self.options, name) for name in names}
        return {name: value for name, value in found.items() if value is not None}


class Learner(Protocol):
    """A drafter in training, and how it learns from captured answers."""

    #: The columns that it needs of a capture.
    columns: Columns

    @property
    def module(self) -> nn.Module:
        """Its parameters that require gradients are trained and saved in checkpoints."""
        ...

    def stages(self) -> Sequence[Stage]:
        """The stages to run, in order."""
        ...

    def description(self) -> dict[str, Any]:
        """The drafter's configuration as JSON; a run is resumed only with the same one."""
        ...

    def batch(self, samples: Sequence[Sample], stage: Stage) -> Any:
        """Samples as padded tensors on the learner's device."""
        ...

    def losses(self, batch: Any, stage: Stage) -> list[tuple[RowLosses, Tensor]]:
        """For each pass: losses of the answer's rows ``[R]``, and which of them count ``[R]`` bool.

        Noise is drawn from torch's global generator, which the loop seeds before every update.
        """
        ...

    def drafter(self) -> Drafter:
        """The drafter with its current weights, bound to the target's embedding and head."""
        ...

    def save(self, folder: Path) -> None:
        """Write the drafter with its current weights, in the format that hivis loads."""
        ...
