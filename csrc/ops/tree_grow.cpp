#include "ops/tree_grow.h"

#include <torch/library.h>

#include "cpu/tree_grow.h"

namespace hivis {
namespace {

// Checks values here alone, since on a GPU that would mean waiting for it.
void tree_grow_cpu(const TreeGrowParams& p, at::Device) {
  for (int64_t b = 0; b < p.batch; ++b) {
    TORCH_CHECK(std::isfinite(p.temperature[b]) && p.temperature[b] >= 0, "temperature[", b,
                "]: wanted a finite number, 0 or more, got ", p.temperature[b]);
  }
  cpu::tree_grow(p);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kTreeGrowSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("tree_grow_", &tree_grow_op<tree_grow_cpu>); }

}  // namespace hivis
