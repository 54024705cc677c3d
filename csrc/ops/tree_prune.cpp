#include "ops/tree_prune.h"

#include <torch/library.h>

#include "cpu/tree_prune.h"

namespace hivis {
namespace {

// Checks values here alone, since on a GPU that would mean waiting for it.
void tree_prune_cpu(const TreePruneParams& p, at::Device) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const int32_t* parents = p.pool_parents + b * p.pool;
    for (int64_t i = 1; i < p.entries; ++i) {
      TORCH_CHECK(parents[i] >= 0 && parents[i] < i, "pool_parents[", b, ", ", i, "]: wanted 0..",
                  i - 1, " (parents come first), got ", parents[i]);
    }
  }
  cpu::tree_prune(p);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kTreePruneSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("tree_prune", &tree_prune_op<tree_prune_cpu>); }

}  // namespace hivis
