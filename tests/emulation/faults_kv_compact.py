"""Faults planted in kv_compact."""

from __future__ import annotations

from tests.emulation.fault import Fault
from tests.emulation.faults_ticket import ticket_faults

_KV_COMPACT = "csrc/cuda/kv_compact.cu"

FAULTS: dict[str, Fault] = {
    # Behind the ticket the last block only writes: there is nothing that it could read too early.
    **ticket_faults("kv_compact", _KV_COMPACT, without="no_fence_after_ticket"),
    "no_tail": Fault(
        _KV_COMPACT, "slab < p.layers * 2 * p.heads) {", "slab >= 0) {", "kv_compact", ("plain",)
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
