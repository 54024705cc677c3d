"""Faults planted in tree_grow_."""

from __future__ import annotations

from tests.emulation.fault import Fault
from tests.emulation.faults_ticket import ticket_faults

_GROW = "csrc/cuda/tree_grow.cu"
_GROW_ROW = "csrc/cuda/tree_grow_row.h"
_BARRIER = "  __syncthreads();\n"


def _fault(old: str, new: str, *builds: str, file: str = _GROW, only: str = "kinds") -> Fault:
    return Fault(file, old, new, "tree_grow", builds or ("plain",), _GROW, only)


FAULTS: dict[str, Fault] = {
    **ticket_faults("tree_grow", _GROW, only="kinds", without="no_barrier_before_ticket"),
    # No schedule of the plain build shows it: it takes a block that stops between two lines.
    "no_barrier_before_ticket": _fault(
        "int* flag) {\n" + _BARRIER, "int* flag) {\n", "race", file="csrc/cuda/ticket.h"
    ),
    "past_the_row": _fault(
        "if (vectors && first + kOctet <= vocab)", "if (vectors)", file="csrc/cuda/logit_row.h"
    ),
    "past_the_nodes": _fault("if (i < left) octet[i] =", "octet[i] =", only="long_rows"),
    "best_before_all_warps": _fault(
        _BARRIER + "  for (int w = 0; w < kSettleWarps; ++w) mine",
        "  for (int w = 0; w < kSettleWarps; ++w) mine",
        "plain",
        "race",
    ),
    "sum_before_all_warps": _fault(
        _BARRIER + "  sum = 0;\n", "  sum = 0;\n", "race", only="long_rows"
    ),
    "taken_before_chosen": _fault(
        _BARRIER + "\n  const GrowRule rule", "\n  const GrowRule rule", "plain", "race"
    ),
    "replaced_before_read": _fault(
        _BARRIER.rstrip() + "  // everybody has read what stands in current\n", "", "race"
    ),
    "read_before_replaced": _fault(
        "shared->current[index] = next;\n    }\n  " + _BARRIER,
        "shared->current[index] = next;\n    }\n",
        "race",
    ),
    "taken_twice": _fault("octet_best(y, first, taken - 1)", "octet_best(y, first, taken)"),
    "scores_of_another_span": _fault(
        "if (held != index) hold(index);", "if (held < 0) hold(index);", only="long_rows"
    ),
    "one_span_too_few": _fault(
        "count = k < spans ? k : spans;", "count = k < spans ? k - 1 : spans;", only="long_rows"
    ),
    "spans_twice": _fault("shared->best[s] < before)", "shared->best[s] <= before)"),
    "one_buffer_for_all_rounds": _fault("[(rank + 1) % 2]", "[0]", "race", only="long_rows"),
    "ranked_before_copied": _fault(
        "shared->best[i] = keys[i];\n    __syncthreads();\n",
        "shared->best[i] = keys[i];\n",
        "race",
        only="shapes",
    ),
    "carried_in_part": _fault("for (; unit < units; unit += kWarp) to", "if (unit < 0) to"),
    "noise_of_the_root": _fault("p.position[b], p.level - 1", "p.position[b], 0", file=_GROW_ROW),
    "ends_are_expanded": _fault(
        "rank_key(is_end(token, p.ends, p.end_count) ? kLowest : total, place)",
        "rank_key(total, place)",
    ),
    "carried_before_chosen": _fault(
        _BARRIER + "  carry(p, b, &shared);", "  carry(p, b, &shared);", "race"
    ),
    "carried_in_large_units": _fault(
        "p.output_batch_stride | p.output_node_stride | p.row_bytes;",
        "p.output_batch_stride | p.output_node_stride;",
    ),
    "one_node_too_many": _fault("if (rank >= k) continue;", "if (rank > k) continue;"),
}
