"""Any Hugging Face VLM as a Target. What differs between families is in ``targets/family.py``."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from hivis.cache import KVCache
from hivis.handoff import Prompt, Verify
from hivis.targets import attention
from hivis.targets.base import Inputs, Prefilled
from hivis.targets.family import Family
from hivis.targets.supported import check_supported
from hivis.tree import DraftTree


class SlabCache(Cache):
    """A transformers ``Cache`` over :class:`KVCache`.

    During a prefill ``update`` stores the prompt's keys and values and hands them back as they
    are; during a verify pass (``rows`` is set) it stores those of the nodes and hands back the
    whole slab, of which tree attention reads what is valid.
    """

    def __init__(self, cache: KVCache) -> None:
        super().__init__(layers=[])
        self.cache = cache
        self.rows: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.rows is None:
            self.cache.write_prefix(layer_idx, key_states, value_states)
            return key_states, value_states
        self.cache.write_nodes(layer_idx, self.rows, key_states, value_states)
        return self.cache.keys[layer_idx], self.cache.values[layer_idx]

    # Positions and masks are ours: transformers gets constants here and no reason to read lengths.
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return 0, 0


class HuggingFaceDecoder:
    """A loaded Hugging Face model over a slab cache of its own: what a target and a draft model
    have in common.

    The language model is switched to our attention; it stays usable with ``generate``, which then
    runs through SDPA. The vision tower keeps its own attention. Positions are rotary and count the
    cache's rows; a tree node's is ``kv_len`` + its depth, less what the prompt's positions lag
    behind its rows (where a picture has fewer positions than rows).

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
        self._slab: SlabCache

    @property
    def cache(self) -> KVCache:
        """Of the texts that it is at; another one can be put in its place."""
        return self._slab.cache

    @cache.setter
    def cache(self, cache: KVCache) -> None:
        self._slab = SlabCache(cache)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    def _read(self, embeddings: Tensor, capacity: int, positions: Tensor | None = None) -> Tensor:
        """Fill a fresh cache of ``capacity`` rows with ``[B, R, E]``; hidden states of all R.

        ``positions`` are those of the rows, as :meth:`Family.positions` gives them; by default they
        count the rows.
        """
        batch, rows, _ = embeddings.shape
        self.cache = KVCache(
            self._layers, batch, self._kv_heads, capacity, self._head_dim, self.dtype, self.device
        )
        if positions is None:
            positions = torch.arange(rows, device=self.device).unsqueeze(0)
        offset = positions.amax() + 1 - rows
        self.cache.each["offset"] = offset.view(1, 1).expand(batch, 1)
        hidden = self._forward(embeddings, positions, None)
        self.cache.kv_len.fill_(rows)
        return hidden

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
        self._slab.rows = self.cache.node_rows(tokens.shape[1], above)
        tree_rows = attention.TreeRows.behind(above, self.cache.kv_len, words)
        # A padding node carries token -1; any row will do for it, nothing reads its result.
        embeddings = self._embed(tokens.clamp(min=0))
        return self._forward(embeddings, self._positions(depths), tree_rows)

    def _positions(self, depths: Tensor) -> Tensor:
        """``[B, K]`` int64: the positions of tree nodes of these depths."""
        return self.cache.positions(depths) + self.cache.each["offset"]

    def _forward(
        self, embeddings: Tensor, positions: Tensor, tree_rows: attention.TreeRows | None
    ) -> Tensor:
        extra = {} if tree_rows is None else {"tree_rows": tree_rows}
        return self.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            past_key_values=self._slab,
            use_cache=True,
            **extra,
        ).last_hidden_state


class HuggingFaceTarget(HuggingFaceDecoder):
    """A loaded Hugging Face VLM behind the Target protocol (see ``targets/base.py``)."""

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        super().__init__(model, family)
        self.eos_token_ids = _eos_token_ids(model)

    @torch.inference_mode()
    def prefill(
        self, inputs: Inputs, rows: Literal["none", "text", "all"], capacity: int
    ) -> Prefilled:
        seen = self.family.look(self.model, inputs.features)
        embeddings = self.family.embed(self.model, inputs, seen)
        hidden = self._read(embeddings, capacity, self.family.positions(self.model, inputs))
        logits = self._head(hidden[:, -1])
        if rows == "none":
            return Prefilled(logits, None)
        text = self.family.text_rows(self.model, inputs.tokens)
        tokens, visual, spans = inputs.tokens, ~text.unsqueeze(0), None
        if rows == "text":
            embeddings, hidden = embeddings[:, text], hidden[:, text]
            tokens, visual = tokens[:, text], visual[:, text]
        else:
            spans = self.family.spans(self.model, tokens, inputs.features)
        seen = seen if self.family.shares_tower else None
        prompt = Prompt(
            embeddings, hidden, inputs.length, tokens, visual, inputs.features, seen, spans
        )
        return Prefilled(logits, prompt)

    @torch.inference_mode()
    def verify(self, tree: DraftTree) -> Verify:
        hidden = self._run(tree.tokens, tree.depths, tree.ancestors)
        return Verify(self._head(hidden), hidden)


def _eos_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    eos = getattr(model.generation_config, "eos_token_id", None)
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)
