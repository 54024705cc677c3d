"""A Hugging Face model over a slab cache: what a target and a draft model have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hivis.core.kv_cache import KVCache, row_multiple_of
from hivis.models import tree_attention as attention
from hivis.models.families.base import Family
from hivis.models.hf_cache import SlabCache
from hivis.models.prefill_attention import PrefillChunk, chunk_rows
from hivis.models.supported import check_supported


class HuggingFaceDecoder:
    """A loaded Hugging Face model over a slab cache of its own: what a target and a draft model
    have in common.

    The language model is switched to our attention; it stays usable with ``generate``, which then
    runs through SDPA. The vision tower keeps its own attention. Positions are rotary and count the
    cache's rows; a tree node's is ``kv_len`` + its depth, less what the prompt's positions lag
    behind its rows (where an image has fewer positions than rows).

    Raises:
        HivisError: the model is spread over devices, or its text model does what tree attention
            does not.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        self.model = model.eval()
        self.family = family
        attention.register()
        self.language_model = family.language_model(model)
        check_supported(model, self.language_model)
        self.language_model.set_attn_implementation(attention.NAME)
        text = self.language_model.config
        self.max_positions: int = text.max_position_embeddings
        self._layers: int = text.num_hidden_layers
        self._kv_heads: int = text.num_key_value_heads
        self._head_dim: int = (
            getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        )
        self._embed: nn.Module = model.get_input_embeddings()
        self._head: nn.Module = model.get_output_embeddings()
        self.embedding: Tensor = self._embed.get_parameter("weight")
        self.head: Tensor = self._head.get_parameter("weight")
        #: How many prompt rows pass through the language model at once.
        self.chunk = chunk_rows(self.device)
        #: Caches have a multiple of this many rows.
        self.row_multiple = row_multiple_of(self.device)
        self._own: KVCache | None = None
        self._spare: KVCache | None = None
        self._forget()

    @property
    def cache(self) -> KVCache:
        """The sequences that it is at; another cache can be put in its place.

        The next prefill gives back the slab of the last one, or takes it over, unless another cache
        has been put in its place; never that of a cache from outside.
        """
        return self._slab.cache

    @cache.setter
    def cache(self, cache: KVCache) -> None:
        self._slab = SlabCache(cache)
        if cache is not self._own:
            self._own = None

    def _forget(self, rows: int = 0) -> None:
        """Be at no sequence: before a new one takes memory, that of the last is given back.

        If the new one needs ``rows`` rows and they fit that memory, it is left for :meth:`_begin`.
        """
        old = self._own or self._spare
        if old is not None and not (rows and old.can_be_reused_for(rows, self.row_multiple)):
            old.release()
            old = None
        self.cache = self._new_cache(1, 0)
        self._spare = old

    def _begin(self, batch: int, rows: int) -> KVCache:
        """Be at sequences of at most ``rows`` rows, in a cache of its own, still empty."""
        spare, self._spare = self._spare, None
        if spare is not None and batch == 1 and spare.can_be_reused_for(rows, self.row_multiple):
            cache = spare.reuse()
        else:
            cache = self._new_cache(batch, rows)
        return self._go_on(cache)

    def _go_on(self, cache: KVCache) -> KVCache:
        """Be at the sequences of a cache that was made here."""
        self._own = self.cache = cache
        return cache

    def keep_rows(self, old: KVCache, rows: int, capacity: int) -> None:
        """Be at a new sequence of at most ``capacity`` rows, which begins with the first ``rows``
        rows of ``old``: a cache of one sequence that was made here.

        They stay where they are if the memory of ``old`` can be taken over. Otherwise they are
        copied, and for that time both slabs are there.
        """
        offset = old.entries["offset"]
        if old is self._own and old.can_be_reused_for(capacity, self.row_multiple):
            self._forget(capacity)
            cache = self._begin(1, capacity)
        else:
            cache = self._new_cache(1, capacity)
            cache.kv[..., :rows, :] = old.kv[..., :rows, :]
            self._forget()
            self._go_on(cache)
        cache.kv_len.fill_(rows)
        cache.set_entry("offset", offset)

    def read_behind(
        self, tokens: Tensor, start: int, wanted: Sequence[bool] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read text behind the first ``start`` rows of the cache, which are its valid ones.

        Args:
            tokens: ``[1, R]`` int64, none of them visual.
            wanted: of each row, whether its hidden state is; by default all are.

        Returns:
            ``[1, R, E]`` input embeddings, and ``[1, K, E]`` hidden states of the K wanted rows.
        """
        embeddings = self._embed(tokens)
        positions = self._positions(torch.arange(tokens.shape[1], device=tokens.device))
        return embeddings, self._read_on(embeddings, start, positions, wanted)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., V]`` of hidden states ``[..., E]``."""
        return self._head(hidden)

    def _new_cache(self, batch: int, rows: int) -> KVCache:
        rows += -rows % self.row_multiple
        return KVCache(
            self._layers, batch, self._kv_heads, rows, self._head_dim, self.dtype, self.device
        )

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    def _read(
        self,
        embeddings: Tensor,
        capacity: int,
        positions: Tensor | None = None,
        wanted: Sequence[bool] | None = None,
    ) -> Tensor:
        """Fill a fresh cache of ``capacity`` rows with ``[B, R, E]``.

        ``positions`` are those of the rows, as :meth:`Family.positions` gives them; by default they
        count the rows. Result and ``wanted`` as of :meth:`_read_on`.
        """
        batch, rows, _ = embeddings.shape
        cache = self._begin(batch, capacity)
        if positions is None:
            positions = torch.arange(rows, device=self.device).unsqueeze(0)
        offset = positions.amax() + 1 - rows
        cache.set_entry("offset", offset.view(1, 1).expand(batch, 1))
        return self._read_on(embeddings, 0, positions, wanted)

    def _read_on(
        self,
        embeddings: Tensor,
        start: int,
        positions: Tensor,
        wanted: Sequence[bool] | None = None,
    ) -> Tensor:
        """Read ``[B, R, E]`` behind the first ``start`` rows of the cache, in chunks.

        Args:
            wanted: of each row, whether its hidden state is; by default all are.

        Returns:
            ``[B, K, E]`` hidden states of the K wanted rows.
        """
        batch, rows, width = embeddings.shape
        hidden = embeddings.new_empty(batch, rows if wanted is None else sum(wanted), width)
        done = 0
        for begin in range(0, rows, self.chunk):
            part = slice(begin, begin + self.chunk)
            out = self._read_chunk(embeddings[:, part], start + begin, positions[..., part])
            if wanted is not None:
                kept = [row for row, want in enumerate(wanted[part]) if want]
                out = out[:, torch.tensor(kept, dtype=torch.int64, device=self.device)]
            hidden[:, done : done + out.shape[1]] = out
            done += out.shape[1]
        self.cache.kv_len.fill_(start + rows)
        return hidden

    def _read_chunk(self, embeddings: Tensor, start: int, positions: Tensor) -> Tensor:
        """``[B, C, E]`` hidden states of rows ``start .. start + C - 1``."""
        self._slab.place = start
        chunk = PrefillChunk.of(start, embeddings, self._head_dim)
        extra = {} if chunk is None else {"chunk": chunk}
        return self._forward(embeddings, positions, **extra)

    def _run(self, tokens: Tensor, depths: Tensor, words: Tensor, above: int = 0) -> Tensor:
        """Run tree nodes behind the valid rows and behind ``above`` rows of their own tree.

        Args:
            tokens: ``[B, K]`` int64, in the order of the tree's rows.
            depths: ``[B, K]`` int64; 0 is the position right after the valid rows.
            words: ``[B, K, W]`` ancestors over all rows of the tree so far, their own included.
            above: how many of these rows earlier passes have written.

        Returns:
            ``[B, K, E]`` hidden states; keys and values of the nodes are in the cache.
        """
        self._slab.place = self.cache.node_rows(tokens.shape[1], above)
        tree_rows = attention.TreeRows.behind(above, self.cache.kv_len, words)
        # A padding node carries token -1; any row will do for it, nothing reads its result.
        embeddings = self._embed(tokens.clamp(min=0))
        return self._forward(embeddings, self._positions(depths), tree_rows=tree_rows)

    def _positions(self, depths: Tensor) -> Tensor:
        """``[B, K]`` int64: the positions of tree nodes of these depths."""
        return self.cache.positions(depths) + self.cache.entries["offset"]

    def _forward(self, embeddings: Tensor, positions: Tensor, **extra: Any) -> Tensor:
        return self.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            past_key_values=self._slab,
            use_cache=True,
            **extra,
        ).last_hidden_state
