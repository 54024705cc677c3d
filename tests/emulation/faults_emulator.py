"""Faults planted in the toy kernels: what the emulator promises to notice."""

from __future__ import annotations

from tests.emulation.fault import Fault

_TOY = "tests/emulation/toy.cu"
_BARRIER = "  __syncthreads();\n"

FAULTS: dict[str, Fault] = {
    "no_barrier": Fault(
        _TOY,
        "  if (lane == 0) warp_sums[warp] = x;\n" + _BARRIER,
        "  if (lane == 0) warp_sums[warp] = x;\n",
        "emulator",
        ("plain", "race"),
    ),
    "no_barrier_before_ticket": Fault(
        _TOY,
        "  // The last block adds up the partial sums.\n" + _BARRIER,
        "",
        "emulator",
        ("plain", "race"),
    ),
    "no_fence_before_ticket": Fault(
        _TOY,
        "    __threadfence();\n    *last = atomicAdd",
        "    *last = atomicAdd",
        "emulator",
        ("race",),
    ),
    "no_fence_after_ticket": Fault(
        _TOY,
        "== gridDim.x - 1;\n    __threadfence();\n",
        "== gridDim.x - 1;\n",
        "emulator",
        ("race",),
    ),
    "first_block_merges": Fault(_TOY, "== gridDim.x - 1;", "== 0;", "emulator", ("race",)),
    "ticket_kept": Fault(_TOY, "    *p.tickets = 0;\n", "", "emulator", ("plain",)),
    "past_the_end": Fault(_TOY, "i < p.count ?", "i <= p.count ?", "emulator", ("plain",)),
    "uninitialized": Fault(
        _TOY,
        "  for (int i = 0; i < 4; ++i) c[i] = p.c[lane * 4 + i];\n",
        "",
        "emulator",
        ("plain",),
    ),
    "lane_exits": Fault(
        _TOY,
        "  float x = i < p.count",
        "  if (threadIdx.x == 5) return;\n  float x = i < p.count",
        "emulator",
        ("plain",),
    ),
    "lane_stays_away": Fault(
        _TOY,
        "x += __shfl_xor_sync(kAllLanes, x, step);\n  if (lane == 0)",
        "if (lane != 7) x += __shfl_xor_sync(kAllLanes, x, step);\n  if (lane == 0)",
        "emulator",
        ("plain",),
    ),
    "barrier_in_branch": Fault(
        _TOY,
        "  // The last block adds up the partial sums.\n" + _BARRIER,
        "  if (warp == 0) __syncthreads();\n",
        "emulator",
        ("plain",),
    ),
    "copy_not_awaited": Fault(
        _TOY, "cp_async_wait<kStages - 2>()", "cp_async_wait<kStages - 1>()", "emulator", ("plain",)
    ),
    "copy_never_awaited": Fault(
        _TOY, "    cp_async_wait<kStages - 2>();\n", "", "emulator", ("plain",)
    ),
    "no_barrier_after_copy": Fault(
        _TOY,
        "    cp_async_wait<kStages - 2>();\n  " + _BARRIER,
        "    cp_async_wait<kStages - 2>();\n",
        "emulator",
        ("plain", "race"),
    ),
    "copy_too_early": Fault(
        _TOY,
        "    cp_async_wait<kStages - 2>();\n  "
        + _BARRIER
        + "    load_tile(p, tile + kStages - 1, shared);\n",
        "    load_tile(p, tile + kStages - 1, shared);\n    cp_async_wait<kStages - 1>();\n  "
        + _BARRIER,
        "emulator",
        ("plain", "race"),
    ),
    "copy_misaligned": Fault(
        _TOY,
        "tile * kTileBytes + offset : 0)",
        "tile * kTileBytes + offset + 4 : 0)",
        "emulator",
        ("plain",),
    ),
    "bank_conflict": Fault(
        _TOY, "constexpr int kPitch = 16;", "constexpr int kPitch = 32;", "emulator", ("plain",)
    ),
    "row_misaligned": Fault(
        _TOY, "  ldmatrix(matrix, row);", "  ldmatrix(matrix, row + 2);", "emulator", ("plain",)
    ),
    "row_out_of_bounds": Fault(
        _TOY,
        "  ldmatrix(matrix, row);",
        "  ldmatrix(matrix, row + kPitch);",
        "emulator",
        ("plain",),
    ),
    "shared_out_of_bounds": Fault(
        _TOY, "  shared[i] = i * i;", "  shared[i + 1] = i * i;", "emulator", ("plain", "race")
    ),
    "no_syncwarp": Fault(_TOY, "  __syncwarp(all);\n", "", "emulator", ("plain", "race")),
    "wrong_mask": Fault(
        _TOY, "__shfl_xor_sync(0x0fu, i, 3)", "__shfl_xor_sync(0x07u, i, 3)", "emulator", ("plain",)
    ),
    "never_raised_flag": Fault(_TOY, "  atomicAdd(&p.flags[b], 1u);\n", "", "emulator", ("plain",)),
    "endless_loop": Fault(
        _TOY,
        "while (atomicAdd(&p.flags[b - 1], 0u) == 0) {",
        "while (*const_cast<volatile uint32_t*>(&p.flags[b - 1]) == 0) {",
        "emulator",
        ("plain",),
    ),
    "no_fence_after_flag": Fault(
        _TOY, "    __threadfence();\n    number =", "    number =", "emulator", ("race",)
    ),
}
