"""Faults planted around the ops, to see that the fuzz finds them: name, op, what it must say."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hivis import ops

Op = Callable[..., Any]


def crash(op: Op, *args: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def reads_on(op: Op, q: Any, k: Any, *rest: Any) -> Any:
    """A vector load that begins in the last row and ends behind it."""
    if isinstance(k, Tensor) and k.numel():
        last = sum((n - 1) * stride for n, stride in zip(k.shape, k.stride(), strict=True))
        ctypes.string_at(k.data_ptr() + last * k.element_size(), 16)
    return op(q, k, *rest)


def casts(op: Op, q: Any, k: Any, *rest: Any) -> Any:
    return op(q, k.to(q.dtype) if isinstance(k, Tensor) and isinstance(q, Tensor) else k, *rest)


def clamps(op: Op, q: Any, k: Any, v: Any, kv_len: Any, *rest: Any) -> Any:
    return op(q, k, v, kv_len.clamp(min=0) if isinstance(kv_len, Tensor) else kv_len, *rest)


def makes_contiguous(op: Op, kv: Any, *rest: Any) -> Any:
    if isinstance(kv, Tensor) and kv.stride() and kv.stride(-1) == 1 and not kv.is_contiguous():
        overlaps = torch._debug_has_internal_overlap(kv) == 1
        kv = kv if overlaps else kv.contiguous()
    return op(kv, *rest)


def writes_beside(op: Op, kv: Any, kv_len: Any, *rest: Any) -> Any:
    op(kv, kv_len, *rest)
    if kv_len.data_ptr() % 4096:  # not against the first fence
        ctypes.memset(kv_len.data_ptr() - 4, 1, 4)


def writes_to_input(op: Op, logits: Any, tokens: Any, *rest: Any) -> Any:
    result = op(logits, tokens, *rest)
    if tokens.device.type == "cpu" and not tokens.is_inference():
        tokens.data.view(-1)[:1] = 77
    return result


def hides_nothing_finite(op: Op, *args: Any) -> Any:
    path, path_len, token, emitted = op(*args)
    return path, path_len, token.clamp(min=0), emitted


def says_nodes(op: Op, logits: Any, tokens: Any, *rest: Any) -> Any:
    path, path_len, token, emitted = op(logits, tokens, *rest)
    if path.device.type == "cpu":
        emitted = tokens.gather(1, path.long())
    return path, path_len, token, emitted


def forgets_ends(op: Op, *args: Any) -> Any:
    return op(*args[:4], args[4][:0] if isinstance(args[4], Tensor) else args[4], *args[5:])


def touches_the_root(op: Op, *args: Any) -> Any:
    op(*args)
    args[7].data[:, :1] += 1


def rounds_a_score(op: Op, *args: Any) -> Any:
    op(*args)
    args[6].data.mul_(1 + 1e-5)


def forgets_the_root(op: Op, *args: Any) -> Any:
    tokens, parents, depths, ancestors, scores = op(*args)
    return tokens, parents, depths, ancestors & ~1, scores


def takes_a_late_parent(op: Op, scores: Any, tokens: Any, parents: Any, *rest: Any) -> Any:
    if isinstance(parents, Tensor) and parents.dtype == torch.int32 and parents.dim() == 2:
        width = torch.arange(parents.shape[1], dtype=torch.int32)
        parents = parents.minimum(width - 1) if parents.device.type == "cpu" else parents
    return op(scores, tokens, parents, *rest)


def says_little(op: Op, *args: Any) -> Any:
    try:
        return op(*args)
    except RuntimeError as error:
        raise RuntimeError("bad arguments") from error


def refuses_views(op: Op, kv: Any, *rest: Any) -> Any:
    if isinstance(kv, Tensor) and not kv.is_contiguous():
        raise RuntimeError("kv: wanted a contiguous tensor, got a view")
    return op(kv, *rest)


def one_bit(op: Op, *args: Any) -> Any:
    noise = op(*args)
    return torch.nextafter(noise, noise + 1)


FAULTS: dict[str, tuple[str, Op, str]] = {
    "a crash": ("shared_noise", crash, "ended by signal 11"),
    "a read past the end": ("tree_attention", reads_on, "ended by signal 11"),
    "a cast in silence": ("tree_attention", casts, "took bad arguments: k of"),
    "a length made to fit": ("tree_attention", clamps, "took bad arguments: kv_len["),
    "a copy of the slab": ("kv_compact_", makes_contiguous, "other bytes in or around the slab"),
    "a byte beside the lengths": ("kv_compact_", writes_beside, "kv_len: wanted"),
    "an input that is written to": ("tree_accept", writes_to_input, "tokens has changed"),
    "a token of no numbers": ("tree_accept", hides_nothing_finite, "wanted ("),
    "the nodes and not what follows": ("tree_accept", says_nodes, "emitted"),
    "a message of another shape": ("kv_compact_", says_little, "wanted one line of name"),
    "a good argument refused": ("kv_compact_", refuses_views, "refused good arguments"),
    "a frontier that goes on after the end": ("tree_grow_", forgets_ends, ": other bytes in"),
    "a root that is not the caller's": ("tree_grow_", touches_the_root, "pool_tokens: other bytes"),
    "a score that is off": ("tree_grow_", rounds_a_score, "pool_scores"),
    "an ancestor that is not seen": ("tree_prune", forgets_the_root, "ancestors: wanted"),
    "a parent made to come first": (
        "tree_prune",
        takes_a_late_parent,
        "took bad arguments: pool_parents[",
    ),
    "noise off by one bit": ("shared_noise", one_bit, "other noise than"),
}


def plant(name: str) -> None:
    """From now on the op has this fault."""
    op, fault, _ = FAULTS[name]
    sound = getattr(ops, op)
    setattr(ops, op, lambda *args: fault(sound, *args))
