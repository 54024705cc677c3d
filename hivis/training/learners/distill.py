"""Distillation (arXiv 1503.02531) of the target into a small draft model.

The small VLM of Spec-LLaVA (arXiv 2509.11961) predicts from tokens and the image alone, so the
target's hidden states are no input of it. They are the labels: with the target's head they give its
distribution after every row of an answer that it wrote itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hivis.drafters.draft_vlm import DraftVLM
from hivis.models.load import load_target
from hivis.models.trainable_draft import TrainableDraft, load_trainable_draft
from hivis.training.data.samples import Columns, Sample
from hivis.training.learners.learner import LearnerRequest, Stage
from hivis.training.learners.losses import (
    LossWeights,
    RowLosses,
    TargetRows,
    TargetTables,
    head_losses,
)

#: There are no hidden states to match, so the soft cross entropy has its full weight. One-layer
#: drafters use a tenth of it, beside the feature loss.
WEIGHTS = LossWeights(feature=0.0, soft=1.0, top=1.0)


@dataclass(frozen=True)
class DistillBatch:
    """B sequences, padded on the right.

    Attributes:
        tokens: ``[B, n]`` int64.
        rows: ``[B, n]`` bool, the rows of the answers.
        seen: ``[images, r, Ev]`` output of the vision tower, or ``None``.
        hidden: ``[R, E]`` fp32, the target's hidden states of the R answer rows.
    """

    tokens: Tensor
    rows: Tensor
    seen: Tensor | None
    hidden: Tensor


class DraftLearner:
    """Distills the target into a small VLM, or into a language model that reads text rows only.

    Args:
        draft: the model; everything except its vision tower is trained. The samples contain the
            tower's output.
        updates: updates of the only stage.
        lr: the default suits a fresh model of a million parameters; a pretrained or larger one
            needs a tenth of it or less.
    """

    def __init__(
        self,
        draft: TrainableDraft,
        target: TargetTables,
        *,
        updates: int,
        lr: float = 3e-3,
        weights: LossWeights = WEIGHTS,
    ) -> None:
        self.draft, self.target = draft, target
        self.module = draft.module
        self.columns = Columns("text", seen=draft.rows == "all")
        self._stage = Stage("distill", updates, lr, weights)
        # Both distributions are over the ids that target and draft model share: others can neither
        # be learned nor drafted.
        self._shared = min(len(draft.head), len(target.head))
        self.drafter()  # raises if the trained model could not draft for this target

    def stages(self) -> Sequence[Stage]:
        return (self._stage,)

    @property
    def own_tower(self) -> bool:
        """Whether the model has its own vision tower."""
        return self.draft.own_tower

    def description(self) -> dict[str, Any]:
        return {"rows": self.draft.rows, "own_tower": self.own_tower}

    def batch(self, samples: Sequence[Sample], stage: Stage) -> DistillBatch:
        """``samples`` as tensors; only their text rows for a language model or without images.

        Row t reads token t and predicts the next one, so its label is the target's distribution at
        the same row. The rows of the answer are trained: the first tree has its root at the first
        of them, and at the last the target ends its output. The row before them, which predicts the
        first token of the answer, is not trained: that token is drawn by the target's prefill.
        """
        device = self.target.head.device
        with_images = self.draft.rows == "all" and stage.images
        read = [torch.ones_like(s.visual) if with_images else ~s.visual for s in samples]
        seen = [s.seen for s in samples if with_images and s.seen is not None]

        def padded(parts: Sequence[Tensor]) -> Tensor:
            own = [part[rows] for part, rows in zip(parts, read, strict=True)]
            return torch.nn.utils.rnn.pad_sequence(own, batch_first=True).to(device)

        hidden = [s.hidden_at(s.answer.nonzero().flatten()) for s in samples]
        return DistillBatch(
            tokens=padded([s.tokens for s in samples]),
            rows=padded([s.answer for s in samples]),
            seen=torch.cat(seen).to(device) if seen else None,
            hidden=torch.cat(hidden).to(device).float(),
        )

    def losses(self, batch: DistillBatch, stage: Stage) -> list[tuple[RowLosses, Tensor]]:
        """One pass, in which all rows count."""
        wanted = TargetRows.of(batch.hidden, self.target.head[: self._shared])
        hidden = self.draft.hidden(batch.tokens, batch.seen, batch.rows)
        losses = head_losses(hidden, self.draft.head[: self._shared], wanted)
        return [(losses, torch.ones_like(losses.first))]

    def drafter(self) -> DraftVLM:
        """A drafter on the weights in training, not a copy; puts the module into eval mode."""
        self.module.eval()
        drafter = DraftVLM(self.draft)
        drafter.bind(self.target.embedding, self.target.head)
        return drafter

    def save(self, folder: Path) -> None:
        """Write the draft model for :func:`hivis.api.load_drafter.load_draft_vlm`."""
        self.draft.save(folder)


def make_draft_vlm(request: LearnerRequest) -> DraftLearner:
    """A learner for the draft model at ``request.draft``."""
    assert request.draft is not None
    # In half precision, since only the target's tower and vocabulary are compared.
    model, processor = load_target(request.folder, torch.bfloat16, request.options.device)
    draft = load_trainable_draft(request.draft, model, processor)
    return DraftLearner(draft, request.target, **request.given("updates", "lr"))
