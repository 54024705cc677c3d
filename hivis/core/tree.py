"""The draft tree: the tokens a drafter proposes in one cycle, and who descends from whom."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WORD_BITS = 64


def ancestor_words(parents: Tensor) -> Tensor:
    """Bit set of the ancestors of every node, itself included.

    Args:
        parents: ``[B, N]`` integer; the root's parent is -1, and parents come before children.

    Returns:
        ``[B, N, W]`` int64 with ``W = ceil(N / 64)``: bit ``j % 64`` of word ``j // 64`` of node
        ``n`` says that node ``j`` is ``n`` or an ancestor of ``n``.

    Walks every node up to the root at once, so it needs N steps of a few small tensor operations;
    drafters that grow a tree level by level keep the words up to date themselves.
    """
    batch, nodes = parents.shape
    words = -(-nodes // WORD_BITS)
    index = torch.arange(nodes, device=parents.device)
    # One column per node and one more that takes the bits of "the parent of the root".
    member = torch.zeros(batch, nodes, nodes + 1, dtype=torch.bool, device=parents.device)
    up = index.expand(batch, nodes)
    above = torch.cat([parents.long(), parents.new_full((batch, 1), -1).long()], dim=1)
    for _ in range(nodes):
        member.scatter_(2, (up % (nodes + 1)).unsqueeze(2), True)
        up = above.gather(1, up % (nodes + 1))
    return pack_bits(member[:, :, :nodes], words)


def pack_bits(member: Tensor, words: int) -> Tensor:
    """``[..., N]`` booleans as ``[..., words]`` int64: bit ``j % 64`` of word ``j // 64``."""
    nodes = member.shape[-1]
    padded = torch.nn.functional.pad(member, (0, words * WORD_BITS - nodes))
    bits = padded.reshape(*member.shape[:-1], words, WORD_BITS).long()
    # Distinct powers of two: the sum is the bitwise or. Bit 63 is the sign bit, hence the shift
    # and not a table of positive powers.
    shifts = torch.arange(WORD_BITS, device=member.device)
    return (bits << shifts).sum(-1)


def unpack_bits(words: Tensor, nodes: int) -> Tensor:
    """``[..., W]`` int64 as ``[..., nodes]`` booleans: the inverse of :func:`pack_bits`."""
    shifts = torch.arange(WORD_BITS, device=words.device)
    return ((words.unsqueeze(-1) >> shifts) & 1).bool().flatten(-2)[..., :nodes]


@dataclass(frozen=True)
class DraftTree:
    """A tree of N nodes per sequence. Node 0 is the root, the last emitted token.

    Attributes:
        tokens: ``[B, N]`` int64. A padding node carries -1 and never matches.
        parents: ``[B, N]`` int32, -1 at the root; parents come before children.
        depths: ``[B, N]`` int64, 0 at the root.
        ancestors: ``[B, N, W]`` int64, see :func:`ancestor_words`.
        max_depth: the deepest level any node may have (a host constant: shapes depend on it).
        scores: ``[B, N]`` float32 path log-probabilities by the drafter, 0 at the root; ``None``
            from a drafter that has none. They say how sure it is, and decide nothing else.
    """

    tokens: Tensor
    parents: Tensor
    depths: Tensor
    ancestors: Tensor
    max_depth: int
    scores: Tensor | None = None

    @property
    def nodes(self) -> int:
        return self.tokens.shape[1]

    def paths(self) -> Tensor:
        """``[B, N, N]`` int64: the tokens from the root to each node, the root's repeated.

        Padding nodes get some token: what follows them is never read.
        """
        above = unpack_bits(self.ancestors, self.nodes)
        return torch.where(above, self.tokens.unsqueeze(1), self.tokens[:, :1, None]).clamp(min=0)

    @classmethod
    def root_only(cls, token: Tensor) -> DraftTree:
        """The tree of plain decoding: nothing is drafted. ``token`` is ``[B]``."""
        root = token.unsqueeze(1)
        zeros = torch.zeros_like(root)
        return cls(root, (zeros - 1).int(), zeros, (zeros + 1).unsqueeze(2), 0)

    @classmethod
    def from_parents(cls, tokens: Tensor, parents: Tensor, max_depth: int) -> DraftTree:
        """Build depths and ancestor words from parents (tests, fixed trees; not for a hot path)."""
        ancestors = ancestor_words(parents)
        depths = torch.zeros_like(tokens)
        for node in range(1, tokens.shape[1]):
            above = parents[:, node].long().clamp(min=0)
            depths[:, node] = depths.gather(1, above.unsqueeze(1)).squeeze(1) + 1
        return cls(tokens, parents.int(), depths, ancestors, max_depth)
