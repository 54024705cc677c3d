"""How large and deep a draft tree to grow."""

from __future__ import annotations

from dataclasses import dataclass

from hivis.errors import HivisError

MAX_NODES = 256


@dataclass(frozen=True)
class TreePolicy:
    """The shape of the trees of EAGLE-2 (arXiv 2406.16858, section 4): fixed size, dynamic form.

    Attributes:
        nodes: N, the root included. The target verifies this many rows in every cycle.
        depth: the deepest drafted level; it takes ``depth - 1`` drafter passes.
        top_k: how many nodes a level expands, and how many children each of them gets.
        sharpness: factor on the drafter's perturbed scores before they become path scores
            (only at temperature > 0; it changes which nodes are drafted, never the output).
    """

    nodes: int = 16
    depth: int = 7
    top_k: int = 4
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        for name in ("nodes", "depth", "top_k"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise HivisError(f"{name}: wanted a whole number, got {value!r}")
        if not 2 <= self.nodes <= MAX_NODES:
            raise HivisError(f"nodes: wanted 2..{MAX_NODES} (root included), got {self.nodes}")
        if not 1 <= self.depth < MAX_NODES:
            raise HivisError(f"depth: wanted 1..{MAX_NODES - 1}, got {self.depth}")
        if self.top_k < 1:
            raise HivisError(f"top_k of the tree: wanted at least 1, got {self.top_k}")
        if not self.sharpness > 0:
            raise HivisError(f"sharpness: wanted a positive number, got {self.sharpness}")
        if self.nodes - 1 > self.candidates:
            raise HivisError(
                f"nodes: depth {self.depth} and top_k {self.top_k} give {self.candidates} "
                f"candidates, too few for {self.nodes - 1} drafted nodes"
            )

    @property
    def candidates(self) -> int:
        """Tokens a tree of this shape may choose its nodes from."""
        return self.top_k + (self.depth - 1) * self.top_k**2

    @property
    def drafter_rows(self) -> int:
        """Cache rows that growing one tree, or committing its longest path, may need at most."""
        return max(self.nodes, self.depth * self.top_k, self.depth + 1)
