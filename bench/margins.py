"""How close a call it was where two texts part (in bfloat16 a tree pass may round differently)."""

from __future__ import annotations

import torch

from hivis import ops
from hivis.sampling import SamplingParams
from hivis.targets.base import Inputs, Target


def top_two_margin(
    target: Target, inputs: Inputs, mine: tuple[int, ...], theirs: tuple[int, ...],
    params: SamplingParams,
) -> float:  # fmt: skip
    """Difference of the two best perturbed scores at the first token that differs."""
    shared = 0
    while shared < min(len(mine), len(theirs)) and mine[shared] == theirs[shared]:
        shared += 1
    prefix = torch.tensor([mine[:shared]], dtype=torch.int64, device=inputs.tokens.device)
    longer = Inputs(torch.cat([inputs.tokens, prefix], dim=1), inputs.features)
    scores = target.prefill(longer, "none", longer.length).logits.float()
    if params.temperature > 0:
        seed = torch.tensor([params.seed], device=scores.device)
        noise = ops.shared_noise(seed, torch.full_like(seed, longer.length), 1, scores.shape[1])
        scores = scores / params.temperature + noise[:, 0]
    best = scores.topk(2, dim=1).values[0]
    return float(best[0] - best[1])
