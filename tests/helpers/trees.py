"""Paths through draft trees, and what acceptance says of paths that a test has chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from hivis.core.handoff import Acceptance
from hivis.core.tree import DraftTree


def path_to(tree: DraftTree, b: int, node: int) -> list[int]:
    """The nodes from the root to ``node``, both included, in the tree of sequence ``b``."""
    path = [node]
    while path[0]:
        path.insert(0, int(tree.parents[b, path[0]]))
    return path


def token_paths(tree: DraftTree, b: int = 0) -> set[tuple[int, ...]]:
    """Every node of the tree of sequence ``b`` as the tokens from the root to it."""
    return {tuple(tree.tokens[b][path_to(tree, b, node)].tolist()) for node in range(tree.nodes)}


def acceptance_of(
    tree: DraftTree, path: Tensor, path_len: Tensor, next_token: Tensor
) -> Acceptance:
    """Of path ``[B, M]`` int32, ``path_len`` and ``next_token`` ``[B]``: what follows each node."""
    emitted = torch.cat([tree.tokens.gather(1, path[:, 1:].long()), next_token.unsqueeze(1)], 1)
    past_end = torch.arange(path.shape[1]) >= path_len.unsqueeze(1) - 1
    return Acceptance(
        path, path_len, next_token, torch.where(past_end, next_token.unsqueeze(1), emitted)
    )
