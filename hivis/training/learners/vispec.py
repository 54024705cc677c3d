"""Training of ViSpec drafters (arXiv 2509.15235, section 3), and the rows that they read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hivis.drafters.config import ViSpecConfig
from hivis.drafters.vispec import ViSpecDrafter
from hivis.training.data.samples import Columns, Sample
from hivis.training.learners.learner import LearnerRequest, Stage
from hivis.training.learners.losses import LossWeights, RowLosses, TargetTables
from hivis.training.learners.one_layer import LayerSettings, check_target, copy_tensors
from hivis.training.learners.rows import DrafterRows, RowBatch, collate, image_embeddings, padded
from hivis.training.learners.self_feedback import forward_steps, pass_losses
from hivis.training.learners.vispec_model import ViSpecModel


@dataclass(frozen=True)
class ImageBatch:
    """The K images of a batch, and the drafter's rows that depend on them.

    Attributes:
        embeddings: ``[K, m, E]`` fp32, padded at the end.
        shown: ``[K, m]`` bool, false at the padding.
        slot, feature: ``[B, n]`` int64; see :meth:`ViSpecModel.see`.
    """

    embeddings: Tensor
    shown: Tensor
    slot: Tensor
    feature: Tensor


@dataclass(frozen=True)
class ViSpecBatch:
    """The rows of a batch, and its images; ``None`` if it has none."""

    rows: RowBatch
    images: ImageBatch | None


def text_only_rows(sample: Sample) -> DrafterRows:
    """The text rows only, at their positions in the prompt."""
    kept = (~sample.visual).nonzero()[:, 0]
    return DrafterRows.of(kept, kept)


def vispec_rows(sample: Sample, queries: int) -> tuple[DrafterRows, Tensor, Tensor]:
    """The rows that :meth:`hivis.drafters.vispec.ViSpecDrafter.prefill` reads, in its order.

    Returns:
        The rows, and ``slot`` and ``feature`` ``[r]`` int64 for :meth:`ViSpecModel.see`, both
        numbered within the sample.
    """
    source: list[int] = []
    positions: list[int] = []
    slot: list[int] = []
    feature: list[int] = []

    def read(start: int, end: int, image: int) -> None:
        rows = range(start, end)
        source.extend(rows)
        positions.extend(rows)
        slot.extend(0 for _ in rows)
        feature.extend(image for _ in rows)

    start, seen = 0, 0
    for begin, end in sample.spans.tolist():
        read(start, begin - 1, seen)
        count = queries - 1
        source.extend([-1] * count)
        positions.extend(max(p, 0) for p in range(end - queries, end - 1))
        slot.extend(range(1 + seen * count, 1 + (seen + 1) * count))
        feature.extend([0] * count)
        seen += 1
        start = end - 1
    # The last row of a sample is only predicted.
    read(start, len(sample) - 1, seen)
    rows, places, slots, features = (
        torch.tensor(part, dtype=torch.int64) for part in (source, positions, slot, feature)
    )
    following = torch.where(rows < 0, 0, rows + 1)
    return DrafterRows(rows, following, places), slots, features


class ViSpecLearner:
    """A ViSpec drafter in training; see ``learner.py``.

    Stage 1 trains on text: visual rows are left out, g is 0, and the adaptor and ``img_fc`` are not
    trained. It is teacher-forced, with noise on the target's hidden states. Stage 2 has the images,
    and the drafter reads its own outputs; the noise is on the input of pass 0.

    Both stages use the losses and the row selection of HiViS, so that a comparison shows the effect
    of the drafters and not of the losses. The paper names cross entropy; the authors' script uses
    ten times the L1 distance of the two distributions and a tenth of a ranking loss over the
    target's ten most probable tokens, in two passes.
    """

    module: ViSpecModel

    def __init__(self, config: ViSpecConfig, target: TargetTables, settings: LayerSettings) -> None:
        check_target(config, target)
        self.config, self.target, self.settings = config, target, settings
        self.columns = Columns("edges", images=True)
        self.module = ViSpecModel(config).to(target.head.device)

    def stages(self) -> list[Stage]:
        s = self.settings
        first, second = s.split
        text = LossWeights(soft=s.soft, top=0.0)
        return s.stages(
            Stage("stage1", first, s.lr, text, noise=s.noise, images=False),
            Stage("stage2", second, s.lr, LossWeights(soft=s.soft), s.feedback, s.noise),
        )

    def description(self) -> dict[str, Any]:
        return asdict(self.config)

    def batch(self, samples: Sequence[Sample], stage: Stage) -> ViSpecBatch:
        if not stage.images:
            return ViSpecBatch(
                collate(samples, [text_only_rows(s) for s in samples], self.target), None
            )
        read = [vispec_rows(s, self.config.queries) for s in samples]
        rows = collate(samples, [own for own, _, _ in read], self.target)
        return ViSpecBatch(rows, self._images(samples, read))

    def _images(
        self, samples: Sequence[Sample], read: Sequence[tuple[DrafterRows, Tensor, Tensor]]
    ) -> ImageBatch | None:
        parts: list[Tensor] = []
        slots, features = [], []
        for sample, (_, slot, feature) in zip(samples, read, strict=True):
            before = len(parts)
            slots.append(slot + (slot > 0) * before * (self.config.queries - 1))
            features.append(feature + (feature > 0) * before)
            parts += cut_images(sample)
        if not parts:
            return None
        device = self.target.head.device
        shown = padded(torch.ones(len(part), dtype=torch.bool) for part in parts)
        return ImageBatch(
            padded(parts).to(device).float(),
            shown.to(device),
            padded(slots).to(device),
            padded(features).to(device),
        )

    def outputs(self, batch: ViSpecBatch, stage: Stage) -> Iterator[Tensor]:
        """Predicted hidden states of each pass; see :func:`forward_steps`."""
        rows, shown, seen = batch.rows, batch.images, None
        if shown is not None:
            seen = self.module.see(shown.embeddings, shown.shown, shown.slot, shown.feature)

        def join(start: int, hidden: Tensor, step: int) -> Tensor:
            return self.module.join(rows.following[:, start:], hidden, start, step, seen)

        return forward_steps(self.module, join, rows, stage.steps, stage.noise)

    def losses(self, batch: ViSpecBatch, stage: Stage) -> list[tuple[RowLosses, Tensor]]:
        outs = self.outputs(batch, stage)
        return pass_losses(outs, batch.rows, stage.steps, self.target.head)

    def drafter(self) -> ViSpecDrafter:
        drafter = ViSpecDrafter(self.config, copy_tensors(self.module))
        drafter.bind(self.target.embedding, self.target.head)
        return drafter

    def save(self, folder: Path) -> None:
        ViSpecDrafter(self.config, copy_tensors(self.module)).save(folder)


def cut_images(sample: Sample) -> list[Tensor]:
    """``[m, E]`` embeddings of each image of a sample; HivisError if they were not captured."""
    if not len(sample.spans):
        return []
    # Markers between an image's tiles do not belong to it.
    counts = [int(sample.visual[begin:end].sum()) for begin, end in sample.spans.tolist()]
    return list(image_embeddings(sample).split(counts))


def make_vispec(request: LearnerRequest) -> ViSpecLearner:
    """A learner for a fresh ViSpec drafter."""
    config = ViSpecConfig(**request.sizes.layer)
    return ViSpecLearner(config, request.target, LayerSettings.of(request))
