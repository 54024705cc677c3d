"""Faults planted in the ticket of the last block, for every kernel that draws one."""

from __future__ import annotations

from tests.emulation.fault import Fault

_TICKET = "csrc/cuda/ticket.h"
_BARRIER = "  __syncthreads();\n"
_CHANGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "no_barrier_before_ticket": ("int* flag) {\n" + _BARRIER, "int* flag) {\n", ("plain", "race")),
    "no_barrier_after_ticket": (_BARRIER + "  return *flag;", "  return *flag;", ("race",)),
    "no_fence_before_ticket": ("    fence();\n    *flag", "    *flag", ("race",)),
    "no_fence_after_ticket": ("      fence();\n      *ticket", "      *ticket", ("race",)),
    "first_block_is_taken": ("== blocks - 1;", "== 0;", ("race",)),
    "ticket_kept": ("      *ticket = 0;\n", "", ("plain",)),
}


def ticket_faults(check: str, unit: str, only: str = "", without: str = "") -> dict[str, Fault]:
    """Of the kernel in `unit`; `without` names one that does not matter to it."""
    return {
        name: Fault(_TICKET, old, new, check, builds, unit, only)
        for name, (old, new, builds) in _CHANGES.items()
        if name != without
    }
