"""What the op benchmark times on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.ops.cases import SHORT, OpCase, Setting, on_cpu, random_parents
from hivis import ops
from hivis.core.tree import ancestor_words


@on_cpu
def tree_attention(setting: Setting) -> Iterator[OpCase]:
    """Peer: scaled_dot_product_attention with a dense additive mask, made beforehand, and grouped
    heads by enable_gqa (repeating the heads of K and V in each call is always slower)."""
    shapes = [(4, 4, 64), (28, 4, 128)] + ([] if setting.quick else [(8, 8, 128)])
    lengths = [256, 2048] if setting.quick else [256, 2048, 8192]
    for dtype in setting.dtypes:
        for heads, kv_heads, dim in shapes:
            for length in lengths:
                for nodes in (1, 16, 60):
                    yield attention_case(setting, dtype, heads, kv_heads, dim, length, nodes)


def attention_case(
    setting: Setting,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    dim: int,
    length: int,
    nodes: int,
) -> OpCase:
    rows, scale = length + nodes, dim**-0.5
    q = torch.randn(1, nodes, heads, dim, device=setting.device).to(dtype)
    k, v = torch.randn(2, 1, kv_heads, rows, dim, device=setting.device).to(dtype)
    kv_len = torch.tensor([length], dtype=torch.int32, device=setting.device)
    ancestors = ancestor_words(random_parents(nodes)).to(setting.device)
    index = torch.arange(nodes, device=setting.device)
    seen = ((ancestors[0][:, index // 64] >> (index % 64)) & 1).bool()
    mask = torch.zeros(1, 1, nodes, rows, dtype=dtype, device=setting.device)
    mask[..., length:].masked_fill_(~seen, -torch.inf)
    q_heads = q.transpose(1, 2)

    def sdpa() -> Tensor:
        return F.scaled_dot_product_attention(
            q_heads, k, v, attn_mask=mask, scale=scale, enable_gqa=heads != kv_heads
        )

    return OpCase(
        f"{SHORT[dtype]} N={nodes:<2} S={length:<4} H={heads}/{kv_heads} D={dim}",
        dtype,
        [lambda: ops.tree_attention(q, k, v, kv_len, ancestors, scale)],
        {"sdpa": [sdpa]},
        (k.numel() + v.numel() + 2 * q.numel()) * q.element_size(),
        4 * nodes * heads * rows * dim,
    )


@on_cpu
def kv_compact_(setting: Setting) -> Iterator[OpCase]:
    """Peer: index_select of the accepted rows of all layers, then copy_ to their place."""
    slabs = [(16, 4, 64), (28, 4, 128)] + ([] if setting.quick else [(32, 32, 128)])
    for dtype in setting.dtypes:
        for layers, heads, dim in slabs:
            for accepted in ([0, 3, 7, 12], [0, 1, 2, 9, 14, 20]):
                yield compact_case(setting, dtype, layers, heads, dim, accepted)


def compact_case(
    setting: Setting, dtype: torch.dtype, layers: int, heads: int, dim: int, accepted: list[int]
) -> OpCase:
    first, count = 300, len(accepted)
    kv = torch.randn(layers, 2, 1, heads, first + 64, dim, device=setting.device).to(dtype)
    kv_len = torch.tensor([first], dtype=torch.int32, device=setting.device)
    path = torch.tensor([accepted], dtype=torch.int32, device=setting.device)
    path_len = torch.tensor([count], dtype=torch.int32, device=setting.device)
    rows = first + path[0].long()

    def ours() -> None:
        ops.kv_compact_(kv, kv_len, path, path_len)
        kv_len.fill_(first)

    def gather_copy() -> None:
        kv[:, :, :, :, first : first + count].copy_(kv.index_select(4, rows))
        kv_len.add_(path_len)
        kv_len.fill_(first)

    moved = sum(node != i for i, node in enumerate(accepted))
    return OpCase(
        f"{SHORT[dtype]} L={layers} Hkv={heads:<2} D={dim:<3} path={count} moved={moved}",
        dtype,
        [ours],
        {"gather_copy": [gather_copy]},
        2 * layers * 2 * heads * moved * dim * kv.element_size(),
    )


@on_cpu
def tree_accept(setting: Setting) -> Iterator[OpCase]:
    """A walk of five nodes. Peers do only the draws, for all nodes at once and without the walk:
    argmax at temperature 0, else softmax and multinomial."""
    for dtype in setting.dtypes:
        for vocab in (2048, 32000):
            for temperature in (0.0, 1.0):
                yield accept_case(setting, dtype, vocab, temperature, nodes=16)


def accept_case(
    setting: Setting, dtype: torch.dtype, vocab: int, temperature: float, nodes: int
) -> OpCase:
    on = {"device": setting.device}
    logits = (torch.randn(1, nodes, vocab, **on) * 3).to(dtype)
    tokens = torch.arange(nodes, **on).unsqueeze(0)
    parents = (torch.arange(nodes, dtype=torch.int32, **on) - 1).unsqueeze(0)
    for node in range(4):
        logits[0, node, node + 1] = 60.0  # certain at either temperature
    zero, one = torch.zeros(1, dtype=torch.int64, **on), torch.ones(1, **on)
    arguments = (
        logits,
        tokens,
        parents,
        zero,
        zero,
        one * temperature,
        zero.int(),
        one,
        one * 0,
        7,
    )

    def draw() -> Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        return (logits[0].float() / temperature).softmax(-1).multinomial(1)

    return OpCase(
        f"{SHORT[dtype]} N={nodes} V={vocab:<5} T={temperature:g} walk=5",
        dtype,
        [lambda: ops.tree_accept(*arguments)],
        {"argmax" if temperature == 0 else "softmax_multinomial": [draw]},
        5 * vocab * logits.element_size(),
    )
