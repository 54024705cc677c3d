"""The ops, typed: thin wrappers over the ops of `torch.ops.hivis` and their fakes (meta).

What is called once a cycle or a level goes through `hivis._C`, which packs no boxes: 18 arguments
cost a third of the time there. Within torch.compile it is `torch.ops`, which can be traced.

Every shape is in glossary letters: B batch, N tree nodes, S cache rows, H heads, Hkv key/value
heads, D head dim, L layers, M = max_depth + 1, W = ceil(N / 64). Bad input raises RuntimeError with
one line: name, wanted, got. `hivis.ops.reference` has the plain-torch definition of each op.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hivis.ops.extension import _C
from hivis.ops.grow import check_devices

__all__ = [
    "build_info",
    "kv_compact_",
    "missing_on",
    "shared_noise",
    "tree_accept",
    "tree_attention",
]

build_info = _C.build_info


def missing_on(device: torch.device | str) -> list[str]:
    """The ops that this build cannot run on `device`."""
    key = torch.device(device).type.upper()
    ops = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("hivis::")]
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return sorted(name.removeprefix("hivis::") for name in ops if not has(name, key))


# --- tree_attention


def tree_attention(
    q: Tensor, k: Tensor, v: Tensor, kv_len: Tensor, ancestors: Tensor, scale: float
) -> Tensor:
    """Attention of every tree node over the cached prefix and over its own ancestors.

    Node `n` of sequence `b` sees rows `0..kv_len[b]-1`, and row `kv_len[b] + j` where bit `j % 64`
    of its ancestor word `j // 64` is set; its own bit has to be set for it to see itself. This is
    the tree attention of a verify pass (SpecInfer, section 4; Medusa, section 3.1), with the mask
    kept as bits. Softmax and sums are fp32. A sequence's result depends neither on its neighbors
    in the batch nor on the number of threads.

    Args:
        q: [B, N, H, D] f32, bf16 or f16; N <= 256; last dimension contiguous.
        k, v: [B, Hkv, S, D], dtype of q, H a multiple of Hkv; may be views of a larger slab, last
            dimension contiguous. Rows from `kv_len + N` on are never read.
        kv_len: [B] i32, `kv_len + N <= S`.
        ancestors: [B, N, W] i64. Bits at N and above are ignored. A node without any bit is padding
            and gets zeros; if no node sees it, its rows of k and v may hold NaN. In a row that some
            node sees, a NaN or an infinity may reach all nodes of the sequence.
        scale: factor on the scores, usually `D ** -0.5`.

    Returns:
        [B, N, H, D], dtype of q, contiguous.

    Raises:
        RuntimeError: wrong rank, shape, dtype, device or stride, or D not a multiple of 8 up to
            256; on the CPU also a length out of range.
    """
    return torch.ops.hivis.tree_attention.default(q, k, v, kv_len, ancestors, scale)


@torch.library.register_fake("hivis::tree_attention")
def _tree_attention_fake(
    q: Tensor, k: Tensor, v: Tensor, kv_len: Tensor, ancestors: Tensor, scale: float
) -> Tensor:
    check_devices("q", q, k=k, v=v, kv_len=kv_len, ancestors=ancestors)
    return q.new_empty(q.shape)


# --- kv_compact_


def kv_compact_(kv: Tensor, kv_len: Tensor, path: Tensor, path_len: Tensor) -> None:
    """Pull the accepted K/V rows of a tree together, in place, and advance the lengths.

    Row `kv_len + path[i]` moves to row `kv_len + i` for `i < path_len`, in every layer and head;
    then `kv_len += path_len`. Rows that are already in place are not touched.

    Args:
        kv: [L, 2, B, Hkv, S, D], any dtype, last dimension contiguous, no element on top of
            another. Changed in place.
        kv_len: [B] i32, filled rows of each sequence before the tree. Changed in place.
        path: [B, M] i32, accepted nodes, strictly increasing; entries past path_len are not read.
        path_len: [B] i32, 0..M.

    Raises:
        RuntimeError: wrong rank, shape, dtype, device or stride, or an argument that lies in the
            memory of kv or kv_len; on the CPU also a path that does not increase or leads past
            row S.
    """
    op = torch.ops.hivis.kv_compact_.default if torch.compiler.is_compiling() else _C.kv_compact_
    op(kv, kv_len, path, path_len)


@torch.library.register_fake("hivis::kv_compact_")
def _kv_compact_fake(kv: Tensor, kv_len: Tensor, path: Tensor, path_len: Tensor) -> None:
    check_devices("kv", kv, kv_len=kv_len, path=path, path_len=path_len)


# --- shared_noise


def shared_noise(seed: Tensor, position: Tensor, count: int, vocab: int) -> Tensor:
    """Gumbel noise ``g(seed, position + i, v)`` of `count` successive positions.

    A pure function of seed, absolute position and token id; `hivis.ops.noise.gumbel` defines every
    bit.

    Args:
        seed: [B] i64.
        position: [B] i64, absolute position of the first row's token.
        count: positions per sequence, 0 or more.
        vocab: V, 1..2^20. A smaller V gives a prefix of the same values.

    Returns:
        [B, count, V] f32.

    Raises:
        RuntimeError: wrong rank, shape, dtype or device, or a count or vocab out of range.
    """
    return torch.ops.hivis.shared_noise.default(seed, position, count, vocab)


@torch.library.register_fake("hivis::shared_noise")
def _shared_noise_fake(seed: Tensor, position: Tensor, count: int, vocab: int) -> Tensor:
    check_devices("seed", seed, position=position)
    return seed.new_empty((seed.shape[0], count, vocab), dtype=torch.float32)


# --- tree_accept


def tree_accept(
    logits: Tensor,
    tokens: Tensor,
    parents: Tensor,
    seed: Tensor,
    position: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    max_depth: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Walk a drafted tree along the target's own draws.

    At a visited node of depth d the target draws
    ``argmax_v(logits[v] / temperature + g(seed, position + d, v))`` over its candidates, the lowest
    token id winning a tie (temperature 0: the argmax of the logits). If a child carries that token
    the walk steps into it, into the first one if there are several; otherwise the token is
    `next_token` and the walk ends. What is emitted does not depend on what was drafted.

    The candidates are those of Hugging Face's temperature, top-k, top-p and min-p, in this order,
    except that tokens which tie are always kept or dropped together. Logits of nodes
    that are not visited do not matter. A root-only tree (N = 1) is plain sampling.

    Args:
        logits: [B, N, V] f32, bf16 or f16; last dimension contiguous. N <= 256, V <= 2^20.
        tokens: [B, N] i64. A padding node carries -1, and is never matched.
        parents: [B, N] i32, -1 at node 0; parents come before their children. Padding: 0.
        seed: [B] i64.
        position: [B] i64, absolute position of the token drawn at the root.
        temperature: [B] f32, finite, 0 or more.
        top_k: [B] i32, 0 is off.
        top_p: [B] f32 in (0, 1], 1 is off.
        min_p: [B] f32 in [0, 1], 0 is off.
        max_depth: depth of the deepest node that may be accepted; M = max_depth + 1.

    Returns:
        path [B, M] i32, accepted nodes from the root on, the last one repeated to the end;
        path_len [B] i32, accepted nodes, the root included;
        next_token [B] i64, or -1 if the last accepted node's logits hold a NaN, a +inf (also after
        the division by the temperature), or nothing finite;
        emitted [B, M] i64, what follows each node of the path: the token of the next accepted node,
        next_token after the last, from there on repeated.

    Raises:
        RuntimeError: wrong rank, shape, dtype, device or stride; on the CPU also a sampling
            parameter out of range or a parent that does not come first.
    """
    op = torch.ops.hivis.tree_accept.default if torch.compiler.is_compiling() else _C.tree_accept
    return op(logits, tokens, parents, seed, position, temperature, top_k, top_p, min_p, max_depth)


@torch.library.register_fake("hivis::tree_accept")
def _tree_accept_fake(
    logits: Tensor,
    tokens: Tensor,
    parents: Tensor,
    seed: Tensor,
    position: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    max_depth: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_devices(
        "logits",
        logits,
        tokens=tokens,
        parents=parents,
        seed=seed,
        position=position,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )
    batch = logits.shape[0]
    return (
        parents.new_empty((batch, max_depth + 1)),
        parents.new_empty((batch,)),
        tokens.new_empty((batch,)),
        tokens.new_empty((batch, max_depth + 1)),
    )
