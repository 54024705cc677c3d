"""How close two tokens were where two outputs diverge.

In bfloat16 a pass over a tree may round differently from a plain step.
"""

from __future__ import annotations

import torch

from hivis import ops
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs, Target
from hivis.errors import HivisError


def margin_at_divergence(
    target: Target,
    inputs: Inputs,
    mine: tuple[int, ...],
    theirs: tuple[int, ...],
    params: SamplingParams,
) -> float:
    """Difference of the perturbed scores of the first two tokens that differ.

    The scores are those of one more pass over the tokens that both share, which rounds in a third
    way.

    Raises:
        HivisError: one of the outputs begins with the other.
    """
    shared = 0
    while mine[shared : shared + 1] == theirs[shared : shared + 1]:
        shared += 1
    if shared >= min(len(mine), len(theirs)):
        raise HivisError("outputs: wanted two that diverge, got one that begins with the other")
    prefix = torch.tensor([mine[:shared]], dtype=torch.int64, device=inputs.tokens.device)
    longer = Inputs(torch.cat([inputs.tokens, prefix], dim=1), inputs.features)
    scores = target.prefill(longer, "none", longer.length).logits.float()
    if params.temperature > 0:
        seed = torch.tensor([params.seed], device=scores.device)
        noise = ops.shared_noise(seed, torch.full_like(seed, longer.length), 1, scores.shape[1])
        scores = scores / params.temperature + noise[:, 0]
    return float((scores[0, mine[shared]] - scores[0, theirs[shared]]).abs())
