"""What a drafter is trained on: the target's hidden states and the target's distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TOP_LOSS = 10
TOP_HIT = 5


@dataclass(frozen=True)
class LossWeights:
    """Of SmoothL1 on the hidden states, soft cross entropy, and the top-10 loss."""

    feature: float = 1.0
    soft: float = 0.1
    top: float = 1.0


@dataclass(frozen=True)
class Wanted:
    """The target's side of R rows, computed once for all steps.

    Attributes:
        hidden: ``[R, E]``; probability: ``[R, V]``; top: ``[R, 10]`` its most probable tokens.
    """

    hidden: Tensor
    probability: Tensor
    top: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, hidden: Tensor, head: Tensor) -> Wanted:
        probability = torch.softmax(F.linear(hidden, head).float(), -1)
        count = min(TOP_LOSS, probability.shape[-1])
        return cls(hidden, probability, probability.topk(count).indices)


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


def row_losses(hidden: Tensor, wanted: Wanted, head: Tensor) -> RowLosses:
    """Compare predicted hidden states ``[R, E]`` with the target's.

    The top-10 loss is the cross entropy restricted to the target's ten most probable tokens
    (HASS, arXiv 2408.15766, section 3.1).
    """
    feature = F.smooth_l1_loss(hidden.float(), wanted.hidden, reduction="none").mean(-1)
    log_q = torch.log_softmax(F.linear(hidden, head).float(), -1)
    soft = -(wanted.probability * log_q).sum(-1)
    top_p = wanted.probability.gather(1, wanted.top)
    top = -(top_p * log_q.gather(1, wanted.top)).sum(-1)
    with torch.no_grad():
        best = wanted.top[:, :1]
        guesses = log_q.topk(min(TOP_HIT, log_q.shape[-1])).indices
        hits = guesses == best
    return RowLosses(feature, soft, top, hits.any(-1), hits[:, 0])
