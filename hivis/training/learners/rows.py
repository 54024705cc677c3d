"""From samples to padded batches of the rows that a one-layer drafter reads."""

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
        source: ``[r]`` int64, which row of the sample each is: it holds that row's hidden state;
            -1 where it holds something else.
        following: ``[r]`` int64, the row of the sample that comes after it: the row is joined with
            its embedding, and predicts its hidden state.
        positions: ``[r]`` int64, rotary positions.
    """

    source: Tensor
    following: Tensor
    positions: Tensor

    @classmethod
    def of(cls, kept: Tensor, positions: Tensor) -> DrafterRows:
        """Of the ``kept`` rows ``[r + 1]`` of a sample; the last of them only follows."""
        return cls(kept[:-1], kept[1:], positions[:-1])


@dataclass(frozen=True)
class RowBatch:
    """B samples as tensors on the learner's device, n rows each, padded behind.

    Attributes:
        following: ``[B, n, E]`` embeddings of the tokens after the rows.
        hidden: ``[B, n, E]`` the target's hidden states; zeros where there is none.
        real: ``[B, n]`` bool, rows with a hidden state.
        positions: ``[B, n]`` int64.
        answer: ``[B, n]`` bool, rows whose next token is of the answer: R in all.
        goal: ``[R, E]`` the target's hidden states of these tokens.
        first: the first row that is one of them in any sample.
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

    Nothing of the answer is hidden: at inference, only rows of the prompt are.
    """
    rows, prompt = torch.arange(len(sample)), sample.prompt_rows
    if config.rows == "all":
        return DrafterRows.of(rows, rows)
    hide = rows_to_hide(sample.visual, config)
    hide[prompt:] = False
    kept = rows[~hide]
    positions = rows[: len(kept)]
    if config.positions == "original":
        # Behind the prompt, positions go on from its last row that is read.
        read = int((~hide[:prompt]).sum())
        gap = int(kept[read - 1]) + 1 - read if read else 0
        positions = torch.cat([kept[:read], positions[read:] + gap])
    return DrafterRows.of(kept, positions)


def collate(
    samples: Sequence[Sample], readings: Sequence[DrafterRows], target: TargetTables
) -> RowBatch:
    """Pad, move to the target's device, and look up embeddings.

    Raises:
        HivisError: a sample is not of the target's sizes, or lacks embeddings of its images.
    """
    device, size = target.head.device, target.head.shape[1]
    tokens, hidden, real, answer, next_hidden, visual, images = [], [], [], [], [], [], []
    for sample, reading in zip(samples, readings, strict=True):
        if sample.hidden.shape[1] != size:
            raise HivisError(
                f"captured data: wanted hidden size {size}, got {sample.hidden.shape[1]}"
            )
        real.append(reading.source >= 0)
        answer.append(sample.answer[reading.following] & real[-1])
        visual.append(sample.visual[reading.following] & real[-1])
        # What stands at a visual row is no token.
        tokens.append(sample.tokens[reading.following] * ~sample.visual[reading.following])
        states = sample.hidden_at(reading.source.clamp(min=0))
        hidden.append(states * real[-1].unsqueeze(1).to(states.dtype))
        next_hidden.append(sample.hidden_at(reading.following[answer[-1]]))
        if bool(visual[-1].any()):
            images.append(image_embeddings(sample)[_rank(sample, reading.following[visual[-1]])])
    answers = padded(answer)
    embeddings = F.embedding(padded(tokens).to(device), target.embedding)
    if images:
        embeddings[padded(visual).to(device)] = torch.cat(images).to(device, embeddings.dtype)
    columns = answers.any(0).nonzero()
    return RowBatch(
        following=embeddings,
        hidden=padded(hidden).to(device).float(),
        real=padded(real).to(device),
        positions=padded(r.positions for r in readings).to(device),
        answer=answers.to(device),
        next_hidden=torch.cat(next_hidden).to(device).float(),
        first=int(columns[0]) if len(columns) else answers.shape[1] - 1,
    )


def padded(parts: Iterable[Tensor]) -> Tensor:
    """``[B, n, ..]``, zeros behind the shorter parts; n is at least 1."""
    stacked = pad_sequence(list(parts), batch_first=True)
    if stacked.shape[1]:
        return stacked
    return stacked.new_zeros(stacked.shape[0], 1, *stacked.shape[2:])


def image_embeddings(sample: Sample) -> Tensor:
    """``[visual rows, E]``; HivisError if the capture did not keep them."""
    if sample.images is None:
        raise HivisError("captured data: wanted embeddings of the visual rows, got none")
    return sample.images


def _rank(sample: Sample, rows: Tensor) -> Tensor:
    return sample.visual.cumsum(0)[rows] - 1
