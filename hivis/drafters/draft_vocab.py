"""A draft vocabulary: logits of the most frequent tokens alone, each back at its own id.

The head is a third of what a level of a 7B model's drafter streams, and most of its rows belong to
tokens that the target rarely generates. A drafter that leaves them out never guesses them, which
can cost some acceptance and cannot change the output. Which tokens are frequent is counted on
answers that the target wrote itself (``hivis draft-vocab``).

A list is a safetensors file with one tensor ``head_ids`` ``[n]`` int64, the most frequent first:
its beginning is a list too. Beside a drafter it is called ``head_ids.safetensors``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hivis.core.kv_cache import KVCache
from hivis.drafters.checkpoint import read_safetensors
from hivis.errors import HivisError

DRAFT_VOCAB_FILE = "head_ids.safetensors"
NAME = "head_ids"


def save_draft_vocab(path: Path, ids: Tensor) -> None:
    """Write a list ``[n]`` int64."""
    save_file({NAME: ids.cpu().contiguous()}, path, metadata={"format": "pt"})


def draft_vocab_of(folder: Path, draft_vocab: int | str | Path) -> Tensor:
    """The list that a user means.

    Args:
        folder: the drafter's.
        draft_vocab: how many of the list in ``folder``, or a file, whose list is taken whole.

    Raises:
        HivisError: no such file, no list in it, or too short a one.
    """
    if not isinstance(draft_vocab, int):
        return read_draft_vocab(Path(draft_vocab))
    path = folder / DRAFT_VOCAB_FILE
    if not path.is_file():
        raise HivisError(
            f"draft vocabulary: wanted a list of frequent tokens, {path} "
            "(hivis draft-vocab counts one), got no such file"
        )
    ids = read_draft_vocab(path)
    if not 1 <= draft_vocab <= len(ids):
        raise HivisError(
            f"draft vocabulary: wanted 1 to {len(ids)} tokens (as {path} has), got {draft_vocab}"
        )
    return ids[:draft_vocab]


def read_draft_vocab(path: Path) -> Tensor:
    """The list in a file, not yet held against a vocabulary; HivisError if there is none."""
    if not path.is_file():
        raise HivisError(f"draft vocabulary: wanted a number or a file, got {path}")
    ids = read_safetensors(path).get(NAME)
    if ids is None or ids.dim() != 1 or ids.dtype != torch.int64 or not len(ids):
        got = "none" if ids is None else f"{list(ids.shape)} {ids.dtype}"
        raise HivisError(f"{path}: {NAME}: wanted [n] int64, got {got}")
    return ids


def check_draft_vocab(ids: Tensor, vocab: int) -> None:
    """HivisError unless ``ids`` ``[n]`` are all different tokens of the vocabulary."""
    wrong = ids[(ids < 0) | (ids >= vocab)]
    if len(wrong):
        raise HivisError(f"{NAME}: wanted tokens of 0 to {vocab - 1}, got {int(wrong[0])}")
    values, counts = ids.unique(return_counts=True)
    if len(values) < len(ids):
        raise HivisError(f"{NAME}: wanted every token once, got {int(values[counts > 1][0])} twice")


class DraftVocab:
    """Puts logits of the listed tokens back into rows of the vocabulary, -inf everywhere else.

    The rows lie with the cache of the sequences: of their V columns only the listed ones are
    written, and those of one shape are the same memory every time.
    """

    def __init__(self, ids: Tensor, vocab: int) -> None:
        self.ids, self.vocab = ids, vocab

    def widen(self, logits: Tensor, cache: KVCache) -> Tensor:
        """``[..., V]`` of ``logits`` ``[..., n]``, until the next of the same shape."""
        shape = (*logits.shape[:-1], self.vocab)
        rows = cache.get_or_make(
            ("draft vocabulary", shape), lambda: logits.new_full(shape, -torch.inf)
        )
        return rows.index_copy_(-1, self.ids, logits)
