"""Padded batches of the rows that a one-layer drafter reads, from captured samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hivis.drafters.config import HiViSConfig
from hivis.drafters.hivis import rows_to_hide
from hivis.errors import HivisError
from hivis.training.data.samples import Sample
from hivis.training.learners.losses import TargetTables


@dataclass(frozen=True)
class DrafterRows:
    """The r rows that a drafter reads of one sample.

    Attributes:
        source: ``[r]`` int64, the row of the sample whose hidden state each row has; -1 for a
            row without one.
        following: ``[r]`` int64, the next row of the sample: the drafter's row is joined with its
            embedding and predicts its hidden state.
        positions: ``[r]`` int64, rotary positions.
    """

    source: Tensor
    following: Tensor
    positions: Tensor

    @classmethod
    def of(cls, kept: Tensor, positions: Tensor) -> DrafterRows:
        """From the ``kept`` rows ``[r + 1]`` of a sample; the last one is only predicted."""
        return cls(kept[:-1], kept[1:], positions[:-1])


@dataclass(frozen=True)
class RowBatch:
    """B samples as tensors on the learner's device, n rows each, padded at the end.

    Attributes:
        following: ``[B, n, E]`` embeddings of the tokens after the rows.
        hidden: ``[B, n, E]`` fp32, the target's hidden states; zeros where there is none.
        real: ``[B, n]`` bool, the rows with a hidden state.
        positions: ``[B, n]`` int64.
        answer: ``[B, n]`` bool, the R rows whose next token belongs to the answer.
        next_hidden: ``[R, E]`` fp32, the target's hidden states of these next tokens.
        first: the first row of ``answer`` in any sample.
    """

    following: Tensor
    hidden: Tensor
    real: Tensor
    positions: Tensor
    answer: Tensor
    next_hidden: Tensor
    first: int


def hivis_rows(sample: Sample, config: HiViSConfig) -> DrafterRows:
    """The rows that :class:`hivis.drafters.hivis.HiViSDrafter` reads, and their positions.

    Only rows of the prompt are hidden, as at inference.
    """
    rows, prompt = torch.arange(len(sample)), sample.prompt_rows
    if config.rows == "all":
        return DrafterRows.of(rows, rows)
    hide = rows_to_hide(sample.visual, config)
    hide[prompt:] = False
    kept = rows[~hide]
    positions = rows[: len(kept)]
    if config.positions == "original":
        # After the prompt, positions continue from the last of its rows that is not hidden.
        shown = int((~hide[:prompt]).sum())
        gap = int(kept[shown - 1]) + 1 - shown if shown else 0
        positions = torch.cat([kept[:shown], positions[shown:] + gap])
    return DrafterRows.of(kept, positions)


def collate(
    samples: Sequence[Sample], rows: Sequence[DrafterRows], target: TargetTables
) -> RowBatch:
    """Pad the rows of several samples, move them to the target's device, look up embeddings.

    Raises:
        HivisError: a sample does not have the target's hidden size, or lacks the embeddings of its
            images.
    """
    device, size = target.head.device, target.head.shape[1]
    tokens, hidden, real, answer, next_hidden, visual, images = [], [], [], [], [], [], []
    for sample, read in zip(samples, rows, strict=True):
        if sample.hidden.shape[1] != size:
            raise HivisError(
                f"captured data: wanted hidden size {size}, got {sample.hidden.shape[1]}"
            )
        real.append(read.source >= 0)
        answer.append(sample.answer[read.following] & real[-1])
        visual.append(sample.visual[read.following] & real[-1])
        # Visual rows have a placeholder instead of a token.
        tokens.append(sample.tokens[read.following] * ~sample.visual[read.following])
        states = sample.hidden_at(read.source.clamp(min=0))
        hidden.append(states * real[-1].unsqueeze(1).to(states.dtype))
        next_hidden.append(sample.hidden_at(read.following[answer[-1]]))
        if bool(visual[-1].any()):
            images.append(image_embeddings(sample)[_rank(sample, read.following[visual[-1]])])
    answers = padded(answer)
    embeddings = F.embedding(padded(tokens).to(device), target.embedding)
    if images:
        embeddings[padded(visual).to(device)] = torch.cat(images).to(device, embeddings.dtype)
    columns = answers.any(0).nonzero()
    return RowBatch(
        following=embeddings,
        hidden=padded(hidden).to(device).float(),
        real=padded(real).to(device),
        positions=padded(r.positions for r in rows).to(device),
        answer=answers.to(device),
        next_hidden=torch.cat(next_hidden).to(device).float(),
        first=int(columns[0]) if len(columns) else answers.shape[1] - 1,
    )


def padded(parts: Iterable[Tensor]) -> Tensor:
    """``[B, n, ..]``, the parts padded with zeros at the end; n is at least 1."""
    stacked = pad_sequence(list(parts), batch_first=True)
    if stacked.shape[1]:
        return stacked
    return stacked.new_zeros(stacked.shape[0], 1, *stacked.shape[2:])


def image_embeddings(sample: Sample) -> Tensor:
    """``[visual rows, E]`` image embeddings of a sample; HivisError if they are not captured."""
    if sample.images is None:
        raise HivisError("captured data: wanted embeddings of the visual rows, got none")
    return sample.images


def _rank(sample: Sample, rows: Tensor) -> Tensor:
    """Of each visual row, its index among the visual rows."""
    return sample.visual.cumsum(0)[rows] - 1
