"""Faults planted in tree_prune."""

from __future__ import annotations

from tests.emulation.fault import Fault

_PRUNE = "csrc/cuda/tree_prune.cu"
_BARRIER = "  __syncthreads();\n"


def _fault(old: str, new: str, *builds: str, only: str = "sizes") -> Fault:
    return Fault(_PRUNE, old, new, "tree_prune", builds or ("plain",), only=only)


FAULTS: dict[str, Fault] = {
    "ranked_before_keys": _fault(
        "  " + _BARRIER + "    choose_entries", "    choose_entries", "plain", "race"
    ),
    "ordered_before_ranked": _fault(
        _BARRIER + "\n  // In the pool's order", "\n  // In the pool's order", "plain", "race"
    ),
    "parents_before_order": _fault(
        _BARRIER + "\n  // A node's parent", "\n  // A node's parent", "plain", "race"
    ),
    "ancestors_before_parents": _fault(_BARRIER + "\n  // Ancestors", "\n  // Ancestors", "race"),
    "past_the_pool": _fault("first < entries && key(first)", "key(first)", only="large_pools"),
    "ties_to_the_later": _fault("rank_key(scores[i], i);\n  ", "rank_key(scores[i], -i);\n  "),
    "one_too_few": _fault("if (found < enough) continue;", "if (found <= enough) continue;"),
    "stops_too_early": _fault("if (found == enough) break;", "if (found <= enough + 1) break;"),
    "only_the_first_thousand": _fault(
        "first - own < entries - 1;", "first < 0;", only="large_pools"
    ),
    "all_in_every_word": _fault("if (n / kWordBits == i % words) word", "word"),
    "parent_out_of_bounds": _fault("before > 0 ? before - 1 : 0", "before - 1", only="garbage"),
}
