"""KVCache: the keys and values of all layers in one slab, with lengths that live on the device."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from hivis import ops
from hivis.core.cache_entries import entry_of
from hivis.core.handoff import Acceptance

T = TypeVar("T")


def row_multiple_of(device: torch.device) -> int:
    """Caches on ``device`` get a multiple of this many rows.

    What was captured for a GPU to replay works on the memory that it was captured with. So there a
    sequence takes over the memory of the last one if it fits, and with this rounding it often does.
    """
    return 1 if device.type == "cpu" else 512


class KVCache:
    """One slab for all layers: ``kv[L, 2, B, Hkv, S, D]`` and ``kv_len[B]`` int32.

    A verify pass writes the rows of all N nodes behind the valid ones, at
    ``kv_len .. kv_len + N - 1``; ``compact`` pulls the accepted ones together and advances
    ``kv_len``. None of that reads a device value on the host.

    A cache for several sequences is made by :meth:`for_sequences` and filled by
    :meth:`copy_sequence`. The sequences in it are always the first B that it has room for, so one
    that has ended costs no arithmetic.

    All tensors stay where they are, whatever sequence comes: a captured graph may go on with them.

    Attributes:
        batch_index: ``[B, 1]`` int64, 0 to B - 1, to index sequences by.
        entries: what else is known of the sequences, by name: ``[B, ...]`` each, as
            :meth:`set_entry` has written it. All that there are: ``core/cache_entries.py``.
        buffer_id: the same object for as long as the tensors stay where they are.
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
        # These have room for ``max_batch`` sequences; the public tensors are views of the first B.
        self._slab = torch.empty(
            (layers, 2, batch, kv_heads, rows, head_dim), dtype=dtype, device=device
        )
        self._lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        self._batch_index = torch.arange(batch, device=device).unsqueeze(1)
        self._entries: dict[str, Tensor] = {}
        self._made: dict[Hashable, Any] = {}
        self.buffer_id = object()
        self.entries: dict[str, Tensor] = {}
        self._hold(batch)

    def _hold(self, sequences: int) -> None:
        """From now on B is ``sequences``."""
        self.kv = self._slab[:, :, :sequences]
        self.kv_len = self._lengths[:sequences]
        self.entries = {name: self._entries[name][:sequences] for name in self.entries}
        self.batch_index = self._batch_index[:sequences]
        # Views made once: they are asked for in every layer of every pass.
        self.keys = [layer[0] for layer in self.kv]
        self.values = [layer[1] for layer in self.kv]

    @property
    def batch_size(self) -> int:
        """B: how many sequences are in it."""
        return self.kv_len.shape[0]

    @property
    def max_batch(self) -> int:
        """How many sequences it could hold."""
        return self._lengths.shape[0]

    @property
    def rows(self) -> int:
        """S."""
        return self.kv.shape[4]

    # What a cycle does. None of it reads a device value on the host.

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

    # What is kept beside the rows: entries of the sequences, and buffers of this memory.

    def set_entry(self, name: str, value: Tensor) -> None:
        """Write ``[B, ...]`` of the sequences, over what was there by this name.

        Raises:
            HivisError: no entry of this name is declared, or it has another rank or dtype.
        """
        self._entry(name, value).copy_(value)

    def _entry(self, name: str, like: Tensor) -> Tensor:
        if name not in self._entries:
            entry_of(name).check(like)
            self._entries[name] = like.new_empty((self.max_batch, *like.shape[1:]))
        if name not in self.entries:
            self.entries[name] = self._entries[name][: self.batch_size]
        return self.entries[name]

    def get_or_make(self, name: Hashable, make: Callable[[], T]) -> T:
        """What is made only once for this memory: buffers, and graphs that work on them."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def renew(self, name: Hashable, value: object) -> None:
        """Keep ``value`` as what was made for ``name``. If it is another one than before, all that
        was made with the old one is dropped, captured graphs among it."""
        if self.get_or_make(name, lambda: value) is not value:
            self._made, self.buffer_id = {name: value}, object()

    # Sequences that come and go. These read lengths on the host.

    def can_be_reused_for(self, rows: int, row_multiple: int) -> bool:
        """Whether a sequence of this many rows fits this memory, and wastes little of it."""
        return self.max_batch == 1 and rows <= self.rows <= rows + 8 * (row_multiple - 1)

    def reuse(self) -> KVCache:
        """The same memory as another cache, for another sequence. This one has no rows any more."""
        cache = copy(self)
        cache.entries = {}
        cache.kv_len.zero_()
        self._made, self.buffer_id = {}, object()
        self.release()
        return cache

    def release(self) -> None:
        """Give the memory back, even if this cache is still referred to. It has no rows then."""
        self._made.clear()
        self._slab = self._slab[..., :0, :].clone()
        self._hold(self.batch_size)

    def for_sequences(self, most: int, rows: int) -> KVCache:
        """An empty cache of the same kind with room for ``most`` sequences of ``rows`` rows."""
        layers, _, _, heads, _, width = self.kv.shape
        cache = KVCache(layers, most, heads, rows, width, self.kv.dtype, self.kv.device)
        cache._hold(0)
        return cache

    def resized(self, most: int, rows: int) -> KVCache:
        """These sequences in a cache with more room."""
        cache = self.for_sequences(most, rows)
        for index in range(self.batch_size):
            cache.copy_sequence(index, self, index)
        return cache

    def copy_sequence(self, index: int, other: KVCache, which: int = 0) -> None:
        """Copy sequence ``which`` of ``other`` to ``index``, over the one that is there; at B,
        behind the last."""
        if index == self.batch_size:
            self._hold(index + 1)
        rows = int(other.kv_len[which])
        self.kv[:, :, index, :, :rows] = other.kv[:, :, which, :, :rows]
        self.kv_len[index] = rows
        for name, theirs in other.entries.items():
            self._entry(name, theirs)[index] = theirs[which]

    def remove_sequence(self, index: int) -> None:
        """Remove a sequence. The last one takes its index."""
        last = self.batch_size - 1
        if index != last:
            self.copy_sequence(index, self, last)
        self._hold(last)
