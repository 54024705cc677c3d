"""The Drafter protocol: what the decode loop asks of any drafter."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from hivis.core.handoff import Acceptance, DrafterPrompt
from hivis.core.kv_cache import KVCache
from hivis.core.sampling import SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan

PromptRows = Literal["text", "all"]


class Drafter(Protocol):
    """Proposes a tree of tokens in every cycle. Its guesses change the speed, never the output.

    After ``bind``, the loop calls ``prefill`` once per prompt, then ``grow`` and ``commit`` in
    turn. Neither of these two reads device values on the host; only a plan's governor may.
    """

    #: Which prompt rows the drafter reads: a HiViS drafter never sees a visual token ("text").
    rows: PromptRows
    #: How many rows of the last prompt went through the drafter itself. A drafter that hides or
    #: compresses images may be shown more.
    rows_read: int
    #: The state of its sequences. Another cache of its kind can be put in its place, which is how
    #: sequences join and leave a batch; all that it knows of a single sequence is in there.
    cache: KVCache

    def bind(self, embedding: Tensor, head: Tensor) -> None:
        """Share the target's embedding and head, both ``[V, E]``; they are not copied.

        Raises:
            HivisError: the drafter was made for another target (E or V differ).
        """
        ...

    def prefill(self, prompt: DrafterPrompt, token: Tensor, max_rows: int) -> None:
        """Read the prompt.

        Args:
            prompt: the rows it asked for.
            token: ``[B]`` int64, the first emitted token.
            max_rows: bounds the cache rows of this sequence: prompt, emitted tokens and a tree, or
                one for every cycle that may be in flight.
        """
        ...

    def grow(
        self, token: Tensor, position: Tensor, sampling: SamplingState, plan: GrowthPlan
    ) -> DraftTree:
        """Grow a tree under the last emitted token.

        Args:
            token: ``[B]`` int64, the root.
            position: ``[B]`` int64, absolute position of the token that is drawn at the root.
            plan: the shape of the tree, its size within that, and what ends the sequence.

        May be called again without a ``commit`` in between: only the last tree counts.
        """
        ...

    def commit(self, hidden: Tensor, tree: DraftTree, acceptance: Acceptance) -> None:
        """Take over what the target accepted. ``hidden`` is ``[B, N, E]``, of all nodes."""
        ...
