"""A small model of its own as the drafter, with its own cache (Spec-LLaVA, arXiv 2509.11961).

The draft model is a small VLM that looks at the image itself, or a plain language model of the
same tokenizer that reads the text rows alone. It predicts from tokens only: nothing of the target's
hidden states reaches it. Its tree grows and is pruned by confidence, and a path's confidence is the
sum of its log-probabilities, so that no node outranks its parent.

The draft model's cache holds every emitted token, the root included, and behind these the nodes of
the tree that were expanded, level by level: row ``kv_len + (l - 1) K + k`` is slot k of level l.
What has a child in the tree was expanded. So of an accepted path all nodes but the last are in the
cache already, and a commit pulls these together; the last one, which may be a leaf that was never
expanded, is run together with the token drawn after it, in one pass of two rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hivis import ops
from hivis.core.draft_model import DraftModel
from hivis.core.drafter import PromptRows
from hivis.core.handoff import Acceptance, DrafterPrompt
from hivis.core.kv_cache import KVCache
from hivis.core.sampling import SamplingState
from hivis.core.tree import DraftTree, pack_bits
from hivis.core.tree_shape import MAX_NODES, GrowthPlan
from hivis.drafters.tree_growth import Grower, NodeScores
from hivis.errors import HivisError


class DraftVLM:
    """Drafts with a model of its own, as ``core/drafter.py`` describes a drafter."""

    #: Its record's name in ``hivis/drafters/registry.py``.
    method = "draft-vlm"
    rows: PromptRows
    rows_read: int

    def __init__(self, model: DraftModel) -> None:
        self.model = model
        self.rows = model.rows
        self._vocab = 0
        # Of the tree that was grown last: tokens [B, K] and ancestor words [B, K, W] by level.
        self._drawn: list[Tensor] = []
        self._words: list[Tensor] = []

    @property
    def cache(self) -> KVCache:
        """The draft model's; its entry ``logits`` holds those ``[B, V]`` after the last row."""
        return self.model.cache

    @cache.setter
    def cache(self, cache: KVCache) -> None:
        def tables() -> tuple[Tensor, Tensor]:
            device = cache.kv.device
            # The second of two rows sees both.
            pair = torch.tensor([1, 3], device=device).view(1, 2, 1)
            return torch.arange(MAX_NODES, device=device), pair.repeat(cache.max_batch, 1, 1)

        self.model.cache = cache
        self._levels, pair_words = cache.get_or_make("levels", tables)
        self._pair_depths = self._levels[:2].expand(cache.batch_size, -1)
        self._pair_words = pair_words[: cache.batch_size]

    def bind(self, embedding: Tensor, head: Tensor) -> None:
        """Check that the draft model speaks the target's vocabulary; nothing is shared.

        Raises:
            HivisError: fewer ids than the target has, or another device.
        """
        if self.model.vocab_size < head.shape[0]:
            raise HivisError(
                f"draft model's vocabulary: wanted the target's {head.shape[0]} tokens (or more, "
                f"as padding), got {self.model.vocab_size}"
            )
        if self.model.device != head.device:
            raise HivisError(
                f"draft model's device: wanted the target's, {head.device}, got {self.model.device}"
            )
        if head.shape[0] != self._vocab and hasattr(self.model, "cache"):
            self.model.cache = self.model.cache.for_sequences(
                0, 0
            )  # its logits are of another width
        self._vocab = head.shape[0]

    @torch.inference_mode()
    def prefill(self, prompt: DrafterPrompt, token: Tensor, max_rows: int) -> None:
        """Read the prompt's R rows and ``token`` ``[B]``.

        Raises:
            HivisError: the sequence may come to more positions than the draft model has.
        """
        # The rows that it does not read leave room, in positions as in the cache.
        capacity = max_rows - (prompt.length - prompt.rows)
        if capacity > self.model.max_positions:
            raise HivisError(
                f"draft model's context: wanted at most its {self.model.max_positions} positions, "
                f"got {capacity} ({prompt.rows} prompt rows, new tokens and one tree)"
            )
        logits = self._known(self.model.prefill(prompt, token, capacity))
        self.rows_read = prompt.rows
        self.cache = self.model.cache
        self.cache.set_entry("logits", logits)

    @torch.inference_mode()
    def grow(
        self, token: Tensor, position: Tensor, sampling: SamplingState, plan: GrowthPlan
    ) -> DraftTree:
        """Grow a tree under ``token`` ``[B]``; see ``core/drafter.py``."""
        grower = Grower.over(self.cache, plan, self._vocab)
        drawn, lineage = self._drawn, self._words = [], []

        def step(
            level: int, tokens: Tensor, before: Tensor, words: Tensor
        ) -> tuple[Tensor, Tensor]:
            above = (level - 1) * plan.shape.top_k
            drawn.append(tokens)
            lineage.append(words)
            depths = self._levels[level - 1].expand(tokens.shape)
            return self._known(self.model.extend(tokens, depths, words, above)), before

        # The model is its own memory: there is no output to hand from a node to its children.
        nothing = token.new_empty(token.shape[0], 0)
        scores = NodeScores.of(sampling, position, plan.shape)
        return grower(plan, token, self.cache.entries["logits"], nothing, scores, step)

    @torch.inference_mode()
    def commit(self, hidden: Tensor, tree: DraftTree, acceptance: Acceptance) -> None:
        """Take over the accepted path. The target's ``hidden`` states are not looked at."""
        cache = self.model.cache
        # Where the last accepted node goes. With nothing accepted that is the root, which is run
        # again where it stands.
        last = cache.kv_len + (acceptance.path_len - 2)
        if self._drawn:
            rows = self._rows_of(acceptance.emitted)
            ops.kv_compact_(cache.kv, cache.kv_len, rows, (acceptance.path_len - 2).clamp(min=0))
        cache.kv_len.copy_(last)
        # path repeats its last node to the end. A next token of -1 ends the sequence: any will do.
        pair = torch.stack(
            [
                tree.tokens.gather(1, acceptance.path[:, -1:].long()).squeeze(1),
                acceptance.next_token.clamp(min=0),
            ],
            1,
        )
        logits = self.model.extend(pair, self._pair_depths, self._pair_words)
        cache.kv_len += 2
        cache.set_entry("logits", self._known(logits[:, 1]))

    def _rows_of(self, tokens: Tensor) -> Tensor:
        """``[B, levels]`` int32: which row of the draft tree each node of a path lies in.

        ``tokens`` ``[B, M]`` are the path's, from level 1 on; the levels are those that were
        expanded, ``depth - 1``. A row lies on the path if its token and those of all its ancestors
        are the path's at their levels, and at most one row of a level does. Levels that the path
        does not reach get some row of theirs.
        """
        drawn, words = torch.stack(self._drawn, 1), torch.cat(self._words, 1)
        right = drawn == tokens[:, : drawn.shape[1], None]
        wrong = ~pack_bits(right.flatten(1), words.shape[2]).unsqueeze(1)
        on_path = (words & wrong == 0).all(2).view(drawn.shape)
        slot = on_path.to(torch.int8).argmax(2)
        return (slot + self._levels[: drawn.shape[1]] * drawn.shape[2]).int()

    def _known(self, logits: Tensor) -> Tensor:
        """Logits of the target's V tokens."""
        return logits[..., : self._vocab]
