"""The oracles: what each op means, in plain torch, slow and obvious.

Imports nothing of hivis and shares no code with the ops, so that agreement means something. Shapes
are in glossary letters, as in `hivis.ops`.
"""

from __future__ import annotations

import torch
from torch import Tensor

# --- tree_attention and kv_compact_


def visible(kv_len: int, rows: int, ancestors: Tensor) -> Tensor:
    """Which cache rows each node of one sequence sees.

    Args:
        kv_len: rows of the prefix. Every node that is not padding sees all of them.
        rows: S.
        ancestors: [N, W] i64. Bits at N and above are ignored.

    Returns:
        [N, S] bool. A node without any bit is padding and sees nothing.
    """
    nodes = ancestors.shape[0]
    index = torch.arange(nodes, device=ancestors.device)
    bits = (ancestors[:, index // 64] >> (index % 64)) & 1
    seen = torch.zeros(nodes, rows, dtype=torch.bool, device=ancestors.device)
    seen[:, :kv_len] = True
    seen[:, kv_len : kv_len + nodes] = bits.bool()
    return seen & bits.bool().any(1, keepdim=True)


def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_len: Tensor,
    ancestors: Tensor,
    scale: float,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Softmax attention of every node over the rows it sees, one node at a time, in `dtype`.

    With the dtype of q it is what plain torch makes of the same numbers, the measure of how much
    error is to be expected.

    Args:
        q: [B, N, H, D]; k, v: [B, Hkv, S, D]; kv_len: [B]; ancestors: [B, N, W].

    Returns:
        [B, N, H, D] in `dtype`.
    """
    batch, nodes, heads, _ = q.shape
    group = heads // k.shape[1]
    out = torch.zeros(q.shape, dtype=dtype, device=q.device)
    for b in range(batch):
        seen = visible(int(kv_len[b]), k.shape[2], ancestors[b])
        for n in range(nodes):
            if not seen[n].any():
                continue
            keys = k[b][:, seen[n]].to(dtype).repeat_interleave(group, 0)  # [H, rows, D]
            values = v[b][:, seen[n]].to(dtype).repeat_interleave(group, 0)
            scores = (keys @ q[b, n].to(dtype).unsqueeze(2)).squeeze(2) * scale  # [H, rows]
            out[b, n] = (scores.softmax(1).unsqueeze(1) @ values).squeeze(1)
    return out


def kv_compact_(kv: Tensor, kv_len: Tensor, path: Tensor, path_len: Tensor) -> None:
    """Gather the accepted rows, then put them where they belong; advance kv_len. In place.

    Args:
        kv: [L, 2, B, Hkv, S, D]; kv_len: [B]; path: [B, M]; path_len: [B].
    """
    for b in range(kv.shape[2]):
        first, count = int(kv_len[b]), int(path_len[b])
        accepted = kv[:, :, b, :, first + path[b, :count].long()].clone()
        kv[:, :, b, :, first : first + count] = accepted
    kv_len += path_len


# --- tree_accept (the oracle of shared_noise is hivis.ops.noise.gumbel)


def candidates(
    logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> Tensor:
    """Which tokens of a row may be drawn: temperature, top-k, top-p and min-p, in this order.

    Sorts the row and sums probabilities in f64. Tokens that tie are kept or dropped together.

    Args:
        logits: [V] f32, bf16 or f16, without NaN or +inf.
        temperature: above 0. The rest as in `tree_accept`.

    Returns:
        [V] bool.
    """
    x = (logits.float() / temperature).double()
    keep = x > -torch.inf
    if top_k > 0:
        keep &= x >= x.sort(descending=True).values[min(top_k, x.numel()) - 1]
    if top_p < 1 and keep.any():
        values = x[keep].sort(descending=True).values
        mass = values.softmax(0)
        first_equal = torch.searchsorted(-values, -values)
        above = (mass.cumsum(0) - mass)[first_equal]
        keep &= x >= values[above < top_p].min()
    if min_p > 0:
        mass = x.masked_fill(~keep, -torch.inf).softmax(0)
        keep &= mass >= min_p * mass.max()
    return keep


def draw(
    logits: Tensor, noise: Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> int:
    """The token drawn from one row: the perturbed argmax over the candidates, or -1.

    Args:
        logits: [V] f32, bf16 or f16.
        noise: [V] f32, the shared noise at the drawn token's position; unused at temperature 0.
    """
    score = logits.float()
    if temperature > 0:
        score = score / temperature
    if score.isnan().any() or score.max() == torch.inf or score.max() == -torch.inf:
        return -1
    if temperature > 0:
        keep = candidates(logits, temperature, top_k, top_p, min_p)
        score = torch.where(keep, score + noise, -torch.inf)
    return int((score == score.max()).nonzero()[0])


def tree_accept(
    logits: Tensor,
    tokens: Tensor,
    parents: Tensor,
    noise: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    max_depth: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The op `hivis.ops.tree_accept`, with the noise given instead of seed and position.

    Args:
        noise: [B, max_depth + 1, V] f32, `hivis.ops.noise.gumbel(seed, position, max_depth + 1,
            V)`.
    """
    batch, nodes = tokens.shape
    path = torch.zeros(batch, max_depth + 1, dtype=torch.int32)
    path_len = torch.zeros(batch, dtype=torch.int32)
    next_token = torch.zeros(batch, dtype=torch.int64)
    emitted = torch.zeros(batch, max_depth + 1, dtype=torch.int64)
    for b in range(batch):
        walk, said = [0], []
        while True:
            node, depth = walk[-1], len(walk) - 1
            token = draw(
                logits[b, node],
                noise[b, depth],
                float(temperature[b]),
                int(top_k[b]),
                float(top_p[b]),
                float(min_p[b]),
            )
            said.append(token)
            children = [
                n
                for n in range(nodes)
                if parents[b, n] == node and tokens[b, n] == token and token >= 0
            ]
            if not children or depth == max_depth:
                break
            walk.append(children[0])
        rest = max_depth + 1 - len(walk)
        path[b] = torch.tensor(walk + [walk[-1]] * rest)
        path_len[b] = len(walk)
        next_token[b] = token
        emitted[b] = torch.tensor(said + [token] * rest)
    return path, path_len, next_token, emitted


# --- tree_grow_ and tree_prune


def children(
    logits: Tensor, noise: Tensor, temperature: Tensor, sharpness: float, k: int
) -> tuple[Tensor, Tensor]:
    """The k best tokens after one node, and the logarithms of their probabilities.

    Args:
        logits: [V] f32, bf16 or f16.
        noise: [V] f32, what the ranking knows of the noise of the draw; unused at temperature 0.
        temperature: [] f32.

    Returns:
        [k] i64, the best first and the lowest id first among equals; [k] f64. Logits that are no
        distribution give the first k tokens and -inf.
    """
    y = logits.float()
    if temperature > 0:
        y = (y / temperature + noise) * sharpness
    if y.isnan().any() or y.max() == torch.inf or y.max() == -torch.inf:
        return torch.arange(k), torch.full((k,), -torch.inf, dtype=torch.float64)
    best = y.sort(descending=True, stable=True).indices[:k]
    return best, y.double().log_softmax(0)[best]


def best_places(scores: Tensor, count: int) -> Tensor:
    """[count] i64 places of the best of ``scores`` [n], the first place first among equals.

    NaN counts as -inf.
    """
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    return scores.sort(descending=True, stable=True).indices[:count]


def tree_prune(
    pool_scores: Tensor, pool_tokens: Tensor, pool_parents: Tensor, depth_of: Tensor, nodes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op `hivis.ops.tree_prune`, for a pool that holds nothing beyond its levels.

    Args:
        depth_of: [P] i64, the level of every entry, 0 at the root.
    """
    batch = pool_scores.shape[0]
    tokens = torch.zeros(batch, nodes, dtype=torch.int64)
    parents = torch.zeros(batch, nodes, dtype=torch.int32)
    ancestors = torch.zeros(batch, nodes, -(-nodes // 64), dtype=torch.int64)
    scores, depths = torch.zeros(batch, nodes), torch.zeros_like(tokens)
    for b in range(batch):
        best = best_places(pool_scores[b, 1:], nodes - 1) + 1
        kept = [0, *sorted(best.tolist())]
        tokens[b], scores[b] = pool_tokens[b, kept], pool_scores[b, kept]
        depths[b] = depth_of[kept]
        for n, place in enumerate(kept):
            parents[b, n] = kept.index(int(pool_parents[b, place])) if n else -1
            if n:
                ancestors[b, n] = ancestors[b, int(parents[b, n])]
            ancestors[b, n, n // 64] |= torch.tensor(1) << (n % 64)
    return tokens, parents, depths, ancestors, scores
