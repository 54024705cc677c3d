"""How much memory a call takes at its peak, counted allocation by allocation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_of(call: Callable[[], Any]) -> int:
    """Bytes of CPU memory beyond those there before, at the peak of ``call``.

    torch's allocator reports what operators return and what they need inside, such as the mask
    that attention makes of another one. Only what oneDNN and MKL take for themselves is not in it.
    The same in every run.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    live = peak = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        live += size
        peak = max(peak, live)
    return peak


def bytes_of(*tensors: torch.Tensor) -> int:
    """Of their storages, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
