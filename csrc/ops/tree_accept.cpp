#include "ops/tree_accept.h"

#include <torch/library.h>

#include <cmath>

#include "cpu/tree_accept.h"

namespace hivis {
namespace {

// Checks values here alone, since on a GPU that would mean waiting for it.
void tree_accept_cpu(const TreeAcceptParams& p, at::Device) {
  for (int64_t b = 0; b < p.batch; ++b) {
    TORCH_CHECK(std::isfinite(p.temperature[b]) && p.temperature[b] >= 0, "temperature[", b,
                "]: wanted a finite number, 0 or more, got ", p.temperature[b]);
    TORCH_CHECK(p.top_k[b] >= 0, "top_k[", b, "]: wanted 0 (off) or more, got ", p.top_k[b]);
    TORCH_CHECK(p.top_p[b] > 0 && p.top_p[b] <= 1, "top_p[", b,
                "]: wanted more than 0 and at most 1, got ", p.top_p[b]);
    TORCH_CHECK(p.min_p[b] >= 0 && p.min_p[b] <= 1, "min_p[", b, "]: wanted 0..1, got ",
                p.min_p[b]);
    const int32_t* parents = p.parents + b * p.nodes;
    TORCH_CHECK(parents[0] == -1, "parents[", b, ", 0]: wanted -1 (the root), got ", parents[0]);
    for (int64_t n = 1; n < p.nodes; ++n) {
      TORCH_CHECK(parents[n] >= 0 && parents[n] < n, "parents[", b, ", ", n, "]: wanted 0..", n - 1,
                  " (parents come first), got ", parents[n]);
    }
  }
  cpu::tree_accept(p);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kTreeAcceptSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("tree_accept", &tree_accept_op<tree_accept_cpu>); }

}  // namespace hivis
