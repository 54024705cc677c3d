"""How HiViS and EAGLE-2 drafters learn (HiViS, arXiv 2509.23928, section 3).

EAGLE-2 here is HiViS without hiding and without residual vectors: the same two stages, so that a
comparison shows these two and not the training.
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
        updates: of both stages.
        soft: weight of the soft cross entropy. The papers use 0.1 for 7B models.
        noise: see :class:`Stage`; where the target's hidden states are what is learned from.
        feedback: passes of stage 2, the teacher-forced one counted.
        stage_1_share: of the updates; with 0 or 1 there is only the other stage.
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
        """As the command line asks for."""
        return cls(**request.given("updates", "lr", "soft", "noise"))

    def stages(self, first: Stage, second: Stage) -> list[Stage]:
        """Those of the two that get updates."""
        return [stage for stage in (first, second) if stage.updates]

    @property
    def split(self) -> tuple[int, int]:
        """Updates of stage 1 and of stage 2."""
        first = round(self.updates * self.stage_1_share)
        return first, self.updates - first


def check_target(config: LayerConfig, target: TargetTables) -> None:
    """HivisError unless the target's tables are of the drafter's sizes."""
    wanted = (config.vocab_size, config.hidden_size)
    for name, table in (("embedding", target.embedding), ("head", target.head)):
        if tuple(table.shape) != wanted:
            raise HivisError(
                f"target's {name}: wanted {list(wanted)} (the drafter's vocabulary and hidden "
                f"size), got {list(table.shape)}"
            )


def copy_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors as they are now, for a drafter that training does not change."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


class LayerLearner:
    """A HiViS drafter, or by its config an EAGLE-2 one, in training; see ``learner.py``.

    Stage 1 is teacher-forced, with noise on the target's hidden states. In stage 2 the drafter
    feeds on itself, without noise. What pass 0 uses of the residual is all that stage 1 trains, so
    all residual rows learn it there, and part in stage 2.
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
    """A fresh HiViS drafter, three residual rows if not said otherwise."""
    sizes = request.sizes
    residual = {"residual_rows": 3} | request.given("residual_rows")
    config = HiViSConfig(**sizes.layer, **sizes.hiding, **residual)
    return LayerLearner(config, request.target, LayerSettings.of(request))


def make_eagle(request: LearnerRequest) -> LayerLearner:
    """A fresh EAGLE-2 drafter, without residual rows if not said otherwise."""
    residual = {"residual_rows": 0} | request.given("residual_rows")
    config = HiViSConfig(**request.sizes.layer, rows="all", **residual)
    return LayerLearner(config, request.target, LayerSettings.of(request))
