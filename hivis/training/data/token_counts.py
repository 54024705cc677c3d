"""The most frequent tokens of a target, counted on its captured answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hivis.errors import HivisError
from hivis.training.data.samples import Sample


def count_tokens(samples: Iterable[Sample], vocab: int) -> Tensor:
    """``[V]`` int64: how often each token occurs in the answers.

    Args:
        vocab: V, the size of the target's vocabulary.

    Raises:
        HivisError: an answer has a token outside the vocabulary.
    """
    counts = torch.zeros(vocab, dtype=torch.int64)
    for sample in samples:
        tokens = sample.tokens[sample.answer]
        if len(tokens) and int(tokens.max()) >= vocab:
            raise HivisError(f"answers: wanted tokens below {vocab}, got {int(tokens.max())}")
        counts += torch.bincount(tokens, minlength=vocab)
    return counts


def rank_tokens(counts: Tensor, eos_token_ids: Sequence[int]) -> Tensor:
    """``[n]`` int64: the EOS tokens, then every other token that occurs, most frequent first.

    EOS comes first because every output ends with it, although no captured answer contains it.
    """
    first = list(dict.fromkeys(eos for eos in eos_token_ids if 0 <= eos < len(counts)))
    ranked = counts.argsort(descending=True, stable=True)
    ranked = ranked[: int((counts > 0).sum())]
    others = ranked[~torch.isin(ranked, torch.tensor(first, dtype=torch.int64))]
    return torch.cat([torch.tensor(first, dtype=torch.int64), others])
