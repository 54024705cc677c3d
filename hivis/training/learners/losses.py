"""The loss terms of drafters: the target's hidden states and the target's distribution."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: How many of the target's best tokens the top loss covers, and of the drafter's best are a hit.
TOP_LOSS = 10
TOP_HIT = 5
#: The most logits that autograd keeps at a time: 256 MiB in fp32.
MAX_LOGITS = 1 << 26


@dataclass(frozen=True)
class TargetTables:
    """The target's embedding and head, which a drafter shares: ``[V, E]`` fp32 each, frozen."""

    embedding: Tensor
    head: Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of SmoothL1 on the hidden states, soft cross entropy, and the top-10 loss."""

    feature: float = 1.0
    soft: float = 0.1
    top: float = 1.0


@dataclass(frozen=True)
class TargetRows:
    """The target's values at R rows, computed once for all passes.

    Attributes:
        hidden: ``[R, E]`` hidden states.
        probability: ``[R, V]`` fp32, the target's distribution.
        top: ``[R, 10]`` int64, its most probable tokens.
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

    Attributes:
        feature: SmoothL1 on the hidden states.
        soft: soft cross entropy.
        top: the top-10 loss.
        hit: bool, whether the target's best token is among the drafter's best five.
        first: bool, whether it is the drafter's best token.
    """

    feature: Tensor
    soft: Tensor
    top: Tensor
    hit: Tensor
    first: Tensor

    def total(self, weights: LossWeights, keep: Tensor) -> Tensor:
        """Weighted sum of each term's mean over the rows of ``keep``; 0 if there are none."""
        each = weights.feature * self.feature + weights.soft * self.soft + weights.top * self.top
        return masked_mean(each, keep)


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Mean of ``values`` where ``keep`` is true; 0 if it is true nowhere."""
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
        # Written so that a NaN counts as better than the target's best token, so it is no hit.
        better = (~(log_q <= log_q.gather(1, wanted.top[:, :1]))).sum(-1)
    return RowLosses(torch.zeros_like(soft), soft, top, better < TOP_HIT, better == 0)


def head_losses(hidden: Tensor, head: Tensor, wanted: TargetRows) -> RowLosses:
    """:func:`logit_losses` of the logits ``hidden [R, e] @ head [V, e]``.

    With a large vocabulary it is computed in parts, and each part again in the backward pass:
    otherwise autograd keeps several tensors ``[R, V]`` per pass.
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
    """Slices of rows with at most ``MAX_LOGITS`` logits each; at least one slice."""
    size = max(1, MAX_LOGITS // vocab)
    return [slice(start, start + size) for start in range(0, max(rows, 1), size)]
