"""Tree growth by brute force, with a drafter that is a pure function of the path."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hivis.core.tree import DraftTree, ancestor_words
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.tree_growth import Grower, NodeScores

VOCAB = 37
GREEDY = NodeScores(None, None)


def path_logits(path: tuple[int, ...], kind: str) -> Tensor:
    """``[V]`` logits that depend on the whole path of tokens from the root."""
    code = 7
    for token in path:
        code = (code * 131 + token + 1) % 1_000_003
    make = torch.Generator().manual_seed(code)
    logits = torch.randn(VOCAB, generator=make) * 2
    if kind == "certain":  # one token with probability 1: the path score does not drop at all
        logits[code % VOCAB] += 200
    if kind == "flat":  # every candidate ties
        logits = torch.zeros(VOCAB)
    if kind == "broken" and code % 3 == 0:
        logits[:] = float("nan")
    return logits


@dataclass
class PathDrafter:
    """Finds the path of a frontier node from its ancestor words over the drafter's own rows."""

    token: Tensor
    kind: str = "random"
    drawn: list[Tensor] = field(default_factory=list)

    def root(self) -> tuple[Tensor, Tensor]:
        logits = torch.stack([path_logits((int(t),), self.kind) for t in self.token])
        return logits, self.token.unsqueeze(1).float()

    def step(self, level: int, tokens: Tensor, before: Tensor, words: Tensor):
        batch, k = tokens.shape
        self.drawn.append(tokens)
        rows = torch.cat(self.drawn, 1)
        assert rows.shape[1] == level * k
        logits = torch.empty(batch, k, VOCAB)
        output = tokens.unsqueeze(2).float()
        for b in range(batch):
            for n in range(k):
                bits = [j for j in range(level * k) if words[b, n, j // 64] >> (j % 64) & 1]
                path = (int(self.token[b]), *(int(rows[b, j]) for j in bits))
                assert len(bits) == level and bits[-1] == (level - 1) * k + n
                # The output handed back is that of the parent.
                assert int(before[b, n, 0]) == path[-2]
                logits[b, n] = path_logits(path, self.kind)
        return logits, output


def grow(
    plan: GrowthPlan | TreeShape, token: Tensor, kind: str, scores: NodeScores = GREEDY
) -> DraftTree:
    if isinstance(plan, TreeShape):
        plan = GrowthPlan(plan)
    drafter = PathDrafter(token, kind)
    logits, output = drafter.root()
    grower = Grower(plan, token.shape[0], "cpu")
    return grower(plan, token, logits, output, scores, drafter.step)


def oracle(shape: TreeShape, root: int, kind: str, score) -> dict[tuple[int, ...], float]:
    """All candidates of one sequence: path -> score. ``score(logits, path)`` ranks children."""
    frontier = {(root,): 0.0}
    pool: dict[tuple[int, ...], float] = {}
    for _ in range(shape.depth):
        level = {}
        for path, total in frontier.items():
            gains = score(path_logits(path, kind), path)
            for token in gains.topk(shape.top_k).indices.tolist():
                level[(*path, token)] = total + float(gains[token])
        pool |= level
        frontier = dict(sorted(level.items(), key=lambda item: -item[1])[: shape.top_k])
    return pool


def paths(tree: DraftTree, b: int) -> list[tuple[int, ...]]:
    out: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens[b].tolist(), tree.parents[b].tolist(), strict=True):
        out.append((token,) if parent < 0 else (*out[parent], token))
    return out


def check_valid(tree: DraftTree, shape: TreeShape) -> None:
    batch, nodes = tree.tokens.shape
    assert nodes == shape.nodes and tree.max_depth == shape.depth
    assert tree.parents.dtype == torch.int32
    assert torch.equal(tree.ancestors, ancestor_words(tree.parents))
    for b in range(batch):
        found = paths(tree, b)
        assert len(set(found)) == nodes, "siblings are distinct"
        assert [len(path) - 1 for path in found] == tree.depths[b].tolist()
        assert tree.parents[b, 0] == -1
        assert all(0 <= int(p) < n for n, p in enumerate(tree.parents[b]) if n)


def scored(scores: NodeScores, logits: Tensor, shape: TreeShape) -> Tensor:
    """The scores of all tokens as children of the root, in the order of their ids."""

    def step(*_: object) -> tuple[Tensor, Tensor]:
        raise AssertionError("one level asks for no pass")

    plan = GrowthPlan(shape)
    tree = Grower(plan, 1, "cpu")(plan, torch.tensor([3]), logits, torch.zeros(1, 1), scores, step)
    assert tree.scores is not None
    return tree.scores[0, 1:][tree.tokens[0, 1:].argsort()]
