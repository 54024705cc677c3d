"""Other implementations of attention on the inputs of `tree_attention`.

Each function makes the calls of one peer, or returns None and gives the reason in
`problem.skipped`. In the peers' favor, all that can be prepared is not timed: masks (padded to the
alignment that kernels want, so that no call copies them), packed heads, the rows of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.common.timing import Call
from hivis.errors import first_line

MASK_ALIGNMENT = 16  # elements


@dataclass(frozen=True)
class AttentionProblem:
    """Inputs of `tree_attention`, with several copies of K and V.

    Attributes:
        seen: [B, N, N] bool, which tree nodes a node sees.
        skipped: peers that cannot run, and why.
    """

    q: Tensor
    ks: Sequence[Tensor]
    vs: Sequence[Tensor]
    kv_len: Tensor
    lengths: Sequence[int]
    seen: Tensor
    scale: float
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        return self.q.shape[1]

    @property
    def rows(self) -> int:
        return self.ks[0].shape[2]

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.q.shape[2] // self.ks[0].shape[1]

    def visible(self) -> Tensor:
        """[B, N, S] bool: which rows a node sees. hivis itself never makes this mask."""
        mask = torch.zeros(
            len(self.lengths), self.nodes, self.rows, dtype=torch.bool, device=self.q.device
        )
        for b, length in enumerate(self.lengths):
            mask[b, :, :length] = True
            mask[b, :, length : length + self.nodes] = self.seen[b]
        return mask

    def packed_q(self) -> Tensor:
        """[B, Hkv, group * N, D]: query heads that share K and V, as if they were more nodes."""
        batch, nodes, heads, dim = self.q.shape
        parts = self.q.view(batch, nodes, heads // self.group, self.group, dim)
        return parts.permute(0, 2, 3, 1, 4).reshape(batch, -1, self.group * nodes, dim)

    def unpacked(self, out: Tensor) -> Tensor:
        """The inverse, for any size of the last dimension: [B, N, H, ...]."""
        batch, nodes, heads, _ = self.q.shape
        parts = out.view(batch, heads // self.group, self.group, nodes, -1)
        return parts.permute(0, 3, 1, 2, 4).reshape(batch, nodes, heads, -1)


@dataclass(frozen=True)
class Peer:
    """Calls, one per copy of K and V, and how a result becomes [B, N, H, D]."""

    calls: Sequence[Call]
    form: Callable[[Tensor], Tensor]


def heads_last(out: Tensor) -> Tensor:
    return out.transpose(1, 2)


def dense_mask(problem: AttentionProblem, group: int = 1) -> Tensor:
    """[B, 1, group * N, S] in the dtype of q: 0 where a node sees a row, -inf elsewhere."""
    visible = problem.visible().repeat(1, group, 1).unsqueeze(1)
    padded = -(-problem.rows // MASK_ALIGNMENT) * MASK_ALIGNMENT
    mask = problem.q.new_zeros(*visible.shape[:3], padded)[..., : problem.rows]
    return mask.masked_fill_(~visible, -torch.inf)


def _sdpa_calls(problem: AttentionProblem, q: Tensor, mask: Tensor | None, gqa: bool) -> list[Call]:
    def call(k: Tensor, v: Tensor) -> Call:
        return lambda: F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=problem.scale, enable_gqa=gqa
        )

    return [call(k, v) for k, v in zip(problem.ks, problem.vs, strict=True)]


def sdpa(problem: AttentionProblem) -> Peer | None:
    """torch's choice of backend, a dense mask, grouped heads by enable_gqa."""
    q = problem.q.transpose(1, 2)
    return Peer(_sdpa_calls(problem, q, dense_mask(problem), problem.group > 1), heads_last)


def sdpa_packed(problem: AttentionProblem) -> Peer | None:
    """The same with grouped heads packed into the query dimension, which every backend takes."""
    if problem.group == 1:
        return None
    mask = dense_mask(problem, problem.group)
    return Peer(_sdpa_calls(problem, problem.packed_q(), mask, False), problem.unpacked)


def sdpa_cudnn(problem: AttentionProblem) -> Peer | None:
    """cuDNN's kernel with the dense mask, grouped heads packed."""
    if problem.q.device.type != "cuda" or problem.q.dtype == torch.float32:
        problem.skipped["sdpa_cudnn"] = "wants a GPU and 16-bit floats"
        return None
    mask = dense_mask(problem, problem.group)

    def forced(call: Call) -> Call:
        def run() -> object:
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return call()

        return run

    calls = _sdpa_calls(problem, problem.packed_q(), mask, False)
    return Peer([forced(call) for call in calls], problem.unpacked)


def sdpa_unmasked(problem: AttentionProblem) -> Peer | None:
    """A bound, not a peer: every node sees every row, so its result differs."""
    q = problem.q.transpose(1, 2)
    return Peer(_sdpa_calls(problem, q, None, problem.group > 1), heads_last)


def flex(problem: AttentionProblem) -> Peer | None:
    """flex_attention, compiled, with a block mask made beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    kv_len, seen, nodes, device = problem.kv_len, problem.seen, problem.nodes, problem.q.device

    def mask_mod(b: Tensor, h: Tensor, q_index: Tensor, kv_index: Tensor) -> Tensor:
        node = kv_index - kv_len[b]
        on_path = seen[b, q_index.clamp(max=nodes - 1), node.clamp(0, nodes - 1)]
        return (node < 0) | ((node < nodes) & on_path)

    batch = len(problem.lengths)
    mask = create_block_mask(mask_mod, batch, None, nodes, problem.rows, device=device)
    torch.compiler.reset()  # every case compiles again: without this the ninth would run unfused
    attend = (
        torch.compile(flex_attention, dynamic=False) if device.type == "cuda" else flex_attention
    )
    q = problem.q.transpose(1, 2).contiguous()

    def call(k: Tensor, v: Tensor) -> Call:
        return lambda: attend(
            q, k, v, block_mask=mask, scale=problem.scale, enable_gqa=problem.group > 1
        )

    calls = [call(k, v) for k, v in zip(problem.ks, problem.vs, strict=True)]
    return Peer(calls, heads_last)


def flashinfer(problem: AttentionProblem) -> Peer | None:
    """FlashInfer's prefill kernel with a custom mask, packed into bits beforehand."""
    if find_spec("flashinfer") is None:
        problem.skipped["flashinfer"] = "not installed"
        return None
    if len(problem.lengths) > 1:
        problem.skipped["flashinfer"] = "its single-sequence kernel is compared, not the batched"
        return None
    import flashinfer as peer

    bits = peer.packbits(problem.visible()[0].flatten(), bitorder="little")

    def call(k: Tensor, v: Tensor) -> Call:
        return lambda: peer.single_prefill_with_kv_cache(
            problem.q[0],
            k[0],
            v[0],
            packed_custom_mask=bits,
            kv_layout="HND",
            sm_scale=problem.scale,
        )

    calls = [call(k, v) for k, v in zip(problem.ks, problem.vs, strict=True)]
    return Peer(calls, lambda out: out.unsqueeze(0))


def flash_attn(problem: AttentionProblem) -> Peer | None:
    """flash-attn over the prefix, plain torch over the tree's own rows, merged by log-sum-exp."""
    if find_spec("flash_attn") is None:
        problem.skipped["flash_attn"] = "not installed"
        return None
    from flash_attn import flash_attn_with_kvcache

    q, packed_q, nodes = problem.q, problem.packed_q(), problem.nodes
    tree_mask = torch.zeros_like(problem.seen, dtype=torch.float32)
    tree_mask.masked_fill_(~problem.seen, -torch.inf)
    tree_mask = tree_mask.repeat(1, problem.group, 1).unsqueeze(1)  # [B, 1, group * N, N]

    def own_rows(x: Tensor) -> Tensor:  # [B, Hkv, N, D]
        parts = [x[b, :, length : length + nodes] for b, length in enumerate(problem.lengths)]
        return torch.stack(parts)

    def call(k: Tensor, v: Tensor) -> Call:
        tree_k, tree_v = own_rows(k).transpose(2, 3).contiguous(), own_rows(v)
        k_rows, v_rows = k.transpose(1, 2), v.transpose(1, 2)

        def run() -> Tensor:
            prefix, prefix_lse = flash_attn_with_kvcache(
                q,
                k_rows,
                v_rows,
                cache_seqlens=problem.kv_len,
                softmax_scale=problem.scale,
                return_softmax_lse=True,
            )
            scores = (packed_q @ tree_k).float() * problem.scale + tree_mask
            tree_lse = problem.unpacked(scores.logsumexp(-1, keepdim=True))
            tree = problem.unpacked(scores.softmax(-1).to(q.dtype) @ tree_v)
            share = torch.sigmoid(prefix_lse.transpose(1, 2).unsqueeze(-1) - tree_lse)
            return prefix * share + tree * (1 - share)

        return run

    calls = [call(k, v) for k, v in zip(problem.ks, problem.vs, strict=True)]
    return Peer(calls, lambda out: out)


# Without flex, which takes seconds per case to compile.
PEERS = {
    "sdpa": sdpa,
    "sdpa_packed": sdpa_packed,
    "sdpa_cudnn": sdpa_cudnn,
    "flashinfer": flashinfer,
    "flash_attn": flash_attn,
}


def attention_peers(problem: AttentionProblem, with_flex: bool) -> dict[str, Peer]:
    """All peers that run here; `problem.skipped` says why the others do not."""
    makers = PEERS | ({"flex": flex} if with_flex else {})
    peers = {}
    for name, make in makers.items():
        try:
            peer = make(problem)
        except Exception as error:  # whatever another package raises
            problem.skipped[name] = reason(error)
            continue
        if peer is not None:
            peers[name] = peer
    return peers


def reason(error: Exception) -> str:
    """One line of an error that may have many."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line[:100]}"
