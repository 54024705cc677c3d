"""A target that keeps what it has read: of the next prompt only what is new is read."""

from __future__ import annotations

from typing import Any, Literal

import torch

from hivis.core.handoff import DrafterPrompt, VerifyResult
from hivis.core.kv_cache import KVCache
from hivis.core.target import Inputs, TargetPrefill
from hivis.core.tree import DraftTree
from hivis.models.target import HuggingFaceTarget, only_last


class ContinuedTarget:
    """A target for prompts that begin like the one before, as those of a conversation do.

    The rows of the last prompt that the next one begins with keep their keys and values, and the
    others are read behind them, as the chunks of any prefill are. In float32 that gives the output
    of a whole prefill; at lower precision it may round differently. A prompt with other images,
    or with images among its new rows, is read as a whole.
    """

    def __init__(self, target: HuggingFaceTarget) -> None:
        self.target = target
        self.embedding, self.head = target.embedding, target.head
        self.eos_token_ids, self.max_positions = target.eos_token_ids, target.max_positions
        #: How many rows of the last prompt were there already.
        self.kept = 0
        self._inputs: Inputs | None = None
        self._cache: KVCache | None = None
        self._prompt: DrafterPrompt | None = None
        self._rows = ""

    @property
    def model(self) -> Any:
        return self.target.model

    @property
    def cache(self) -> KVCache:
        return self.target.cache

    @cache.setter
    def cache(self, cache: KVCache) -> None:
        self.target.cache = cache

    def verify(self, tree: DraftTree) -> VerifyResult:
        """See ``core/target.py``."""
        return self.target.verify(tree)

    @torch.inference_mode()
    def prefill(
        self, inputs: Inputs, rows: Literal["none", "text", "all"], capacity: int
    ) -> TargetPrefill:
        """See ``core/target.py``."""
        self.kept = self._common_rows(inputs) if rows == self._rows else 0
        self._cache, old = None, self._cache  # a prefill that fails leaves nothing to go on from
        if old is None or not self.kept:
            prefilled = self.target.prefill(inputs, rows, capacity)
        else:
            prefilled = self._continue(inputs, rows, old, capacity)
        self._inputs, self._rows, self._prompt = inputs, rows, prefilled.prompt
        self._cache = self.target.cache
        return prefilled

    def _common_rows(self, inputs: Inputs) -> int:
        """How many rows the last prompt and this one have in common; 0 if others may differ."""
        last = self._inputs
        if last is None or self._cache is None or self.target.cache is not self._cache:
            return 0
        # The last row is always read: its logits are what a prefill is for.
        most = min(last.length, inputs.length - 1)
        same = (last.tokens[0, :most] == inputs.tokens[0, :most]).long()
        common = int(same.cumprod(0).sum())
        if last.features.keys() != inputs.features.keys():
            return 0
        for name, new in inputs.features.items():
            if not torch.equal(new, last.features[name]):
                return 0
        text = self.target.family.text_rows(self.target.model, inputs.tokens)
        return common if bool(text[common:].all()) else 0

    def _continue(
        self, inputs: Inputs, rows: Literal["none", "text", "all"], old: KVCache, capacity: int
    ) -> TargetPrefill:
        tokens, target = inputs.tokens[:, self.kept :], self.target
        # In a cache of their own, so that no earlier stream goes on there.
        target.keep_rows(old, self.kept, capacity)
        wanted = only_last(tokens.shape[1]) if rows == "none" else None
        embeddings, hidden = target.read_behind(tokens, self.kept, wanted)
        logits = target.logits(hidden[:, -1])
        if rows == "none" or self._prompt is None:
            return TargetPrefill(logits, None, self.kept)
        text = target.family.text_rows(target.model, inputs.tokens)
        kept = self.kept if rows == "all" else int(text[: self.kept].sum())
        last = self._prompt
        assert last.tokens is not None and last.visual is not None
        new = torch.zeros_like(tokens, dtype=torch.bool)
        prompt = DrafterPrompt(
            torch.cat([last.embeddings[:, :kept], embeddings], 1),
            torch.cat([last.hidden[:, :kept], hidden], 1),
            inputs.length,
            torch.cat([last.tokens[:, :kept], tokens], 1),
            torch.cat([last.visual[:, :kept], new], 1),
            inputs.features,
            last.seen,
            last.spans,
        )
        return TargetPrefill(logits, prompt, self.kept)
