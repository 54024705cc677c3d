"""Faults planted in shared_noise."""

from __future__ import annotations

from tests.emulation.fault import Fault

_SHARED_NOISE = "csrc/cuda/shared_noise.cu"

FAULTS: dict[str, Fault] = {
    "past_the_row": Fault(
        _SHARED_NOISE, "if (token + 3 < p.vocab) out[3]", "out[3]", "shared_noise", ("plain",)
    )
}
