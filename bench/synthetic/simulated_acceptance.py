"""Simulated acceptance: cycles that do all their work, and then accept what a list says.

The drafter grows its tree and the target verifies it, the walk draws at it; then its path is
replaced by a path of the same tree to a node of the depth that is next on a list. So compaction,
commit and everything after them have the work that a real text would give them. Lists and paths lie
on the device and are read by a counter there: no value is read on the host, and every shape is
fixed, so that such a cycle can be captured in a CUDA graph.

A drafter with random weights is as unsure of every token as of any other, which makes its trees
shallow: the best 59 nodes then are on two levels. So its trees keep their tokens and get a fixed
shape in which every depth is reached (:func:`rank_parents`).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hivis.core.handoff import Acceptance, VerifyResult
from hivis.core.sampling import SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.config import HiViSConfig, LayerConfig, ViSpecConfig
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.engine.cycle import accept
from hivis.errors import HivisError

LABEL = "simulated acceptance"
#: How many cycles are drawn; after them the list begins again.
CYCLES = 4096


def rank_parents(nodes: int, depth: int, top_k: int) -> list[int]:
    """The parents of a tree in which a k-th best child costs k - 1: of all, the cheapest nodes.

    The chain of best children costs nothing and is always there, so every depth is reached; around
    it is what a drafter would add that is twice as unsure of every next child. Level by level, -1
    at the root.

    Raises:
        HivisError: there are too few nodes for the depth.
    """
    if nodes < depth + 1:
        raise HivisError(
            f"--nodes: wanted at least {depth + 1} to reach depth {depth}, got {nodes}"
        )
    heap: list[tuple[int, int, tuple[int, ...]]] = [(0, 1, (0,))]
    chosen: list[tuple[int, ...]] = []
    while len(chosen) < nodes - 1 and heap:
        cost, level, ranks = heapq.heappop(heap)
        chosen.append(ranks)
        if ranks[-1] + 1 < top_k:  # the next sibling
            heapq.heappush(heap, (cost + 1, level, (*ranks[:-1], ranks[-1] + 1)))
        if level < depth:
            heapq.heappush(heap, (cost, level + 1, (*ranks, 0)))
    ordered = sorted(chosen, key=lambda ranks: (len(ranks), ranks))
    place = {(): 0} | {ranks: number for number, ranks in enumerate(ordered, start=1)}
    return [-1] + [place[ranks[:-1]] for ranks in ordered]


def paths_by_depth(parents: Sequence[int], depth: int) -> list[list[int]]:
    """For every depth the path to the last node that lies there, the root first.

    After its end a path repeats its last node, as :class:`hivis.core.handoff.Acceptance` does.
    """
    paths = [[0]]
    for node, parent in enumerate(parents):
        path = [node]
        while path[0] > 0:
            path.insert(0, parents[path[0]])
        if parent >= 0:
            paths[len(path) - 1 :] = [path]  # nodes of a level follow each other
    return [path + path[-1:] * (depth + 1 - len(path)) for path in paths]


@dataclass(frozen=True)
class TreeForm:
    """Trees of one form on a device; fields as of :class:`hivis.core.tree.DraftTree`, B = 1."""

    shape: TreeShape
    parents: Tensor
    depths: Tensor
    ancestors: Tensor

    @classmethod
    def of(cls, shape: TreeShape, device: torch.device) -> TreeForm:
        parents = torch.tensor([rank_parents(shape.nodes, shape.depth, shape.top_k)])
        tree = DraftTree.from_parents(torch.zeros_like(parents), parents, shape.depth)
        return cls(
            shape, tree.parents.to(device), tree.depths.to(device), tree.ancestors.to(device)
        )

    def carrying(self, tokens: Tensor) -> DraftTree:
        """The tree of this form with ``tokens`` ``[1, N]``."""
        return DraftTree(tokens, self.parents, self.depths, self.ancestors, self.shape.depth)


class Replay:
    """Verdicts that accept what a list says.

    Args:
        lengths: accepted lengths of the cycles to come, each at most the depth of the trees.
    """

    def __init__(self, lengths: Sequence[int], form: TreeForm) -> None:
        device, depth, nodes = form.parents.device, form.shape.depth, form.shape.nodes
        paths = paths_by_depth(form.parents[0].tolist(), depth)
        # Of every length the path and how long it is, and where what follows each of its nodes
        # stands among the tree's tokens and the one that is drawn behind them.
        found = [[*path, length + 1] for length, path in enumerate(paths)]
        after = [
            [*path[1 : length + 1], *[nodes] * (depth + 1 - length)]
            for length, path in enumerate(paths)
        ]
        chosen = list(lengths)
        self._found = torch.tensor(found, dtype=torch.int32)[chosen].to(device)
        self._after = torch.tensor(after)[chosen].to(device)
        self._next = torch.zeros(1, dtype=torch.int64, device=device)

    def restart(self) -> None:
        """The next cycle is the first of the list again."""
        self._next.zero_()

    def accept(
        self, verify: VerifyResult, tree: DraftTree, position: Tensor, sampling: SamplingState
    ) -> Acceptance:
        """As :func:`hivis.engine.cycle.accept`, whose walk is done and whose path gives way to the
        next."""
        return self.instead_of(accept(verify, tree, position, sampling), tree)

    def instead_of(self, acceptance: Acceptance, tree: DraftTree) -> Acceptance:
        """``acceptance`` with the path that is next; the token after it stays as it was drawn."""
        found = self._found.index_select(0, self._next)
        after = self._after.index_select(0, self._next)
        self._next.add_(1).remainder_(len(self._found))
        tokens = torch.cat([tree.tokens, acceptance.next_token.unsqueeze(1)], 1)
        return Acceptance(
            found[:, :-1], found[:, -1], acceptance.next_token, tokens.gather(1, after)
        )


class _Shaped(OneLayerDrafter):
    """Mixed in before a drafter: its trees get their fixed form."""

    form: TreeForm

    @torch.inference_mode()
    def grow(
        self, token: Tensor, position: Tensor, sampling: SamplingState, plan: GrowthPlan
    ) -> DraftTree:
        return self.form.carrying(super().grow(token, position, sampling, plan).tokens)


class ShapedHiViS(_Shaped, HiViSDrafter):
    """A HiViS drafter whose trees reach every depth."""


class ShapedViSpec(_Shaped, ViSpecDrafter):
    """A ViSpec drafter likewise."""


def shaped_drafter(
    config: LayerConfig, tensors: dict[str, Tensor], form: TreeForm
) -> ShapedHiViS | ShapedViSpec:
    """The drafter of this configuration with trees of this form."""
    made: Any
    if isinstance(config, HiViSConfig):
        made = ShapedHiViS(config, tensors)
    else:
        assert isinstance(config, ViSpecConfig)
        made = ShapedViSpec(config, tensors)
    made.form = form
    return made
