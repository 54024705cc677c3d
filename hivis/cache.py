"""KVCache: the keys and values of all layers in one slab, with lengths that live on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from hivis import ops
from hivis.handoff import Verdict


class KVCache:
    """One slab for all layers: ``kv[L, 2, B, Hkv, S, D]`` and ``kv_len[B]`` int32.

    A verify pass writes the rows of all N nodes behind the valid ones, at
    ``kv_len .. kv_len + N - 1``; ``compact`` pulls the accepted ones together and advances
    ``kv_len``. None of that reads a device value on the host.

    A cache for several texts is made by :meth:`for_texts` and filled by :meth:`put`. The texts in
    it are always the first B of its room, so one that has ended costs no arithmetic.

    Attributes:
        numbers: ``[B, 1]`` int64, 0 to B - 1, to index texts by.
        each: whatever else is known of the texts, by name: ``[B, ...]``, an entry for each.
    """

    kv: Tensor
    kv_len: Tensor
    keys: list[Tensor]
    values: list[Tensor]

    def __init__(
        self, layers: int, batch: int, kv_heads: int, rows: int, head_dim: int,
        dtype: torch.dtype, device: torch.device | str,
    ) -> None:  # fmt: skip
        self._room = torch.empty(
            (layers, 2, batch, kv_heads, rows, head_dim), dtype=dtype, device=device
        )
        self._lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        self.each: dict[str, Tensor] = {}
        self._hold(batch)

    def _hold(self, texts: int) -> None:
        self.kv = self._room[:, :, :texts]
        self.kv_len = self._lengths[:texts]
        self.each = {name: entries[:texts] for name, entries in self.each.items()}
        self.numbers = torch.arange(texts, device=self.kv.device).unsqueeze(1)
        # Views made once: they are asked for in every layer of every pass.
        self.keys = [layer[0] for layer in self.kv]
        self.values = [layer[1] for layer in self.kv]

    @property
    def texts(self) -> int:
        """B: how many texts are in it."""
        return self.kv_len.shape[0]

    @property
    def room(self) -> int:
        """How many texts it could hold."""
        return self._lengths.shape[0]

    @property
    def rows(self) -> int:
        """S."""
        return self.kv.shape[4]

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
            at = (self.numbers, rows)
            self.keys[layer].transpose(1, 2).index_put_(at, key.transpose(1, 2))
            self.values[layer].transpose(1, 2).index_put_(at, value.transpose(1, 2))

    def positions(self, depths: Tensor) -> Tensor:
        """``[B, N]`` int64 positions of nodes of these ``[B, N]`` depths: siblings share one."""
        return self.kv_len.unsqueeze(1) + depths

    def compact(self, verdict: Verdict) -> None:
        """Keep the accepted rows, in place, in every layer; ``kv_len`` grows by ``path_len``."""
        ops.kv_compact_(self.kv, self.kv_len, verdict.path, verdict.path_len)

    def release(self) -> None:
        """Give the memory back, whoever still holds this cache: from now on it has no rows."""
        self._room = self._room[..., :0, :].clone()
        self._hold(self.texts)

    # Texts that come and go. These read lengths on the host.

    def for_texts(self, most: int, rows: int) -> KVCache:
        """A cache of the same kind with room for ``most`` texts of ``rows`` rows, still empty."""
        layers, _, _, heads, _, width = self.kv.shape
        cache = KVCache(layers, most, heads, rows, width, self.kv.dtype, self.kv.device)
        cache._hold(0)
        return cache

    def moved(self, most: int, rows: int) -> KVCache:
        """These texts in a cache with more room."""
        cache = self.for_texts(most, rows)
        for text in range(self.texts):
            cache.put(text, self, text)
        return cache

    def put(self, text: int, other: KVCache, which: int = 0) -> None:
        """Copy a text of ``other`` here, in place of one there is or, at B, behind the last."""
        if text == self.texts:
            self._hold(text + 1)
        rows = int(other.kv_len[which])
        self.kv[:, :, text, :, :rows] = other.kv[:, :, which, :, :rows]
        self.kv_len[text] = rows
        for name, theirs in other.each.items():
            new = theirs[which : which + 1]
            mine = self.each.get(name, new[:0])
            self.each[name] = torch.cat([mine[:text], new, mine[text + 1 :]])

    def drop(self, text: int) -> None:
        """Forget a text. The last one takes its number."""
        last = self.texts - 1
        if text != last:
            self.put(text, self, last)
        self._hold(last)
