"""What the training loop asks of a method: the Learner protocol, how it is made, and its stages."""

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
        name: also the folder of the drafter as this stage leaves it.
        updates: how many; the learning rate falls to zero over them.
        steps: self-feedback passes: 1 is teacher-forced, in pass s + 1 the drafter reads its own
            output of pass s, one row back.
        weights: of the loss terms.
        noise: uniform noise on the target's hidden states, as a part of their root mean square.
        images: whether visual rows are shown; without, a sample is its text rows.
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
    """What a method's record (``hivis/drafters/registry.py``) makes its learner from.

    Attributes:
        options: of the command line; ``None`` in there stands for the method's own default.
        sizes: what a drafter takes over from its target.
        target: the target's tables, on the device to train on.
        folder: the target's.
        draft: the folder of the model to start from, for a method that needs one.
    """

    options: TrainOptions
    sizes: TargetSizes
    target: TargetTables
    folder: Path
    draft: Path | None = None

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the options that were given a value."""
        found = {name: getattr(self.options, name) for name in names}
        return {name: value for name, value in found.items() if value is not None}


class Learner(Protocol):
    """A drafter that is being trained, and how it learns from captured answers."""

    #: What it needs of a capture.
    columns: Columns

    @property
    def module(self) -> nn.Module:
        """Its parameters that require gradients are trained, and kept in checkpoints."""
        ...

    def stages(self) -> Sequence[Stage]:
        """What to run, in order."""
        ...

    def description(self) -> dict[str, Any]:
        """What the drafter is, as JSON: a run is only resumed with the same."""
        ...

    def batch(self, samples: Sequence[Sample], stage: Stage) -> Any:
        """Samples as padded tensors on the learner's device."""
        ...

    def losses(self, batch: Any, stage: Stage) -> list[tuple[RowLosses, Tensor]]:
        """For each pass: losses of the answer's rows ``[R]``, and which of them count ``[R]``.

        What is random in it (noise) draws from torch's global generator, which the loop seeds
        before every update.
        """
        ...

    def drafter(self) -> Drafter:
        """The drafter as it is now, bound to the target's tables."""
        ...

    def save(self, folder: Path) -> None:
        """Write the drafter as it is now, in the format that hivis loads."""
        ...
