"""A small draft model learns what the target would say (distillation, arXiv 1503.02531).

The small VLM of Spec-LLaVA (arXiv 2509.11961) predicts from tokens and the image alone, so
nothing of the target's hidden states goes in. They say what is wanted: through the target's head
they are its distribution after every row of an answer that it wrote itself.
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

#: There is no hidden state to match, and with no feature loss beside it the soft cross entropy, of
#: which the layers that do match one take a tenth, is the aim itself.
WEIGHTS = LossWeights(feature=0.0, soft=1.0, top=1.0)


@dataclass(frozen=True)
class DistillBatch:
    """Texts, padded on the right.

    Attributes:
        tokens: ``[B, n]`` int64.
        rows: ``[B, n]`` bool, the answers.
        seen: ``[images, r, Ev]``, or ``None``.
        hidden: ``[R, E]`` fp32, the target's hidden states of the R answer rows.
    """

    tokens: Tensor
    rows: Tensor
    seen: Tensor | None
    hidden: Tensor


class DraftLearner:
    """Distills the target into a small VLM, or into a language model that reads text rows alone.

    Args:
        draft: all of it but a vision tower is trained. What that saw comes with the samples.
        updates: of the only stage.
        lr: the default suits a fresh model of a million parameters; one that can speak already, or
            is larger, wants a tenth or less.
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
        # What the draft model does not know it cannot learn, and what the target does not know is
        # never drafted: both sides are distributions over the ids that they share.
        self._shared = min(len(draft.head), len(target.head))
        self.drafter()  # refuses what could not be drafted with afterwards

    def stages(self) -> Sequence[Stage]:
        return (self._stage,)

    @property
    def own_tower(self) -> bool:
        """Whether it looks at images through a vision tower of its own."""
        return self.draft.own_tower

    def described(self) -> dict[str, Any]:
        return {"rows": self.draft.rows, "own_tower": self.own_tower}

    def batch(self, samples: Sequence[Sample], stage: Stage) -> DistillBatch:
        """``samples`` as tensors; of a language model, or without images, their text rows.

        Row t reads token t and predicts what follows it, so what it is to learn is the target's
        distribution at that same row. Those are the rows of the answer: the first is where the
        first tree has its root, and the last is where the target ends the text. The row before
        them, which predicts the answer's first token, is left out: the target's prefill has drawn
        that token already.
        """
        device = self.target.head.device
        looks = self.draft.rows == "all" and stage.images
        read = [torch.ones_like(s.visual) if looks else ~s.visual for s in samples]
        seen = [s.seen for s in samples if looks and s.seen is not None]

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
        """One pass. Its rows all count."""
        wanted = TargetRows.of(batch.hidden, self.target.head[: self._shared])
        hidden = self.draft.hidden(batch.tokens, batch.seen, batch.rows)
        losses = head_losses(hidden, self.draft.head[: self._shared], wanted)
        return [(losses, torch.ones_like(losses.first))]

    def drafter(self) -> DraftVLM:
        """A drafter on the very weights that are trained; the module is in eval mode then."""
        self.module.eval()
        drafter = DraftVLM(self.draft)
        drafter.bind(self.target.embedding, self.target.head)
        return drafter

    def save(self, folder: Path) -> None:
        """Write the draft model for :func:`hivis.api.load_drafter.load_draft_vlm`."""
        self.draft.save(folder)


def make_draft_vlm(request: LearnerRequest) -> DraftLearner:
    """The draft model at ``request.draft``, to be distilled further."""
    assert request.draft is not None
    # In half precision: of the target only its tower and its vocabulary are looked at.
    model, processor = load_target(request.folder, torch.bfloat16, request.options.device)
    draft = load_trainable_draft(request.draft, model, processor)
    return DraftLearner(draft, request.target, **request.given("updates", "lr"))
