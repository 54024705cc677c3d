"""The DraftModel protocol: what a drafter asks of a small model that drafts for it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from hivis.core.drafter import PromptRows
from hivis.core.handoff import DrafterPrompt
from hivis.core.kv_cache import KVCache


class DraftModel(Protocol):
    """A small language model or VLM with a cache of its own.

    Only ``prefill`` may read device values.
    """

    #: Which prompt rows it reads: "all" if it looks at the image, else "text".
    rows: PromptRows
    #: How many logits it gives: ids below the target's V are the target's, others are cut off.
    vocab_size: int
    max_positions: int
    cache: KVCache

    @property
    def device(self) -> torch.device: ...

    def prefill(self, prompt: DrafterPrompt, token: Tensor, capacity: int) -> Tensor:
        """Read the prompt's rows and ``token`` ``[B]`` after them into a fresh cache.

        Returns:
            ``[B, V]`` logits after ``token``. The cache has ``capacity`` rows, R + 1 of them valid.
        """
        ...

    def extend(self, tokens: Tensor, depths: Tensor, words: Tensor, above: int = 0) -> Tensor:
        """Run K tree nodes behind the valid rows and behind ``above`` rows of their own tree.

        Args:
            tokens: ``[B, K]`` int64.
            depths: ``[B, K]`` int64; 0 is the position right after the valid rows.
            words: ``[B, K, W]`` ancestors over all rows of the tree so far, their own included.
            above: how many of these rows earlier calls have written.

        Returns:
            ``[B, K, V]`` logits. Keys and values are in the cache; ``kv_len`` is as it was.
        """
        ...
