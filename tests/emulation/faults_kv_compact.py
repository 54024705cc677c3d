"""Faults planted in kv_compact."""

from __future__ import annotations

from emulation.fault import Fault

_KV_COMPACT = "csrc/cuda/kv_compact.cu"
_BARRIER = "  __syncthreads();\n"

FAULTS: dict[str, Fault] = {
    "no_barrier_before_ticket": Fault(
        _KV_COMPACT,
        "  // The last block of the sequence advances its length.\n" + _BARRIER,
        "",
        "kv_compact",
        ("plain", "race"),
    ),
    "no_fence": Fault(
        _KV_COMPACT,
        "    __threadfence();\n    if (atomicAdd",
        "    if (atomicAdd",
        "kv_compact",
        ("race",),
    ),
    "first_block_advances": Fault(
        _KV_COMPACT, "== gridDim.x - 1) {", "== 0) {", "kv_compact", ("plain",)
    ),
    "ticket_kept": Fault(_KV_COMPACT, "      p.tickets[b] = 0;\n", "", "kv_compact", ("plain",)),
    "no_tail": Fault(
        _KV_COMPACT,
        "slab < p.layers * 2 * p.heads) {",
        "slab >= 0) {",
        "kv_compact",
        ("plain",),
    ),
    "path_tail": Fault(
        _KV_COMPACT, "to < count ? path[to] : to", "path[to]", "kv_compact", ("plain",)
    ),
    "past_the_slab": Fault(
        _KV_COMPACT,
        "old_len >= 0 && old_len + from < p.rows",
        "old_len >= 0",
        "kv_compact",
        ("plain",),
    ),
    "before_the_slab": Fault(
        _KV_COMPACT, "old_len >= 0 && old_len + from", "old_len + from", "kv_compact", ("plain",)
    ),
    "past_the_path": Fault(
        _KV_COMPACT,
        "wanted < p.path_width ? wanted : p.path_width",
        "wanted",
        "kv_compact",
        ("plain",),
    ),
    "words_too_wide": Fault(
        _KV_COMPACT, "if (all % 4 == 0)", "if (all % 2 == 0)", "kv_compact", ("plain",)
    ),
}
