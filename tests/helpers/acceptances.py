"""What the walk says of paths that a test has chosen itself."""

from __future__ import annotations

import torch
from torch import Tensor

from hivis.core.handoff import Acceptance
from hivis.core.tree import DraftTree


def acceptance_of(
    tree: DraftTree, path: Tensor, path_len: Tensor, next_token: Tensor
) -> Acceptance:
    """Of path ``[B, M]`` int32, ``path_len`` and ``next_token`` ``[B]``: what follows each node."""
    emitted = torch.cat([tree.tokens.gather(1, path[:, 1:].long()), next_token.unsqueeze(1)], 1)
    past_end = torch.arange(path.shape[1]) >= path_len.unsqueeze(1) - 1
    return Acceptance(
        path, path_len, next_token, torch.where(past_end, next_token.unsqueeze(1), emitted)
    )
