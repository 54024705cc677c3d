"""From what a drafter believes to how often it is right."""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Collection, Iterable

from hivis.errors import HivisError

#: Bounds of the bins, as path probabilities: narrow near 1, where long paths are decided, and in
#: even ratios towards 0, where most nodes of a large tree are.
EDGES = (1e-4, 1e-3, 0.01, 0.03, 0.06, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.96)
_LOG_EDGES = tuple(map(math.log, EDGES))
_CENTERS = tuple(
    math.sqrt(low * high) for low, high in zip((1e-5, *EDGES), (*EDGES, 1.0), strict=True)
)


class Calibration:
    """A monotone table: path score of a drafted node -> how likely the target accepts it.

    Every bin of path probabilities counts its nodes and how many were accepted. What was counted
    fades from cycle to cycle, so the table follows the output. A bin begins as if ``prior`` nodes
    had been accepted as often as the drafter believed, and that belief does not fade.

    Args:
        memory: cycles after which a count has faded to 1/e.
        prior: how many nodes the belief counts for.
    """

    def __init__(self, memory: float = 200.0, prior: float = 4.0) -> None:
        for name, value in (("memory", memory), ("prior", prior)):
            if not 0 < value < math.inf:
                raise HivisError(f"{name} of the calibration: wanted more than 0, got {value!r}")
        self._fade = math.exp(-1 / memory)
        self._prior = prior
        self._believed = [prior * center for center in _CENTERS]
        self._seen = [0.0] * len(_CENTERS)
        self._accepted = [0.0] * len(_CENTERS)
        #: The acceptance of each bin, from improbable to probable; never decreasing.
        self.table = list(_CENTERS)

    def rates(self, scores: Iterable[float]) -> list[float]:
        """Estimated acceptance of nodes with these path scores; 0 for NaN and -inf."""
        table = self.table
        # A comparison with NaN is false.
        return [table[bisect_right(_LOG_EDGES, s)] if s > -math.inf else 0.0 for s in scores]

    def observe(self, scores: Iterable[float], accepted: Collection[int]) -> None:
        """Learn from the nodes of one cycle: their path scores, and which of them were accepted."""
        fade = self._fade
        self._seen = seen = [count * fade for count in self._seen]
        self._accepted = right = [count * fade for count in self._accepted]
        for node, score in enumerate(scores):
            if score > -math.inf:
                b = bisect_right(_LOG_EDGES, score)
                seen[b] += 1
                if node in accepted:
                    right[b] += 1
        self._rebuild()

    def _rebuild(self) -> None:
        """Pool neighbors that are out of order (isotonic regression by weights)."""
        prior = self._prior
        rights = map(operator.add, self._accepted, self._believed)
        blocks: list[tuple[float, float, int]] = []  # accepted, seen, bins
        for a, seen in zip(rights, self._seen, strict=True):
            n, bins = seen + prior, 1
            while blocks and blocks[-1][0] * n > a * blocks[-1][1]:
                before = blocks.pop()
                a, n, bins = a + before[0], n + before[1], bins + before[2]
            blocks.append((a, n, bins))
        self.table = [a / n for a, n, bins in blocks for _ in range(bins)]
