from typing import Any

from torch import Tensor

def tree_attention(
    q: Tensor, k: Tensor, v: Tensor, kv_len: Tensor, ancestors: Tensor, scale: float
) -> Tensor: ...
def kv_compact_(kv: Tensor, kv_len: Tensor, path: Tensor, path_len: Tensor) -> None: ...
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...
def shared_noise(seed: Tensor, position: Tensor, count: int, vocab: int) -> Tensor: ...
def tree_grow_(
    logits: Tensor,
    seed: Tensor,
    position: Tensor,
    temperature: Tensor,
    ends: Tensor,
    output: Tensor,
    pool_scores: Tensor,
    pool_tokens: Tensor,
    pool_parents: Tensor,
    nodes: Tensor,
    slots: Tensor,
    tokens: Tensor,
    scores: Tensor,
    words: Tensor,
    carried: Tensor,
    level: int,
    sharpness: float,
    noise: bool,
) -> None: ...
def tree_prune(
    pool_scores: Tensor,
    pool_tokens: Tensor,
    pool_parents: Tensor,
    children: int,
    depth: int,
    nodes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]: ...
def build_info() -> dict[str, Any]: ...
