"""The matrices that one level of a draft tree multiplies with, and their bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hivis.drafters.quantize import format_of, group_of


@dataclass(frozen=True)
class LevelSizes:
    """Sizes of a one-layer drafter.

    Attributes:
        hidden: width of its hidden states.
        inner: width of its MLP.
        queries: width of all query heads together.
        keys: width of all key heads together.
        vocab: tokens of the target's vocabulary.
    """

    hidden: int
    inner: int
    queries: int
    keys: int
    vocab: int

    def matrices(self, draft_vocab: int | None) -> dict[str, tuple[int, int]]:
        """Outputs and inputs by matrix, with a head of ``draft_vocab`` tokens (``None``: all)."""
        e = self.hidden
        return {
            "fc": (e, 2 * e),
            "qkv": (self.queries + 2 * self.keys, e),
            "o": (e, self.queries),
            "gate_up": (2 * self.inner, e),
            "down": (e, self.inner),
            "head": (self.vocab if draft_vocab is None else min(draft_vocab, self.vocab), e),
        }


def bytes_of_level(
    sizes: LevelSizes, weights: str, draft_vocab: int | None, dtype: torch.dtype = torch.bfloat16
) -> int:
    """Bytes of weights, codes, scales and zeros that a level reads; rows and caches not counted.

    Args:
        weights: a format of :mod:`hivis.drafters.quantize`.
        draft_vocab: tokens of the draft vocabulary; ``None``: all.
        dtype: of ``"full"`` weights.
    """
    bits, most = format_of(weights)
    total = 0
    for outputs, inputs in sizes.matrices(draft_vocab).values():
        if bits == 0:
            total += dtype.itemsize * outputs * inputs
        elif bits == 8:
            total += outputs * inputs + 2 * outputs
        else:
            total += outputs * inputs // 2 + 4 * outputs * inputs // group_of(inputs, most)
    return total
