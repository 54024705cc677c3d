"""The Target protocol: what the decode loop asks of the model whose output is reproduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from hivis.core.handoff import DrafterPrompt, VerifyResult
from hivis.core.kv_cache import KVCache
from hivis.core.tree import DraftTree


@dataclass(frozen=True)
class Inputs:
    """One prompt, ready for the model.

    Attributes:
        tokens: ``[1, P]`` int64, with one placeholder per visual row.
        features: what else the model's own processor made (pixel values and the like).
    """

    tokens: Tensor
    features: dict[str, Tensor]

    @property
    def length(self) -> int:
        return self.tokens.shape[1]


@dataclass(frozen=True)
class TargetPrefill:
    """What a prefill leaves: ``logits`` ``[B, V]`` of the last row and, if asked, a ``prompt``.

    ``kept`` rows of the prompt were there already and not read again.
    """

    logits: Tensor
    prompt: DrafterPrompt | None
    kept: int = 0


class Target(Protocol):
    """A VLM with a cache of its own. ``prefill`` begins a new sequence, in place of the last."""

    cache: KVCache
    embedding: Tensor  # [V, E]
    head: Tensor  # [V, E]
    eos_token_ids: tuple[int, ...]
    max_positions: int

    def prefill(
        self, inputs: Inputs, rows: Literal["none", "text", "all"], capacity: int
    ) -> TargetPrefill:
        """Read the prompt into a fresh cache of ``capacity`` rows.

        ``rows`` says which rows' hidden states to hand on: none, those of text, or all.
        """
        ...

    def verify(self, tree: DraftTree) -> VerifyResult:
        """One pass over all nodes; their keys and values land behind the valid rows."""
        ...
