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
    ``kv_len``. Nothing here reads a device value on the host.
    """

    #: Whatever else a model knows of its texts, by name: ``[B, ...]``, an entry for each.
    each: dict[str, Tensor]

    def __init__(
        self, layers: int, batch: int, kv_heads: int, rows: int, head_dim: int,
        dtype: torch.dtype, device: torch.device | str,
    ) -> None:  # fmt: skip
        self.kv = torch.empty(
            (layers, 2, batch, kv_heads, rows, head_dim), dtype=dtype, device=device
        )
        self.kv_len = torch.zeros(batch, dtype=torch.int32, device=device)
        self.each = {}
        # Views made once: they are asked for in every layer of every pass.
        self.keys = [layer[0] for layer in self.kv]
        self.values = [layer[1] for layer in self.kv]

    def node_rows(self, nodes: int, above: int = 0) -> Tensor:
        """``[B, N]`` int64: the slab rows of tree nodes, behind ``above`` others of their tree."""
        index = torch.arange(above, above + nodes, device=self.kv.device)
        return self.kv_len.unsqueeze(1) + index

    def write_prefix(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store the prompt's ``[B, Hkv, P, D]`` at rows 0..P-1."""
        rows = key.shape[2]
        self.keys[layer][:, :, :rows] = key
        self.values[layer][:, :, :rows] = value

    def write_nodes(self, layer: int, rows: Tensor, key: Tensor, value: Tensor) -> None:
        """Store the nodes' ``[B, Hkv, N, D]`` at ``rows`` ``[B, N]``."""
        if rows.shape[0] == 1:
            self.keys[layer].index_copy_(2, rows[0], key)
            self.values[layer].index_copy_(2, rows[0], value)
        else:
            index = rows[:, None, :, None].expand(key.shape)
            self.keys[layer].scatter_(2, index, key)
            self.values[layer].scatter_(2, index, value)

    def positions(self, depths: Tensor) -> Tensor:
        """``[B, N]`` int64 positions of nodes of these ``[B, N]`` depths: siblings share one."""
        return self.kv_len.unsqueeze(1) + depths

    def compact(self, verdict: Verdict) -> None:
        """Keep the accepted rows, in place, in every layer; ``kv_len`` grows by ``path_len``."""
        ops.kv_compact_(self.kv, self.kv_len, verdict.path, verdict.path_len)
