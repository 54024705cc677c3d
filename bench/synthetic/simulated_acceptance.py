"""Simulated acceptance: cycles that do all their work, and then accept the next length of a list.

The drafter grows its tree, the target verifies it, and the walk draws tokens at its nodes; then the
walk's path is replaced by a path of the same tree to a node of the depth that is next on the list.
Compaction, commit and everything after them thus have the work of a real output. Lists and paths
lie on the device and are indexed by a counter there: no value is read on the host, and every shape
is fixed, so that such a cycle can be captured in a CUDA graph.

A drafter with random weights is equally unsure of all tokens, which makes its trees shallow: the
best 59 nodes are on two levels. Its trees therefore keep their tokens and get a fixed form in which
every depth is reached (:func:`bench.common.trees.rank_parents`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.common.trees import rank_parents
from hivis.core.handoff import Acceptance, VerifyResult
from hivis.core.sampling import SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.engine.cycle import accept

LABEL = "simulated acceptance"
#: How many lengths are drawn; after them the list begins again.
CYCLES = 4096


def paths_by_depth(parents: Sequence[int], depth: int) -> list[list[int]]:
    """For every depth the path to its last node, the root first.

    A path is padded with its last node, as in :class:`hivis.core.handoff.Acceptance`.
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
class FixedTree:
    """The form of all trees of a run, on a device.

    Fields are those of :class:`hivis.core.tree.DraftTree` with B = 1.
    """

    shape: TreeShape
    parents: Tensor
    depths: Tensor
    ancestors: Tensor

    @classmethod
    def of(cls, shape: TreeShape, device: torch.device) -> FixedTree:
        parents = torch.tensor([rank_parents(shape.nodes, shape.depth, shape.top_k)])
        tree = DraftTree.from_parents(torch.zeros_like(parents), parents, shape.depth)
        return cls(
            shape, tree.parents.to(device), tree.depths.to(device), tree.ancestors.to(device)
        )

    def with_tokens(self, tokens: Tensor) -> DraftTree:
        """A tree of this form with ``tokens`` ``[1, N]``."""
        return DraftTree(tokens, self.parents, self.depths, self.ancestors, self.shape.depth)


class Replay:
    """Accepts the lengths of a list, one after another.

    Args:
        lengths: accepted lengths of the cycles to come, each at most the depth of the trees.
    """

    def __init__(self, lengths: Sequence[int], tree: FixedTree) -> None:
        device, depth, nodes = tree.parents.device, tree.shape.depth, tree.shape.nodes
        paths = paths_by_depth(tree.parents[0].tolist(), depth)
        # For every length: the path and its number of nodes; and where the token after each of its
        # nodes lies among the tree's tokens, followed by the token that is drawn last.
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
        """Begin with the first length of the list again."""
        self._next.zero_()

    def accept(
        self, verify: VerifyResult, tree: DraftTree, position: Tensor, sampling: SamplingState
    ) -> Acceptance:
        """Run the walk of :func:`hivis.engine.cycle.accept`, then replace its path."""
        return self.replace_path(accept(verify, tree, position, sampling), tree)

    def replace_path(self, acceptance: Acceptance, tree: DraftTree) -> Acceptance:
        """``acceptance`` with the path that is next; the token after it stays as drawn."""
        found = self._found.index_select(0, self._next)
        after = self._after.index_select(0, self._next)
        self._next.add_(1).remainder_(len(self._found))
        tokens = torch.cat([tree.tokens, acceptance.next_token.unsqueeze(1)], 1)
        return Acceptance(
            found[:, :-1], found[:, -1], acceptance.next_token, tokens.gather(1, after)
        )


def fix_trees(drafter: OneLayerDrafter, tree: FixedTree) -> None:
    """Let the trees of a drafter keep their tokens and get the form of ``tree``."""
    grow = drafter.grow

    @torch.inference_mode()
    def grow_fixed(
        token: Tensor, position: Tensor, sampling: SamplingState, plan: GrowthPlan
    ) -> DraftTree:
        return tree.with_tokens(grow(token, position, sampling, plan).tokens)

    drafter.grow = grow_fixed  # type: ignore[method-assign]
