"""Faults planted in tree_accept."""

from __future__ import annotations

from emulation.fault import Fault

_ACCEPT = "csrc/cuda/tree_accept.cu"
_ACCEPT_ROW = "csrc/cuda/tree_accept_row.h"
_ACCEPT_CONFIRM = "csrc/cuda/tree_accept_confirm.cu"
_BARRIER = "  __syncthreads();\n"

FAULTS: dict[str, Fault] = {
    "no_barrier_before_ticket": Fault(
        _ACCEPT_ROW,
        "Scratch* scratch) {\n" + _BARRIER + "  if (threadIdx.x == 0) {",
        "Scratch* scratch) {\n  if (threadIdx.x == 0) {",
        "tree_accept",
        ("plain", "race"),
        _ACCEPT,
    ),
    "no_fence_before_ticket": Fault(
        _ACCEPT_ROW,
        "    __threadfence();\n    scratch->last",
        "    scratch->last",
        "tree_accept",
        ("race",),
        _ACCEPT,
    ),
    "no_fence_after_ticket": Fault(
        _ACCEPT_ROW,
        "      __threadfence();\n      *ticket",
        "      *ticket",
        "tree_accept",
        ("race",),
        _ACCEPT,
    ),
    "first_block_walks": Fault(
        _ACCEPT_ROW, "== blocks - 1;", "== 0;", "tree_accept", ("race",), _ACCEPT
    ),
    "ticket_kept": Fault(
        _ACCEPT_ROW, "      *ticket = 0;\n", "", "tree_accept", ("plain",), _ACCEPT
    ),
    "reduction_overtaken": Fault(
        _ACCEPT_ROW,
        _BARRIER.rstrip() + "  // everybody has read the result of the call before\n",
        "",
        "tree_accept",
        ("plain", "race"),
        _ACCEPT,
    ),
    "past_the_row": Fault(
        _ACCEPT_ROW,
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
    "passes_spans_over": Fault(
        _ACCEPT_CONFIRM, "tops[mine] >= floor", "tops[mine] > floor", "tree_accept", ("plain",)
    ),
    "noise_of_the_root": Fault(
        _ACCEPT_CONFIRM, "p.position[b] + depth)", "p.position[b])", "tree_accept", ("plain",)
    ),
}
