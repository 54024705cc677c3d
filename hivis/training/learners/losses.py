"""What a drafter is trained on: the target's hidden states and the target's distribution."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TOP_LOSS = 10
TOP_HIT = 5
#: How many logits autograd may keep at a time: 256 MiB in fp32.
MAX_LOGITS = 1 << 26


@dataclass(frozen=True)
class TargetTables:
    """The parts of the target that a drafter shares, both ``[V, E]`` fp32 and frozen."""

    embedding: Tensor
    head: Tensor


@dataclass(frozen=True)
class LossWeights:
    """Of SmoothL1 on the hidden states, soft cross entropy, and the top-10 loss."""

    feature: float = 1.0
    soft: float = 0.1
    top: float = 1.0


@dataclass(frozen=True)
class TargetRows:
    """The target's side of R rows, computed once for all passes.

    Attributes:
        hidden: ``[R, E]``; probability: ``[R, V]``; top: ``[R, 10]`` its most probable tokens.
    """

    hidden: Tensor
    probability: Tensor
    top: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, hidden: Tensor, head: Tensor) -> TargetRows:
        rows, vocab = len(hidden), len(head)
        probability = torch.empty(rows, vocab, device=hidden.device)
        top = torch.empty(rows, min(TOP_LOSS, vocab), dtype=torch.int64, device=hidden.device)
        for part in _parts(rows, vocab):
            torch.softmax(F.linear(hidden[part], head).float(), -1, out=probability[part])
            top[part] = probability[part].topk(top.shape[1]).indices
        return cls(hidden, probability, top)

    def __getitem__(self, rows: slice) -> TargetRows:
        return TargetRows(self.hidden[rows], self.probability[rows], self.top[rows])


@dataclass(frozen=True)
class RowLosses:
    """Loss terms and hits of R rows, ``[R]`` each.

    ``hit`` says whether the target's best token is among the drafter's best five, ``first``
    whether it is its very best.
    """

    feature: Tensor
    soft: Tensor
    top: Tensor
    hit: Tensor
    first: Tensor

    def total(self, weights: LossWeights, keep: Tensor) -> Tensor:
        """Weighted sum of the means over the kept rows; 0 if none is kept."""
        each = weights.feature * self.feature + weights.soft * self.soft + weights.top * self.top
        return masked_mean(each, keep)


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Mean of ``values`` where ``keep``; 0 if it is nowhere."""
    return (values * keep).sum() / keep.sum().clamp(min=1)


def logit_losses(logits: Tensor, wanted: TargetRows) -> RowLosses:
    """Compare a drafter's logits ``[R, V]`` with the target's; the feature term is 0.

    The top-10 loss is the cross entropy restricted to the target's ten most probable tokens
    (HASS, arXiv 2408.15766, section 3.1).
    """
    log_q = torch.log_softmax(logits.float(), -1)
    soft = -(wanted.probability * log_q).sum(-1)
    top_p = wanted.probability.gather(1, wanted.top)
    top = -(top_p * log_q.gather(1, wanted.top)).sum(-1)
    with torch.no_grad():
        # Written so that a NaN is better than the target's best token: no hit then.
        better = (~(log_q <= log_q.gather(1, wanted.top[:, :1]))).sum(-1)
    return RowLosses(torch.zeros_like(soft), soft, top, better < TOP_HIT, better == 0)


def head_losses(hidden: Tensor, head: Tensor, wanted: TargetRows) -> RowLosses:
    """:func:`logit_losses` of the logits ``hidden [R, e] @ head [V, e]``.

    With a large vocabulary, part by part, and each part again on the way back: otherwise autograd
    keeps several tensors ``[R, V]`` per pass.
    """

    def compare(part: Tensor, wanted: TargetRows) -> RowLosses:
        return logit_losses(F.linear(part, head), wanted)

    parts = _parts(len(hidden), len(head))
    if len(parts) == 1:
        return compare(hidden, wanted)
    losses = [
        checkpoint(compare, hidden[part], wanted[part], use_reentrant=False) for part in parts
    ]
    names = [field.name for field in fields(RowLosses)]
    return RowLosses(**{name: torch.cat([getattr(x, name) for x in losses]) for name in names})


def row_losses(hidden: Tensor, wanted: TargetRows, head: Tensor) -> RowLosses:
    """Compare predicted hidden states ``[R, E]`` with the target's."""
    feature = F.smooth_l1_loss(hidden.float(), wanted.hidden, reduction="none").mean(-1)
    return replace(head_losses(hidden, head, wanted), feature=feature)


def _parts(rows: int, vocab: int) -> list[slice]:
    """Runs of rows with at most ``MAX_LOGITS`` logits each; one empty run of no rows."""
    size = max(1, MAX_LOGITS // vocab)
    return [slice(start, start + size) for start in range(0, max(rows, 1), size)]
