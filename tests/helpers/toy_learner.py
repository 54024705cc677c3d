"""A toy learner, and a training run of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hivis.drafters.checkpoint import HiViSConfig, random_tensors
from hivis.drafters.hivis import HiViSDrafter
from hivis.training.data.samples import Capture, Columns, Sample
from hivis.training.learners.learner import Stage
from hivis.training.learners.losses import LossWeights, RowLosses, TargetRows, row_losses
from hivis.training.run_state import Checkpoint
from hivis.training.trainer import StageProgress, TrainerSettings, run
from tests.helpers.training_samples import HIDDEN, toy_target

CONFIG = HiViSConfig(
    hidden_size=HIDDEN,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=40,
)

SETTINGS = TrainerSettings(batch=4, held_out=3, warmup=3, bf16=False, checks=2, checked=1)


class ToyLearner:
    """A linear map from a hidden state and some noise to the next one."""

    columns = Columns("text")

    def __init__(self, updates: tuple[int, int] = (7, 9), scale: float = 1.0) -> None:
        torch.manual_seed(5)
        self.module = nn.Linear(HIDDEN, HIDDEN)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.module.register_parameter("frozen", self.frozen)
        self.updates, self.scale = updates, scale
        self.batches: list[tuple[str, list[int]]] = []
        self.target = toy_target()
        self._drafter = HiViSDrafter(CONFIG, random_tensors(CONFIG, 0))
        self._drafter.bind(self.target.embedding, self.target.head)

    def description(self) -> dict:
        return {"scale": self.scale}

    def stages(self) -> list[Stage]:
        weights = LossWeights()
        one, two = self.updates
        return [Stage("first", one, 1e-2, weights, noise=0.1), Stage("second", two, 1e-3, weights)]

    def batch(self, samples: Sequence[Sample], stage: Stage) -> Tensor:
        self.batches.append((stage.name, [s.conversation for s in samples]))
        return torch.cat([s.hidden[s.answer].float() for s in samples])

    def losses(self, batch: Tensor, stage: Stage) -> list[tuple[RowLosses, Tensor]]:
        seen = batch[:-1] + torch.rand_like(batch[:-1]) * stage.noise
        wanted = TargetRows.of(batch[1:], self.target.head)
        losses = row_losses(self.module(seen) * self.scale, wanted, self.target.head)
        return [(losses, torch.ones(len(seen), dtype=torch.bool))]

    def drafter(self) -> HiViSDrafter:
        return self._drafter

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")


class Stopped(Exception):
    pass


def train(
    out: Path,
    capture: Capture,
    resume: bool = False,
    stop_after: int | None = None,
    settings: TrainerSettings = SETTINGS,
    learner: ToyLearner | None = None,
) -> tuple[ToyLearner, dict]:
    learner = learner or ToyLearner()
    seen: list[StageProgress] = []

    def report(now: StageProgress) -> None:
        seen.append(now)
        if len(seen) == stop_after:
            raise Stopped

    recipe = {"method": "toy"}
    checkpoint = Checkpoint(out, resume)
    return learner, run(learner, learner.target, capture, settings, recipe, checkpoint, report)
