"""Training of HiViS and EAGLE-2 drafters (HiViS, arXiv 2509.23928, section 3).

EAGLE-2 is trained as HiViS without hiding and without residual vectors, in the same two stages, so
that a comparison shows the effect of these two and not of the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hivis.drafters.config import HiViSConfig, LayerConfig
from hivis.drafters.hivis import HiViSDrafter
from hivis.errors import HivisError
from hivis.training.data.samples import Columns, Sample
from hivis.training.learners.learner import LearnerRequest, Stage
from hivis.training.learners.losses import LossWeights, RowLosses, TargetTables
from hivis.training.learners.one_layer_model import HiViSModel
from hivis.training.learners.rows import RowBatch, collate, hivis_rows
from hivis.training.learners.self_feedback import forward_steps, pass_losses


@dataclass(frozen=True)
class LayerSettings:
    """How a one-layer drafter is trained.

    Attributes:
        updates: updates of both stages together.
        lr: peak learning rate.
        soft: weight of the soft cross entropy. The papers use 0.1 for 7B models.
        noise: see :class:`Stage`; applied in the passes that read the target's hidden states.
        feedback: passes of stage 2, including the teacher-forced one.
        stage_1_share: the share of the updates in stage 1; with 0 or 1 there is one stage only.
    """

    updates: int
    lr: float = 1e-3
    soft: float = 0.1
    noise: float = 0.1
    feedback: int = 3
    stage_1_share: float = 0.4

    def __post_init__(self) -> None:
        for name in ("updates", "feedback"):
            if getattr(self, name) < 1:
                raise HivisError(f"{name}: wanted at least 1, got {getattr(self, name)}")
        if not 0 <= self.stage_1_share <= 1:
            raise HivisError(f"stage_1_share: wanted 0..1, got {self.stage_1_share}")

    @classmethod
    def of(cls, request: LearnerRequest) -> LayerSettings:
        """The settings of the command line, with defaults for those that were not given."""
        return cls(**request.given("updates", "lr", "soft", "noise"))

    def stages(self, first: Stage, second: Stage) -> list[Stage]:
        """The stages that have updates."""
        return [stage for stage in (first, second) if stage.updates]

    @property
    def split(self) -> tuple[int, int]:
        """Updates of stage 1 and of stage 2."""
        first = round(self.updates * self.stage_1_share)
        return first, self.updates - first


def check_target(config: LayerConfig, target: TargetTables) -> None:
    """HivisError unless the target's embedding and head have the drafter's sizes."""
    wanted = (config.vocab_size, config.hidden_size)
    for name, table in (("embedding", target.embedding), ("head", target.head)):
        if tuple(table.shape) != wanted:
            raise HivisError(
                f"target's {name}: wanted {list(wanted)} (the drafter's vocabulary and hidden "
                f"size), got {list(table.shape)}"
            )


def copy_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's tensors, for a drafter that further training does not change."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


class LayerLearner:
    """A HiViS drafter in training, or an EAGLE-2 one, depending on its config; see ``learner.py``.

    Stage 1 is teacher-forced, with noise on the target's hidden states. In stage 2 the drafter
    reads its own outputs, without noise. Stage 1 uses only the residual row of pass 0, so there all
    residual rows get the same gradient; they become different in stage 2.
    """

    module: HiViSModel

    def __init__(self, config: HiViSConfig, target: TargetTables, settings: LayerSettings) -> None:
        check_target(config, target)
        self.config, self.target, self.settings = config, target, settings
        self.columns = Columns() if config.rows == "text" else Columns("all", images=True)
        self.module = HiViSModel(config).to(target.head.device)

    def stages(self) -> list[Stage]:
        s = self.settings
        first, second = s.split
        return s.stages(
            Stage("stage1", first, s.lr, LossWeights(soft=s.soft, top=0.0), noise=s.noise),
            Stage("stage2", second, s.lr, LossWeights(soft=s.soft), s.feedback),
        )

    def description(self) -> dict[str, Any]:
        return asdict(self.config)

    def batch(self, samples: Sequence[Sample], stage: Stage) -> RowBatch:
        return collate(samples, [hivis_rows(s, self.config) for s in samples], self.target)

    def outputs(self, batch: RowBatch, stage: Stage) -> Iterator[Tensor]:
        """Predicted hidden states of each pass; see :func:`forward_steps`."""

        def join(start: int, hidden: Tensor, step: int) -> Tensor:
            return self.module.join(batch.following[:, start:], hidden, step, stage.steps == 1)

        return forward_steps(self.module, join, batch, stage.steps, stage.noise)

    def losses(self, batch: RowBatch, stage: Stage) -> list[tuple[RowLosses, Tensor]]:
        return pass_losses(self.outputs(batch, stage), batch, stage.steps, self.target.head)

    def drafter(self) -> HiViSDrafter:
        drafter = HiViSDrafter(self.config, copy_tensors(self.module))
        drafter.bind(self.target.embedding, self.target.head)
        return drafter

    def save(self, folder: Path) -> None:
        HiViSDrafter(self.config, copy_tensors(self.module)).save(folder)


def make_hivis(request: LearnerRequest) -> LayerLearner:
    """A learner for a fresh HiViS drafter, by default with three residual rows."""
    sizes = request.sizes
    residual = {"residual_rows": 3} | request.given("residual_rows")
    config = HiViSConfig(**sizes.layer, **sizes.hiding, **residual)
    return LayerLearner(config, request.target, LayerSettings.of(request))


def make_eagle(request: LearnerRequest) -> LayerLearner:
    """A learner for a fresh EAGLE-2 drafter, by default without residual rows."""
    residual = {"residual_rows": 0} | request.given("residual_rows")
    config = HiViSConfig(**request.sizes.layer, rows="all", **residual)
    return LayerLearner(config, request.target, LayerSettings.of(request))
