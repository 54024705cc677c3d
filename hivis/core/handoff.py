"""What passes between the target, the drafter and the loop. Neither side imports the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

#: Half-open rows of one image.
Span = tuple[int, int]


@dataclass(frozen=True)
class DrafterPrompt:
    """The prompt as a drafter may see it: R of its P rows, in order.

    A HiViS drafter asks for the ``"text"`` rows, so no visual row is in here; an EAGLE-style one
    asks for ``"all"`` and finds the projected image among the embeddings.

    Attributes:
        embeddings: ``[B, R, E]`` input embeddings of the kept rows.
        hidden: ``[B, R, E]`` the target's last hidden states of these rows, after the final norm.
        length: P, the number of rows that the target itself prefilled.
        tokens: ``[B, R]`` int64, ids of the kept rows; a placeholder where an image is.
        visual: ``[B, R]`` bool, which of the kept rows are visual (none, if asked for ``"text"``).
        features: what else the model's own processor made of the whole prompt (pixel values and the
            like), for drafters that look at the image themselves.
        seen: ``[images, rows, Ev]`` what the target's vision tower made of the images, before
            its projector, for a drafter that shares the tower; ``None`` without an image.
        spans: where each image lies among all P rows, in order, from its first visual row to its
            last. One that is shown in tiles may have rows between them that are not visual. Only
            if asked for ``"all"``; ``None`` if not known.
    """

    embeddings: Tensor
    hidden: Tensor
    length: int
    tokens: Tensor | None = None
    visual: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    seen: Tensor | None = None
    spans: tuple[Span, ...] | None = None

    @property
    def rows(self) -> int:
        return self.embeddings.shape[1]


@dataclass(frozen=True)
class VerifyResult:
    """One pass of the target over all N nodes of a draft tree.

    Attributes:
        logits: ``[B, N, V]``.
        hidden: ``[B, N, E]`` last hidden states, after the final norm.
    """

    logits: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Acceptance:
    """The walk through the tree: what :func:`hivis.ops.tree_accept` returns, in its order.

    Attributes:
        path: ``[B, M]`` int32, the accepted nodes from the root on; after ``path_len`` entries the
            last accepted node is repeated, so that a gather over it is always in range.
        path_len: ``[B]`` int32, accepted nodes, the root included (accepted length + 1).
        next_token: ``[B]`` int64, the token drawn at the end of the path; -1 if the logits there
            held a NaN or no finite candidate.
        emitted: ``[B, M]`` int64, what follows each node of the path: the token of the next
            accepted node, and ``next_token`` after the last, from there on repeated.
    """

    path: Tensor
    path_len: Tensor
    next_token: Tensor
    emitted: Tensor
