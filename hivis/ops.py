"""The ops, typed: thin wrappers over `torch.ops.hivis` and their fake (meta) implementations.

Every shape is in glossary letters: B batch, N tree nodes, S cache rows, H heads, Hkv key/value
heads, D head dim, L layers, M = max_depth + 1, W = ceil(N / 64). Bad input raises RuntimeError with
one line: name, wanted, got. `hivis.reference` has the plain-torch definition of each op.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hivis import _C

build_info = _C.build_info


# --- kv_compact_


def kv_compact_(kv: Tensor, kv_len: Tensor, path: Tensor, path_len: Tensor) -> None:
    """Pull the accepted K/V rows of a tree together, in place, and advance the lengths.

    Row `kv_len + path[i]` moves to row `kv_len + i` for `i < path_len`, in every layer and head;
    then `kv_len += path_len`. Rows that are already in place are not touched.

    Args:
        kv: [L, 2, B, Hkv, S, D], any dtype, last dimension contiguous. Changed in place.
        kv_len: [B] i32, filled rows of each sequence before the tree. Changed in place.
        path: [B, M] i32, accepted nodes, strictly increasing; entries past path_len are not read.
        path_len: [B] i32, 0..M.

    Raises:
        RuntimeError: wrong rank, shape, dtype, device or stride; on the CPU also a path that does
            not increase or leads past row S.
    """
    torch.ops.hivis.kv_compact_.default(kv, kv_len, path, path_len)


@torch.library.register_fake("hivis::kv_compact_")
def _kv_compact_fake(kv: Tensor, kv_len: Tensor, path: Tensor, path_len: Tensor) -> None:
    return None
