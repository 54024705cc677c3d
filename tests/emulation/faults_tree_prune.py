"""Faults planted in tree_prune."""

from __future__ import annotations

from tests.emulation.fault import Fault

_PRUNE = "csrc/cuda/tree_prune.cu"
_BARRIER = "  __syncthreads();\n"


def _fault(old: str, new: str, *builds: str, only: str = "sizes") -> Fault:
    return Fault(_PRUNE, old, new, "tree_prune", builds or ("plain",), only=only)


FAULTS: dict[str, Fault] = {
    "ranked_before_keys": _fault(
        "  " + _BARRIER + "    rank_entries", "    rank_entries", "plain", "race"
    ),
    "ordered_before_ranked": _fault(
        _BARRIER + "\n  // In the pool's order", "\n  // In the pool's order", "plain", "race"
    ),
    "parents_before_order": _fault(
        _BARRIER + "\n  // A node's parent", "\n  // A node's parent", "plain", "race"
    ),
    "ancestors_before_parents": _fault(_BARRIER + "\n  // Ancestors", "\n  // Ancestors", "race"),
    "past_the_pool": _fault("j + n < entries && key(j + n)", "key(j + n)", only="large_pools"),
    "ties_to_the_later": _fault("key(j + n) > mine ?", "key(j + n) >= mine ?"),
    "all_in_every_word": _fault("if (n / kWordBits == i % words) word", "word"),
    "parent_out_of_bounds": _fault("before > 0 ? before - 1 : 0", "before - 1", only="garbage"),
}
