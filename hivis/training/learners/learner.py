"""What the training loop asks of a method: the Learner protocol, and how a stage is set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from hivis.core.drafter import Drafter
from hivis.training.data.samples import Columns, Sample
from hivis.training.learners.losses import LossWeights, RowLosses


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

    def described(self) -> dict[str, Any]:
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
