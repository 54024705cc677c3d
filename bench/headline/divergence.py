"""How close a call it was where two texts part (in bfloat16 a tree pass may round differently)."""

from __future__ import annotations

import torch

from hivis import ops
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs, Target
from hivis.errors import HivisError


def margin_where_they_part(
    target: Target,
    inputs: Inputs,
    mine: tuple[int, ...],
    theirs: tuple[int, ...],
    params: SamplingParams,
) -> float:
    """Difference of the perturbed scores of the two tokens that were chosen there.

    The scores are those of one more pass, over the text that both share: a third rounding.
    """
    shared = 0
    while mine[shared : shared + 1] == theirs[shared : shared + 1]:
        shared += 1
    if shared >= min(len(mine), len(theirs)):
        raise HivisError("texts: wanted two that part, got one that begins with the other")
    prefix = torch.tensor([mine[:shared]], dtype=torch.int64, device=inputs.tokens.device)
    longer = Inputs(torch.cat([inputs.tokens, prefix], dim=1), inputs.features)
    scores = target.prefill(longer, "none", longer.length).logits.float()
    if params.temperature > 0:
        seed = torch.tensor([params.seed], device=scores.device)
        noise = ops.shared_noise(seed, torch.full_like(seed, longer.length), 1, scores.shape[1])
        scores = scores / params.temperature + noise[:, 0]
    return float((scores[0, mine[shared]] - scores[0, theirs[shared]]).abs())
