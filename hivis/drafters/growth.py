"""Growing a draft tree level by level (EAGLE-2, arXiv 2406.16858, section 4), for any drafter.

Level 1 is the K best tokens after the root. Each further level lets the drafter expand the K best
nodes of the level above, the *frontier*, into K children each. All candidates of all levels go
into one pool, and the N - 1 of them with the best path scores make the tree. Everything is a
fixed-shape tensor operation: no value is read on the host, and no shape depends on data, unless
the policy brings a governor. That one is asked after every level whether to go on, and at the end
for N; whether it looks at the scores to say so, which is a host read, is up to it.

Path scores are sums of log-probabilities. At temperature > 0 these are of the *perturbed*
distribution: the drafter knows the very noise that the target's draw will use, so its best guess
of that draw is the best perturbed token, and not the most probable one (a policy may ask for the
latter, to see what that knowledge is worth). top-k, top-p and min-p
are left out of the score: they would cost a pass over the vocabulary for every node, and a tree
only decides how much is accepted, never what is emitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hivis import ops
from hivis.errors import HivisError
from hivis.policy import MAX_NODES, TreePolicy
from hivis.sampling import SamplingState
from hivis.tree import WORD_BITS, DraftTree

#: One drafter pass over the frontier of ``level`` (1 is the first drafted level). Gets the level,
#: the frontier's tokens ``[B, K]``, the drafter's output ``[B, K, E]`` at the row before each, and
#: its ancestor words ``[B, K, W]`` over the drafter's own tree rows: node k of level l is row
#: ``(l - 1) * K + k``. Returns logits ``[B, K, V]`` and its output ``[B, K, E]``.
Step = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class NodeScores:
    """Turns logits of a level's parents into log-probabilities to rank their children by.

    Attributes:
        scale: ``[B, 1, 1]`` factor on the logits, ``sharpness / T``; ``None`` when greedy.
        noise: ``[B, depth, V]`` shared noise times sharpness, row d for children of depth-d nodes;
            ``None`` when greedy, or where the policy wants scores without it.
        penal: how the target draws, if it penalises repetitions.
    """

    scale: Tensor | None
    noise: Tensor | None
    penal: SamplingState | None = None

    @classmethod
    def of(
        cls, sampling: SamplingState, position: Tensor, policy: TreePolicy, vocab: int
    ) -> NodeScores:
        """All noise of a cycle in one call. ``position`` ``[B]`` is where the root draws."""
        penal = None if sampling.seen is None else sampling
        if sampling.greedy:
            return cls(None, None, penal)
        # A sequence at temperature 0 among others that sample: plain logits and no noise.
        warm = sampling.temperature > 0
        scale = torch.where(warm, policy.sharpness / sampling.temperature, 1.0)
        if not policy.noise:
            return cls(scale[:, None, None], None, penal)
        noise = ops.shared_noise(sampling.seed, position, policy.depth, vocab)
        noise = noise * (warm * policy.sharpness)[:, None, None]
        return cls(scale[:, None, None], noise, penal)

    def __call__(self, logits: Tensor, depth: int, path: Tensor | None = None) -> Tensor:
        """``[B, k, V]`` logits at nodes of this depth -> fp32 log-probabilities of children.

        ``path`` ``[B, k, depth]`` are the tokens from the first level to each of the nodes; they
        are asked for only where repetitions are penalised.
        """
        if self.penal is not None and path is not None:
            logits = self.penal.penalise(logits, path)
        if self.scale is None:
            return torch.log_softmax(logits, -1, dtype=torch.float32)
        if self.noise is None:
            return torch.log_softmax(logits * self.scale, -1)  # the scale is fp32
        perturbed = torch.addcmul(self.noise[:, depth : depth + 1], logits, self.scale)
        return torch.log_softmax(perturbed, -1)


class Grower:
    """Grows trees of one policy. Holds the constant index tables; made once per (policy, batch).

    Pool order is the root, then level by level, and within a level by (frontier slot, rank). It
    puts parents before children, so the tree's own order is the pool's.
    """

    def __init__(self, policy: TreePolicy, batch: int, device: torch.device | str) -> None:
        self.policy, self.batch = policy, batch
        k, depth, n = policy.top_k, policy.depth, policy.nodes
        self.tree_rows = (depth - 1) * k
        width = k * k
        slots = torch.arange(width) // k
        level_1 = torch.ones(k, dtype=torch.int64)
        # Where a pool entry finds its parent: slot 0 says "none", slot 1 is the root, and the
        # slots after it are the frontiers of level 1, 2, ...
        slot_of = [torch.zeros(1, dtype=torch.int64), level_1]
        depth_of = [torch.zeros(1, dtype=torch.int64), level_1]
        for level in range(2, depth + 1):
            slot_of.append(2 + (level - 2) * k + slots)
            depth_of.append(torch.full((width,), level))
        self._slot_of = torch.cat(slot_of).to(device)
        self._depth_of = torch.cat(depth_of).to(device)
        # Pool entries of slots 0 and 1 and of the frontier of level 1; deeper frontiers add the
        # start of their level to what top-k found.
        self._head_slots = torch.arange(-1, 1 + k, device=device).expand(batch, -1)
        starts = [1 + k + level * width for level in range(depth - 2) for _ in range(k)]
        self._starts = torch.tensor(starts, dtype=torch.int64, device=device)
        self._root_score = torch.zeros(batch, 1, device=device)
        self._own_bit = _unit_words(n, device).expand(batch, -1, -1)
        rows = _unit_words(max(self.tree_rows, 1), device)
        self._row_bits = [
            rows[level * k : (level + 1) * k].repeat(batch, 1, 1) for level in range(depth - 1)
        ]

    @classmethod
    def renewed(
        cls, grower: Grower | None, policy: TreePolicy, batch: int, vocab: int,
        device: torch.device,
    ) -> Grower:  # fmt: skip
        """``grower`` as it is if it was made for this policy and batch, else a new one.

        Raises:
            HivisError: there are not ``vocab`` tokens to choose a level from, or more expanded
                nodes than tree attention takes.
        """
        if grower is not None and grower.policy == policy and grower.batch == batch:
            return grower
        if policy.top_k > vocab:
            raise HivisError(
                f"top_k of the tree: wanted at most the vocabulary, {vocab}, got {policy.top_k}"
            )
        expanded = (policy.depth - 1) * policy.top_k
        if expanded > MAX_NODES:
            raise HivisError(
                f"tree: wanted (depth - 1) * top_k of at most {MAX_NODES}, got {expanded}"
            )
        return cls(policy, batch, device)

    def __call__(
        self, token: Tensor, logits: Tensor, output: Tensor, scores: NodeScores, step: Step
    ) -> DraftTree:
        """Grow one tree.

        Args:
            token: ``[B]`` int64, the root.
            logits: ``[B, V]`` the drafter's prediction of what follows the root.
            output: ``[B, E]`` the drafter's output at the row that predicted it.
            scores: how logits become scores.
            step: the drafter's pass over a frontier; called ``depth - 1`` times, or until the
                policy's governor has had enough.
        """
        k, depth, governor = self.policy.top_k, self.policy.depth, self.policy.governor
        batch = token.shape[0]
        # Beyond rounding no log-probability exceeds 0. That no score may exceed its parent's is
        # what keeps parents in the tree, so rounding must not break it.
        path = None if scores.penal is None else token.new_empty(batch, 1, 0)
        best, tokens = scores(logits.unsqueeze(1), 0, path).squeeze(1).topk(k)
        path = None if path is None else tokens.unsqueeze(2)
        best = best.clamp_(max=0)
        pool_scores, pool_tokens = [self._root_score, best], [token.unsqueeze(1), tokens]
        chosen: list[Tensor] = []
        best = self._unended(best, tokens)
        parent_output = output.unsqueeze(1).expand(-1, k, -1)
        words = self._row_bits[0] if depth > 1 else tokens
        for level in range(1, depth):
            if governor is not None and not governor.deeper(level, best):
                depth = level
                break
            level_logits, outputs = step(level, tokens, parent_output, words)
            gain, candidates = scores(level_logits, level, path).topk(k)
            paths = (gain.clamp_(max=0) + best.unsqueeze(2)).view(batch, k * k)
            candidates = candidates.view(batch, k * k)
            pool_scores.append(paths)
            pool_tokens.append(candidates)
            if level < depth - 1:
                best, index = self._unended(paths, candidates).topk(k)
                chosen.append(index)
                tokens = candidates.gather(1, index)
                slot = torch.div(index, k, rounding_mode="floor").unsqueeze(2)
                parent_output = outputs.gather(1, slot.expand(-1, -1, outputs.shape[2]))
                words = words.gather(1, slot.expand(-1, -1, words.shape[2]))
                words = words | self._row_bits[level]
                if path is not None:
                    path = path.gather(1, slot.expand(-1, -1, level))
                    path = torch.cat([path, tokens.unsqueeze(2)], 2)
        return self._prune(torch.cat(pool_scores, 1), torch.cat(pool_tokens, 1), chosen, depth)

    def _unended(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """``[B, n]`` scores to choose a frontier by: -inf where the text would be at its end.

        Children inherit it, so that they fill a tree only where there is nothing else.
        """
        for end in self.policy.ends:
            scores = scores.masked_fill(tokens == end, -torch.inf)
        return scores

    def _prune(self, scores: Tensor, tokens: Tensor, chosen: list[Tensor], depth: int) -> DraftTree:
        """The root and the N - 1 best of the pool ``[B, pool]``, renumbered, as a tree."""
        n, governor = self.policy.nodes, self.policy.governor
        # A stable order lets a parent win a tie with its child, and -inf instead of NaN keeps a
        # broken drafter from splitting a child from its parent: the choice is closed upwards.
        inf = float("inf")
        scores = torch.nan_to_num(scores, nan=-inf, neginf=-inf)
        ranked, order = scores.sort(dim=1, descending=True, stable=True)
        if governor is not None:
            n = min(governor.keep(depth, ranked[:, 1:n]), n, scores.shape[1])
        kept = order[:, :n].sort(dim=1).values
        slots = self._head_slots
        if chosen:
            below = torch.cat(chosen, 1)
            slots = torch.cat([slots, below + self._starts[: below.shape[1]]], 1)
        above = slots.gather(1, self._slot_of[kept])
        # kept ascends, so the number of a pool entry is its place in it. The root's "parent" -1
        # comes out as -1.
        parents = torch.searchsorted(kept, above, right=True, out_int32=True) - 1
        return DraftTree(
            tokens=tokens.gather(1, kept),
            parents=parents,
            depths=self._depth_of[kept],
            ancestors=self._ancestors(parents, depth),
            max_depth=depth,
            scores=scores.gather(1, kept),
        )

    def _ancestors(self, parents: Tensor, depth: int) -> Tensor:
        """``[B, N, W]`` words by pointer jumping: every round doubles how far up a node sees."""
        nodes = parents.shape[1]
        width = -(-nodes // WORD_BITS)
        words = self._own_bit[:, :nodes, :width]
        up = parents.long().clamp_(min=0)
        rounds = depth.bit_length()
        for done in range(1, rounds + 1):
            words = words | words.gather(1, up.unsqueeze(2).expand(-1, -1, width))
            if done < rounds:
                up = up.gather(1, up)
        return words


def _unit_words(count: int, device: torch.device | str) -> Tensor:
    """``[count, W]`` int64: row i has bit i set, W = ceil(count / 64)."""
    index = torch.arange(count, device=device)
    word = torch.arange(-(-count // WORD_BITS), device=device)
    bit = torch.ones_like(index) << (index % WORD_BITS)
    return torch.where(word == (index // WORD_BITS).unsqueeze(1), bit.unsqueeze(1), 0)
