"""The slab of a :class:`hivis.core.kv_cache.KVCache` as transformers' models see it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from hivis.core.kv_cache import KVCache


class SlabCache(Cache):
    """A transformers ``Cache`` over :class:`KVCache`.

    A pass of a prefill stores the keys and values of its rows, and is handed those of all rows up
    to its last one. A verify pass stores those of the nodes and is handed the whole slab, of which
    tree attention reads what is valid.

    Attributes:
        place: where the pass writes: a prefill from this row on, a verify pass at the rows
            ``[B, N]`` of its nodes.
    """

    def __init__(self, cache: KVCache) -> None:
        super().__init__(layers=[])
        self.cache = cache
        self.place: int | Tensor = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        cache, place = self.cache, self.place
        if isinstance(place, Tensor):
            cache.write_nodes(layer_idx, place, key_states, value_states)
            return cache.keys[layer_idx], cache.values[layer_idx]
        cache.write_prefix(layer_idx, key_states, value_states, place)
        if place == 0:
            return key_states, value_states
        stop = place + key_states.shape[2]
        return cache.keys[layer_idx][:, :, :stop], cache.values[layer_idx][:, :, :stop]

    # Positions and masks are ours: transformers gets constants here and no reason to read lengths.
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return 0, 0
