"""Which tokens a target says most often, counted on its captured answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hivis.errors import HivisError
from hivis.training.data.samples import Sample


def count_tokens(samples: Iterable[Sample], vocab: int) -> Tensor:
    """``[V]`` int64: how often each token stands in the answers.

    Raises:
        HivisError: an answer has a token that the vocabulary of ``vocab`` tokens has not.
    """
    counts = torch.zeros(vocab, dtype=torch.int64)
    for sample in samples:
        said = sample.tokens[sample.answer]
        if len(said) and int(said.max()) >= vocab:
            raise HivisError(f"answers: wanted tokens below {vocab}, got {int(said.max())}")
        counts += torch.bincount(said, minlength=vocab)
    return counts


def rank_tokens(counts: Tensor, ends: Sequence[int]) -> Tensor:
    """``[n]`` int64: ``ends``, then every other token that occurs, the most frequent first.

    What ends a text comes first because it is said in every text, and captured in none.
    """
    first = list(dict.fromkeys(end for end in ends if 0 <= end < len(counts)))
    ranked = counts.argsort(descending=True, stable=True)
    ranked = ranked[: int((counts > 0).sum())]
    others = ranked[~torch.isin(ranked, torch.tensor(first, dtype=torch.int64))]
    return torch.cat([torch.tensor(first, dtype=torch.int64), others])
