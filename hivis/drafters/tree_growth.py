"""Growing a draft tree level by level (EAGLE-2, arXiv 2406.16858, section 4), for any drafter.

Level 1 is the K best tokens after the root. Each further level lets the drafter expand the K best
nodes of the level above, the *frontier*, into K children each. All candidates of all levels go
into one pool, and the N - 1 of them with the best path scores make the tree. One op grows a level
and one makes the tree: no value is read on the host, and no shape depends on data, unless the plan
has a governor. It is asked after every level whether to go on, and at the end for N; to answer it
reads scores on the host.

Path scores are sums of log-probabilities. At temperature > 0 these are of the *perturbed*
distribution: the drafter knows the very noise that the target's draw will use, so its best guess
of that draw is the best perturbed token, and not the most probable one (a shape may ask for the
latter, to see what that knowledge is worth). top-k, top-p and min-p are left out of the score: they
would cost a pass over the vocabulary for every node, and a tree only decides how much is accepted,
never what is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hivis import ops
from hivis.core.kv_cache import KVCache
from hivis.core.sampling import SamplingState
from hivis.core.tree import WORD_BITS, DraftTree
from hivis.core.tree_shape import MAX_NODES, GrowthPlan, TreeShape, candidates
from hivis.errors import HivisError

#: One drafter pass over the frontier of ``level`` (1 is the first drafted level). Gets the level,
#: the frontier's tokens ``[B, K]``, the drafter's output ``[B, K, E]`` at the row before each, and
#: its ancestor words ``[B, K, W]`` over the drafter's own tree rows: node k of level l is row
#: ``(l - 1) * K + k``. Returns logits ``[B, K, V]`` and its output ``[B, K, E]``. What it is given
#: holds until the next tree is grown.
Step = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class NodeScores:
    """What a cycle's children are ranked by; :func:`hivis.ops.tree_grow_` says how.

    Attributes:
        sampling: how the target draws; ``None`` when greedy.
        noise: ``[B]`` int64 position of the root's draw, where the noise begins; ``None`` when
            greedy, or where the shape wants scores without it.
        penal: how the target draws, if it penalizes repetitions.
    """

    sampling: SamplingState | None
    noise: Tensor | None
    penal: SamplingState | None = None

    @classmethod
    def of(cls, sampling: SamplingState, position: Tensor, shape: TreeShape) -> NodeScores:
        """``position`` ``[B]`` is where the root draws."""
        penal = None if sampling.seen is None else sampling
        if sampling.greedy:
            return cls(None, None, penal)
        return cls(sampling, position if shape.noise else None, penal)


@dataclass(frozen=True)
class _Frontier:
    """A level's part of the buffers, ``[B, K]``; words ``[B, K, W]``."""

    tokens: Tensor
    slots: Tensor
    scores: Tensor
    words: Tensor


class Grower:
    """Grows trees of one shape. Holds the buffers; made once for a shape and its sequences."""

    def __init__(self, plan: GrowthPlan, batch: int, device: torch.device | str) -> None:
        self.shape = shape = plan.shape
        # With one level there is no frontier, and no more children than nodes can be of use.
        most = shape.nodes - 1 if shape.depth == 1 else shape.top_k
        self._children = k = min(shape.top_k, most)
        frontiers = shape.depth - 1
        words = -(-max(frontiers * k, 1) // WORD_BITS)
        #: How many nodes a tree of each depth can have, the root included.
        self._held = [1 + candidates(depth, k) for depth in range(1, shape.depth + 1)]
        self._held.insert(0, 1)
        pool, rows = (batch, self._held[-1]), (frontiers, batch, k)

        def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        # The root is entry 0 of the pool: its score is 0, and it has no parent.
        self._scores, self._tokens = zeros(pool, torch.float32), zeros(pool, torch.int64)
        self._parents = zeros(pool, torch.int32)
        self._parents[:, 0] = -1
        self._root = self._tokens[:, 0]
        self._rows = (
            zeros(rows, torch.int32),
            zeros(rows, torch.int64),
            zeros(rows, torch.int64),
            zeros(rows, torch.float32),
            zeros((*rows, words), torch.int64),
        )
        _, slots, tokens, scores, row_words = self._rows
        self._frontiers = [
            _Frontier(tokens[i], slots[i], scores[i], row_words[i]) for i in range(frontiers)
        ]
        # Each level's words with rows that have no bit in front, for those of the levels above.
        ends = [(i + 1) * k for i in range(frontiers)]
        self._behind = [zeros((batch, end, -(-end // WORD_BITS)), torch.int64) for end in ends]
        self._state = (self._scores, self._tokens, self._parents, *self._rows)
        self._carried: Tensor | None = None
        self._before: Sequence[Tensor] = ()
        self._ends = torch.tensor(plan.ends, dtype=torch.int64, device=device)
        self._greedy = (
            zeros((batch,), torch.int64),
            zeros((batch,), torch.int64),
            zeros((batch,), torch.float32),
        )

    @classmethod
    def over(cls, cache: KVCache, plan: GrowthPlan, vocab: int) -> Grower:
        """The one for trees of this shape and these ends under the sequences of ``cache``.

        Raises:
            HivisError: there are not ``vocab`` tokens to choose a level from, or more expanded
                nodes than tree attention takes.
        """
        shape, batch, device = plan.shape, cache.batch_size, cache.kv.device

        def make() -> Grower:
            if shape.top_k > vocab:
                raise HivisError(
                    f"top_k of the tree: wanted at most the vocabulary, {vocab}, got {shape.top_k}"
                )
            expanded = (shape.depth - 1) * shape.top_k
            if expanded > MAX_NODES:
                raise HivisError(
                    f"tree: wanted (depth - 1) * top_k of at most {MAX_NODES}, got {expanded}"
                )
            return cls(plan, batch, device)

        return cache.get_or_make((cls, shape, plan.ends, batch), make)

    def __call__(
        self,
        plan: GrowthPlan,
        token: Tensor,
        logits: Tensor,
        output: Tensor,
        scores: NodeScores,
        step: Step,
    ) -> DraftTree:
        """Grow one tree.

        Args:
            plan: of this tree; its shape and ends are those that this object was made for.
            token: ``[B]`` int64, the root.
            logits: ``[B, V]`` the drafter's prediction of what follows the root.
            output: ``[B, E]`` the drafter's output at the row that predicted it.
            scores: how logits become scores.
            step: the drafter's pass over a frontier; called ``depth - 1`` times, or until the
                plan's governor ends the growth.
        """
        governor = plan.governor
        depth = self.shape.depth if plan.size is None else plan.size[1]
        self._root.copy_(token)
        path = None if scores.penal is None else token.new_empty(token.shape[0], 1, 0)
        logits, output = logits.unsqueeze(1), output.unsqueeze(1)
        rule, carried = self._rule_of(scores), self._room_for(output)
        for level in range(1, depth + 1):
            if scores.penal is not None and path is not None:
                logits = scores.penal.penalize(logits, path)
            ops.tree_grow_(
                logits,
                *rule,
                self._ends,
                output,
                *self._state,
                carried,
                level,
                self.shape.sharpness,
                scores.noise is not None,
            )
            if level == depth:
                break
            frontier = self._frontiers[level - 1]
            if governor is not None and not governor.deeper(level, frontier.scores):
                depth = level
                break
            if path is not None:
                slots = frontier.slots.unsqueeze(2).expand(-1, -1, level - 1)
                path = path.gather(1, slots)
                path = torch.cat([path, frontier.tokens.unsqueeze(2)], 2)
            before = self._before[level - 1]
            logits, output = step(level, frontier.tokens, before, frontier.words)
        return self._prune(plan, depth)

    def words_behind(self, level: int) -> Tensor:
        """``[B, level * K, W]`` ancestor words over as many rows of the drafter's own tree.

        They are those of the frontier of ``level``, the last K; rows of the levels above have no
        bit, and W is no wider than it has to be.
        """
        whole = self._behind[level - 1]
        words = self._frontiers[level - 1].words[..., : whole.shape[2]]
        whole[:, -words.shape[1] :].copy_(words)
        return whole

    def _room_for(self, output: Tensor) -> Tensor:
        """``[levels, B, K, E]`` buffers for what parents hand on of ``output`` ``[B, 1, E]``."""
        width, carried = output.shape[2], self._carried
        if carried is None or carried.shape[3] != width or carried.dtype != output.dtype:
            carried = self._carried = output.new_empty((*self._rows[0].shape, width))
            self._before = carried.unbind(0)
        return carried

    def _rule_of(self, scores: NodeScores) -> tuple[Tensor, Tensor, Tensor]:
        """Seed, position and temperature, as the op takes them."""
        seed, position, temperature = self._greedy
        if scores.sampling is not None:
            seed, temperature = scores.sampling.seed, scores.sampling.temperature
        return seed, position if scores.noise is None else scores.noise, temperature

    def _prune(self, plan: GrowthPlan, depth: int) -> DraftTree:
        """The root and the N - 1 best of the pool, as a tree."""
        held = self._held[depth]
        n = min(self.shape.nodes if plan.size is None else plan.size[0], held)
        if plan.governor is not None:
            # The root is the first: no score is above 0.
            ranked = self._scores[:, :held].topk(n).values[:, 1:]
            n = min(plan.governor.keep(depth, ranked), n)
        tokens, parents, depths, ancestors, scores = ops.tree_prune(
            self._scores, self._tokens, self._parents, self._children, depth, n
        )
        return DraftTree(tokens, parents, depths, ancestors, depth, scores)
