"""Drafters for tests: one that guesses at random, one that is always wrong, one always right."""

from __future__ import annotations

import torch
from torch import Tensor

from hivis.core.handoff import Acceptance, DrafterPrompt
from hivis.core.sampling import SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan


def random_parents(nodes: int, max_depth: int, make: torch.Generator) -> list[int]:
    """Parents of a random tree no deeper than ``max_depth``."""
    parents, depths = [-1], [0]
    while len(parents) < nodes:
        above = int(torch.randint(0, len(parents), (1,), generator=make))
        if depths[above] < max_depth:
            parents.append(above)
            depths.append(depths[above] + 1)
    return parents


class RandomDrafter:
    """Grows random trees and fills them with what :meth:`children` says, siblings distinct."""

    rows = "text"

    def __init__(self, vocab: int, seed: int = 0) -> None:
        self.vocab = vocab
        self.make = torch.Generator().manual_seed(seed)
        self.prompt: DrafterPrompt | None = None
        self.position = 0

    def bind(self, embedding: Tensor, head: Tensor) -> None:
        assert embedding.shape == head.shape

    def prefill(self, prompt: DrafterPrompt, token: Tensor, max_rows: int) -> None:
        self.prompt, self.rows_read = prompt, prompt.rows

    def commit(self, hidden: Tensor, tree: DraftTree, acceptance: Acceptance) -> None:
        assert hidden.shape[:2] == tree.tokens.shape

    def children(self, parent_position: int, on_truth: bool, count: int) -> list[tuple[int, bool]]:
        """``count`` distinct tokens to hang under a node, each with whether it is the truth."""
        picks = torch.randperm(self.vocab, generator=self.make)[:count].tolist()
        return [(token, False) for token in picks]

    def grow(
        self, token: Tensor, position: Tensor, sampling: SamplingState, plan: GrowthPlan
    ) -> DraftTree:
        parents = random_parents(plan.shape.nodes, plan.shape.depth, self.make)
        depths, tokens, truth = [0], [int(token)], [True]
        below: dict[int, list[int]] = {}
        for node, above in enumerate(parents[1:], start=1):
            below.setdefault(above, []).append(node)
            depths.append(depths[above] + 1)
        tokens += [0] * (len(parents) - 1)
        truth += [False] * (len(parents) - 1)
        for node in range(len(parents)):
            kids = below.get(node, [])
            guesses = self.children(int(position) + depths[node], truth[node], len(kids))
            for kid, (guess, right) in zip(kids, guesses, strict=True):
                tokens[kid], truth[kid] = guess, right
        return DraftTree.from_parents(
            torch.tensor([tokens], device=token.device),
            torch.tensor([parents], dtype=torch.int32, device=token.device),
            plan.shape.depth,
        )


class OracleDrafter(RandomDrafter):
    """Has the plain text at hand. ``right`` decides whether it helps or hinders."""

    def __init__(self, vocab: int, prompt_length: int, text: tuple[int, ...], right: bool) -> None:
        super().__init__(vocab)
        self.truth = dict(enumerate(text, start=prompt_length))
        self.right = right

    def children(self, parent_position: int, on_truth: bool, count: int) -> list[tuple[int, bool]]:
        true = self.truth.get(parent_position) if on_truth else None
        others = [token for token in range(self.vocab) if token != true][:count]
        if self.right and true is not None and count:
            return [(token, False) for token in others[: count - 1]] + [(true, True)]
        return [(token, False) for token in others]
