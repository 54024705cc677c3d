"""The two ops that grow draft trees, typed; part of `hivis.ops`, which says what the letters mean.

K nodes of one level get children, k of them each; E is the width of a drafter's output. A *pool*
has room for the root and for all candidates of a tree: level 1 has k of them, every further level
k * k. Its order is the root, then level by level, and within a level by the parent's slot and the
rank among its children. So place 0 is the root, 1 is where level 1 begins, and level l begins at
``1 + k + (l - 2) * k * k``. A *frontier* are the k nodes of a level that get children.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hivis.ops.extension import _C


def check_devices(name: str, first: Tensor, **others: Tensor) -> None:
    """Fakes run where any tensor is on the meta device: others may not be elsewhere."""
    for other, tensor in others.items():
        if tensor.device != first.device:
            raise RuntimeError(
                f"{other}: wanted device {first.device} (as {name}), got {tensor.device}"
            )


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
) -> None:
    """Grow draft trees by one level (EAGLE-2, arXiv 2406.16858, section 4.1).

    Every node gets its k best tokens as children, the lowest id winning a tie. They are ranked by
    ``y = (logits / temperature + g(seed, position + level - 1, v)) * sharpness``, g being the very
    noise of the target's draw (:func:`hivis.ops.shared_noise`), or 0 without ``noise``; at
    temperature 0 by the logits themselves. A child's score is the log-softmax of y over the
    vocabulary, in fp32, plus its parent's score: it is at most that. The K * k candidates go into
    the pool. The k best of them are the next frontier, the best first, where an earlier place in
    the pool wins a tie and tokens of ``ends`` count as -inf; at level 1 it is all of them, in their
    order. The last level, R + 1, has no frontier.

    Logits with a NaN, a +inf or nothing finite give tokens 0 to k - 1 a score of -inf. All results
    are the same bits on every device, and whatever the number of threads.

    Args:
        logits: [B, K, V] f32, bf16 or f16, at the nodes of the frontier above; last dimension
            contiguous. K is 1 at level 1 (the root), else k. V <= 2^20.
        seed: [B] i64.
        position: [B] i64, absolute position of the token drawn at the root.
        temperature: [B] f32, finite, 0 or more.
        ends: i64, any number of tokens that nothing is expanded after.
        output: [B, K, E], any dtype, the drafter's output at those nodes, to be handed to their
            children; last dimension contiguous, E 0 or more.
        pool_scores: [B, P] f32. This one and what follows is changed in place.
        pool_tokens: [B, P] i64.
        pool_parents: [B, P] i32, places in the pool. The root's entries are the caller's to write:
            score 0, its token, parent -1.
        nodes: [R, B, k] i32, where the nodes of each frontier stand in the pool. k is at most V,
            and R * k at most 256. Frontier 0 is that of level 1, written by it and read by level 2.
        slots: [R, B, k] i64, which of the K nodes above is the parent.
        tokens: [R, B, k] i64.
        scores: [R, B, k] f32, -inf at tokens of ``ends``.
        words: [R, B, k, W] i64, ancestors, themselves included, over the rows of a drafter's own
            tree: slot j of frontier l is row l * k + j. W = ceil(R * k / 64), at least 1.
        carried: [R, B, k, E], dtype of output: the output at each one's parent.
        level: of the children, 1..R + 1; the levels before it must have been grown.
        sharpness: factor on the perturbed logits, finite and above 0.
        noise: whether scores know the noise.

    Raises:
        RuntimeError: wrong rank, shape, dtype, device, stride, level or sharpness; on the CPU also
            a temperature out of range.
    """
    op = torch.ops.hivis.tree_grow_.default if torch.compiler.is_compiling() else _C.tree_grow_
    op(
        logits,
        seed,
        position,
        temperature,
        ends,
        output,
        pool_scores,
        pool_tokens,
        pool_parents,
        nodes,
        slots,
        tokens,
        scores,
        words,
        carried,
        level,
        sharpness,
        noise,
    )


@torch.library.register_fake("hivis::tree_grow_")
def _tree_grow_fake(
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
) -> None:
    check_devices(
        "logits",
        logits,
        seed=seed,
        position=position,
        temperature=temperature,
        ends=ends,
        output=output,
        pool_scores=pool_scores,
        pool_tokens=pool_tokens,
        pool_parents=pool_parents,
        nodes=nodes,
        slots=slots,
        tokens=tokens,
        scores=scores,
        words=words,
        carried=carried,
    )


def tree_prune(
    pool_scores: Tensor,
    pool_tokens: Tensor,
    pool_parents: Tensor,
    children: int,
    depth: int,
    nodes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The root and the best entries of a pool as a draft tree (EAGLE-2, section 4.2).

    An earlier place in the pool wins a tie, and NaN counts as -inf. As no entry's score is above
    its parent's, the parent of a kept entry is kept too. Nodes come in the order of the pool.

    Args:
        pool_scores: [B, P] f32, as `tree_grow_` left them, of the root and ``depth`` levels.
        pool_tokens: [B, P] i64.
        pool_parents: [B, P] i32, places that come before their own.
        children: k, 1..256.
        depth: the levels that were grown, 1 or more.
        nodes: N, 1..256 and at most what the levels hold.

    Returns:
        tokens [B, N] i64; parents [B, N] i32, -1 at the root; depths [B, N] i64; ancestors
        [B, N, W] i64, bit j % 64 of word j // 64 for node j, itself included; scores [B, N] f32.

    Raises:
        RuntimeError: wrong rank, shape, dtype, device or stride, or a number out of range; on the
            CPU also a parent that does not come first.
    """
    op = torch.ops.hivis.tree_prune.default if torch.compiler.is_compiling() else _C.tree_prune
    return op(pool_scores, pool_tokens, pool_parents, children, depth, nodes)


@torch.library.register_fake("hivis::tree_prune")
def _tree_prune_fake(
    pool_scores: Tensor,
    pool_tokens: Tensor,
    pool_parents: Tensor,
    children: int,
    depth: int,
    nodes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_devices("pool_scores", pool_scores, pool_tokens=pool_tokens, pool_parents=pool_parents)
    shape = (pool_scores.shape[0], nodes)
    return (
        pool_tokens.new_empty(shape),
        pool_parents.new_empty(shape),
        pool_tokens.new_empty(shape),
        pool_tokens.new_empty((*shape, -(-nodes // 64))),
        pool_scores.new_empty(shape),
    )
