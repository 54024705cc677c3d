"""Faults planted in tree_attention."""

from __future__ import annotations

from tests.emulation.fault import Fault
from tests.emulation.faults_ticket import ticket_faults

_TILE = "csrc/cuda/tree_attention_tile.h"
_KERNEL = "csrc/cuda/tree_attention_kernel.h"
_MERGE = "csrc/cuda/tree_attention_merge.h"
_BITS = "csrc/core/tree_bits.h"
_ANY = "csrc/cuda/tree_attention_any.cu"
_UNIT = "csrc/cuda/tree_attention_64.cu"
_WAIT = "    cp_async_wait<Tr::kStages - 2>();\n"
_BARRIER = "    __syncthreads();\n"


def _fault(file: str, old: str, new: str, *builds: str, only: str = "") -> Fault:
    return Fault(file, old, new, "tree_attention", builds or ("plain",), _UNIT, only)


FAULTS: dict[str, Fault] = {
    # --- Copies and stages
    "no_barrier_after_copy": _fault(_KERNEL, _WAIT + _BARRIER, _WAIT, "plain", "race"),
    "copy_never_awaited": _fault(_KERNEL, _WAIT, ""),
    "copy_awaited_too_late": _fault(
        _KERNEL, "cp_async_wait<Tr::kStages - 2>", "cp_async_wait<Tr::kStages - 1>"
    ),
    "copy_into_the_stage_in_use": _fault(
        _KERNEL, "stage == 0 ? Tr::kStages - 1 : stage - 1;", "stage;"
    ),
    "stale_stage": _fault(
        _KERNEL, "stage = stage == Tr::kStages - 1 ? 0 : stage + 1;", "stage = 0;"
    ),
    "no_barrier_after_finding_the_seen": _fault(
        _KERNEL, "    find_seen<Tr>(p, w, seen);\n" + _BARRIER, "    find_seen<Tr>(p, w, seen);\n",
        "plain", "race",
    ),
    # --- Masks and tails
    "straddling_tile_not_masked": _fault(
        _KERNEL, "(index + 1) * Tr::kKeys > w.kv_len", "index * Tr::kKeys >= w.kv_len"
    ),
    "window_without_its_upper_word": _fault(
        _BITS, "low >> shift | high << (kWordBits - shift)", "low >> shift"
    ),
    "bits_of_no_node": _fault(
        _BITS, "(words[0] & node_bits(0, nodes)) << -first", "words[0] << -first"
    ),
    "unseen_rows_copied": _fault(
        _TILE, "(node < p.nodes && sees(seen, node))", "node < p.nodes"
    ),
    "rows_behind_the_last_copied": _fault(
        _TILE, "(node < p.nodes && sees(seen, node))", "(node >= p.nodes || sees(seen, node))"
    ),
    "query_rows_that_do_not_exist": _fault(_TILE, "             at < w.rows);", "true);"),
    "padding_not_zero": _fault(_KERNEL, "padding ? 0u : both", "both"),
    "sign_of_the_scale_lost": _fault(
        _KERNEL, "s[tile][t][i] *= factor;", "s[tile][t][i] *= factor > 0 ? factor : -factor;",
        only="scales",
    ),
    # --- Sums
    "results_uninitialized": _fault(
        _KERNEL, "for (int i = 0; i < 4; ++i) acc.o[tile][t][i] = 0.0f;", ";"
    ),
    "sums_uninitialized": _fault(_KERNEL, "      acc.sum[tile][half] = 0.0f;\n", ""),
    "scores_uninitialized": _fault(_KERNEL, "Scores<Tr> s = {};", "Scores<Tr> s;"),
    "sum_not_rescaled": _fault(
        _KERNEL, "      acc.sum[tile][half] *= alpha[tile][half];\n", ""
    ),
    "results_never_rescaled": _fault(
        _KERNEL, "if (!__any_sync(kAllLanes, changed)) return;", "if (changed || true) return;"
    ),
    "half_a_row_maximum": _fault(
        _KERNEL, "      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));\n", ""
    ),
    "columns_of_another_fragment": _fault(
        _KERNEL, "at.lane / 16 * 8 + at.lane % 8", "at.lane / 8 % 2 * 8 + at.lane % 8"
    ),
    # --- Splits and their merge
    "a_tile_left_out": _fault(_TILE, "int64_t{tiles} * (w.split + 1) / w.splits);",
                              "int64_t{tiles} * (w.split + 1) / w.splits - (w.split == 1));"),
    **ticket_faults("tree_attention", _UNIT),
    "weights_read_too_early": _fault(
        _MERGE, "  }\n  __syncthreads();\n\n  // A thread", "  }\n\n  // A thread", "plain", "race"
    ),
    "last_slot_left_out": _fault(
        _MERGE, "for (; slot < slots; ++slot) {", "for (; slot < slots - 1; ++slot) {",
    ),
    "last_slot_of_a_batch_left_out": _fault(
        _MERGE, "total[i].x += weight * part[s][i].x;",
        "if (s == kSlots - 1) continue;\n          total[i].x += weight * part[s][i].x;",
    ),
    "one_weight_for_a_batch": _fault(
        _MERGE, "weights[row_weights[i] + slot + s]", "weights[row_weights[i] + slot]",
    ),
    "order_of_arrival": _fault(
        _MERGE,
        "for (int s = 0; s < kSlots; ++s) {\n#pragma unroll\n"
        "        for (int i = 0; i < kBatch; ++i) {\n          const float weight",
        "for (int late = 0; late < kSlots; ++late) {\n"
        "        const int s = (late + w.split) % kSlots;\n#pragma unroll\n"
        "        for (int i = 0; i < kBatch; ++i) {\n          const float weight",
    ),
    # --- The kernel without tensor cores
    "any_last_key": Fault(
        _ANY, "key < kv_len || (key < total && sees", "key <= kv_len || (key < total && sees",
        "tree_attention", ("plain",), only="without_tensor_cores",
    ),
    "any_no_rescale": Fault(
        _ANY, "for (int i = 0; i < kColumns; ++i) o[i] *= alpha;", ";", "tree_attention",
        ("plain",), only="without_tensor_cores",
    ),
}  # fmt: skip
