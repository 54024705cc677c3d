"""Faults planted in tree_accept."""

from __future__ import annotations

from tests.emulation.fault import Fault
from tests.emulation.faults_ticket import ticket_faults

_ACCEPT = "csrc/cuda/tree_accept.cu"
_ACCEPT_ROW = "csrc/cuda/tree_accept_row.h"
_LOGIT_ROW = "csrc/cuda/logit_row.h"
_ACCEPT_CONFIRM = "csrc/cuda/tree_accept_confirm.cu"
_BARRIER = "  __syncthreads();\n"

FAULTS: dict[str, Fault] = {
    **ticket_faults("tree_accept", _ACCEPT),
    "reduction_overtaken": Fault(
        _ACCEPT_ROW,
        _BARRIER.rstrip() + "  // everybody has read the result of the call before\n",
        "",
        "tree_accept",
        ("plain", "race"),
        _ACCEPT,
    ),
    "past_the_row": Fault(
        _LOGIT_ROW,
        "if (vectors && first + kOctet <= vocab)",
        "if (vectors)",
        "tree_accept",
        ("plain",),
        _ACCEPT,
    ),
    "last_child": Fault(
        _ACCEPT_ROW,
        "        found = greater(found, static_cast<uint64_t>(kMaxNodes - n));",
        "        found = static_cast<uint64_t>(kMaxNodes - n);",
        "tree_accept",
        ("plain",),
        _ACCEPT,
        only="trees",
    ),
    "emits_the_node_itself": Fault(
        _ACCEPT_ROW,
        "emitted[depth] = token;",
        "emitted[depth] = tokens[node];",
        "tree_accept",
        ("plain",),
        _ACCEPT,
    ),
    "emitted_not_filled_up": Fault(
        _ACCEPT_ROW,
        "    path[i] = node;\n    emitted[i] = token;\n",
        "    path[i] = node;\n    if (i == depth) emitted[i] = token;\n",
        "tree_accept",
        ("plain",),
        _ACCEPT,
    ),
    "confirms_the_last_draw_alone": Fault(
        _ACCEPT_CONFIRM,
        "token = p.emitted[b * (p.max_depth + 1) + entry];",
        "token = p.next_token[b];",
        "tree_accept",
        ("plain",),
    ),
    "tie_to_the_higher_token": Fault(
        _ACCEPT,
        "for (int j = kOctet - 1; j >= 0; --j) token",
        "for (int j = 0; j < kOctet; ++j) token",
        "tree_accept",
        ("plain",),
        only="long_rows",
    ),
    "stale_noise": Fault(
        _ACCEPT, "depth != noise_depth)", "noise_depth < 0)", "tree_accept", ("plain",)
    ),
    "nan_unseen": Fault(
        _ACCEPT,
        "nan ? kNanKey : key_of(most)",
        "key_of(most)",
        "tree_accept",
        ("plain",),
        only="bad_rows",
    ),
    "depths_too_early": Fault(
        _ACCEPT,
        _BARRIER + "  if (static_cast<int>(threadIdx.x) < count) {",
        "  if (static_cast<int>(threadIdx.x) < count) {",
        "tree_accept",
        ("plain", "race"),
    ),
    "one_too_many": Fault(
        _ACCEPT_CONFIRM,
        "sums.count >= rule.top_k) return false;",
        "sums.count > rule.top_k) return false;",
        "tree_accept",
        ("plain",),
    ),
    "total_before_top_k": Fault(
        _ACCEPT_CONFIRM,
        "has_top_k(rule, p.vocab) ? drawn.x : kLowest;",
        "kLowest;",
        "tree_accept",
        ("plain",),
    ),
    "sums_overtaken": Fault(
        _ACCEPT_CONFIRM,
        _BARRIER.rstrip() + "  // everybody has read the result of the call before\n",
        "",
        "tree_accept",
        ("plain", "race"),
    ),
    "judged_too_early": Fault(
        _ACCEPT_CONFIRM,
        _BARRIER + "  const int first =",
        "  const int first =",
        "tree_accept",
        ("plain", "race"),
    ),
    "one_too_few_in_the_total": Fault(
        _ACCEPT_CONFIRM,
        "reached(middle) >= rule.top_k",
        "reached(middle) > rule.top_k",
        "tree_accept",
        ("plain",),
    ),
    "passes_spans_over": Fault(
        _ACCEPT_CONFIRM, "tops[mine] >= floor", "tops[mine] > floor", "tree_accept", ("plain",)
    ),
    "noise_of_the_root": Fault(
        _ACCEPT_CONFIRM, "p.position[b], depth)", "p.position[b], 0)", "tree_accept", ("plain",)
    ),
}
