"""A tree as a drafter would grow it, of a given size."""

from __future__ import annotations

import heapq

from hivis.errors import HivisError


def rank_parents(nodes: int, depth: int, top_k: int) -> list[int]:
    """The tree of the cheapest nodes, where the k-th best child of a node costs k - 1.

    The chain of best children costs nothing and is always in the tree, so every depth is reached.
    The other nodes are those that a drafter would add for which every next child is half as likely.

    Returns:
        The parent of every node, level by level; -1 at the root.

    Raises:
        HivisError: there are too few nodes for the depth.
    """
    if nodes < depth + 1:
        raise HivisError(
            f"--nodes: wanted at least {depth + 1} to reach depth {depth}, got {nodes}"
        )
    heap: list[tuple[int, int, tuple[int, ...]]] = [(0, 1, (0,))]
    chosen: list[tuple[int, ...]] = []
    while len(chosen) < nodes - 1 and heap:
        cost, level, ranks = heapq.heappop(heap)
        chosen.append(ranks)
        if ranks[-1] + 1 < top_k:  # the next sibling
            heapq.heappush(heap, (cost + 1, level, (*ranks[:-1], ranks[-1] + 1)))
        if level < depth:
            heapq.heappush(heap, (cost, level + 1, (*ranks, 0)))
    ordered = sorted(chosen, key=lambda ranks: (len(ranks), ranks))
    place = {(): 0} | {ranks: number for number, ranks in enumerate(ordered, start=1)}
    return [-1] + [place[ranks[:-1]] for ranks in ordered]
