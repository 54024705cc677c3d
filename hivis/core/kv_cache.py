"""KVCache: the keys and values of all layers in one slab, with lengths that live on the device."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from hivis import ops
from hivis.core.handoff import Acceptance

T = TypeVar("T")


def row_multiple_of(device: torch.device) -> int:
    """Caches on ``device`` get a multiple of so many rows.

    What was captured for a GPU to replay works on the memory that it was captured with, so there a
    text takes over that of the last one if it fits, and what is a little larger often does.
    """
    return 1 if device.type == "cpu" else 512


class KVCache:
    """One slab for all layers: ``kv[L, 2, B, Hkv, S, D]`` and ``kv_len[B]`` int32.

    A verify pass writes the rows of all N nodes behind the valid ones, at
    ``kv_len .. kv_len + N - 1``; ``compact`` pulls the accepted ones together and advances
    ``kv_len``. None of that reads a device value on the host.

    A cache for several texts is made by :meth:`for_sequences` and filled by :meth:`copy_sequence`.
    The texts in it are always the first B of its room, so one that has ended costs no arithmetic.

    All tensors stay where they are, whatever text comes: a captured graph may go on with them.

    Attributes:
        batch_index: ``[B, 1]`` int64, 0 to B - 1, to index texts by.
        entries: whatever else is known of the texts, by name: ``[B, ...]``, an entry for each, as
            :meth:`set_entry` has put it down.
    """

    kv: Tensor
    kv_len: Tensor
    keys: list[Tensor]
    values: list[Tensor]

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        rows: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self._room = torch.empty(
            (layers, 2, batch, kv_heads, rows, head_dim), dtype=dtype, device=device
        )
        self._lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        self._batch_index = torch.arange(batch, device=device).unsqueeze(1)
        self._entries: dict[str, Tensor] = {}  # of ``entries``, with room for all texts
        self._tables: dict[Hashable, Any] = {}
        #: The same object for as long as the tensors stay where they are.
        self.buffer_id = object()
        self.entries: dict[str, Tensor] = {}
        self._hold(batch)

    def _hold(self, texts: int) -> None:
        self.kv = self._room[:, :, :texts]
        self.kv_len = self._lengths[:texts]
        self.entries = {name: self._entries[name][:texts] for name in self.entries}
        self.batch_index = self._batch_index[:texts]
        # Views made once: they are asked for in every layer of every pass.
        self.keys = [layer[0] for layer in self.kv]
        self.values = [layer[1] for layer in self.kv]

    @property
    def batch_size(self) -> int:
        """B: how many texts are in it."""
        return self.kv_len.shape[0]

    @property
    def max_batch(self) -> int:
        """How many texts it could hold."""
        return self._lengths.shape[0]

    @property
    def rows(self) -> int:
        """S."""
        return self.kv.shape[4]

    def set_entry(self, name: str, value: Tensor) -> None:
        """Put down ``[B, ...]`` of the texts, over what was there by this name."""
        self._entry(name, value).copy_(value)

    def _entry(self, name: str, like: Tensor) -> Tensor:
        if name not in self._entries:
            self._entries[name] = like.new_empty((self.max_batch, *like.shape[1:]))
        if name not in self.entries:
            self.entries[name] = self._entries[name][: self.batch_size]
        return self.entries[name]

    def get_or_make(self, name: Hashable, make: Callable[[], T]) -> T:
        """What is made only once for this memory: buffers, and graphs that work on them."""
        if name not in self._tables:
            self._tables[name] = make()
        return self._tables[name]

    def renew(self, name: Hashable, value: object) -> None:
        """Note ``value`` as the table of this name. If it is another one than it was, whatever was
        made with the old one is forgotten with it, captures among it."""
        if self.get_or_make(name, lambda: value) is not value:
            self._tables, self.buffer_id = {name: value}, object()

    def node_rows(self, nodes: int, above: int = 0) -> Tensor:
        """``[B, N]`` int64: the slab rows of tree nodes, behind ``above`` others of their tree."""
        index = torch.arange(above, above + nodes, device=self.kv.device)
        return self.kv_len.unsqueeze(1) + index

    def write_prefix(self, layer: int, key: Tensor, value: Tensor, start: int = 0) -> None:
        """Store ``[B, Hkv, C, D]`` of the prompt at rows ``start`` and behind."""
        stop = start + key.shape[2]
        self.keys[layer][:, :, start:stop] = key
        self.values[layer][:, :, start:stop] = value

    def write_nodes(self, layer: int, rows: Tensor, key: Tensor, value: Tensor) -> None:
        """Store the nodes' ``[B, Hkv, N, D]`` at ``rows`` ``[B, N]``."""
        if rows.shape[0] == 1:
            self.keys[layer].index_copy_(2, rows[0], key)
            self.values[layer].index_copy_(2, rows[0], value)
        else:
            at = (self.batch_index, rows)
            self.keys[layer].transpose(1, 2).index_put_(at, key.transpose(1, 2))
            self.values[layer].transpose(1, 2).index_put_(at, value.transpose(1, 2))

    def positions(self, depths: Tensor) -> Tensor:
        """``[B, N]`` int64 positions of nodes of these ``[B, N]`` depths: siblings share one."""
        return self.kv_len.unsqueeze(1) + depths

    def compact(self, acceptance: Acceptance) -> None:
        """Keep the accepted rows, in place, in every layer; ``kv_len`` grows by ``path_len``."""
        ops.kv_compact_(self.kv, self.kv_len, acceptance.path, acceptance.path_len)

    # Texts that come and go. These read lengths on the host.

    def can_be_reused_for(self, rows: int, row_multiple: int) -> bool:
        """Whether a text of so many rows could take this memory over, and not waste much of it."""
        return self.max_batch == 1 and rows <= self.rows <= rows + 8 * (row_multiple - 1)

    def reuse(self) -> KVCache:
        """The same memory for another text. Whoever still holds this cache has no rows any more."""
        cache = KVCache.__new__(KVCache)
        cache.__dict__ = dict(self.__dict__)
        cache.entries = {}
        cache.kv_len.zero_()
        self._tables, self.buffer_id = {}, object()
        self.release()
        return cache

    def release(self) -> None:
        """Give the memory back, whoever still holds this cache: from now on it has no rows."""
        self._tables.clear()
        self._room = self._room[..., :0, :].clone()
        self._hold(self.batch_size)

    def for_sequences(self, most: int, rows: int) -> KVCache:
        """A cache of the same kind with room for ``most`` texts of ``rows`` rows, still empty."""
        layers, _, _, heads, _, width = self.kv.shape
        cache = KVCache(layers, most, heads, rows, width, self.kv.dtype, self.kv.device)
        cache._hold(0)
        return cache

    def resized(self, most: int, rows: int) -> KVCache:
        """These texts in a cache with more room."""
        cache = self.for_sequences(most, rows)
        for text in range(self.batch_size):
            cache.copy_sequence(text, self, text)
        return cache

    def copy_sequence(self, text: int, other: KVCache, which: int = 0) -> None:
        """Copy a text of ``other`` here, in place of one there is or, at B, behind the last."""
        if text == self.batch_size:
            self._hold(text + 1)
        rows = int(other.kv_len[which])
        self.kv[:, :, text, :, :rows] = other.kv[:, :, which, :, :rows]
        self.kv_len[text] = rows
        for name, theirs in other.entries.items():
            self._entry(name, theirs)[text] = theirs[which]

    def remove_sequence(self, text: int) -> None:
        """Forget a text. The last one takes its number."""
        last = self.batch_size - 1
        if text != last:
            self.copy_sequence(text, self, last)
        self._hold(last)
