#include "ops/tree_grow.h"

#include <torch/library.h>

#include "cpu/tree_grow.h"

namespace hivis {
namespace {

// What only a body that can read the tensors for free can check.
void check_values(const cpu::TreeGrowParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    TORCH_CHECK(std::isfinite(p.temperature[b]) && p.temperature[b] >= 0, "temperature[", b,
                "]: wanted a finite number, 0 or more, got ", p.temperature[b]);
  }
}

void tree_grow_cpu(const at::Tensor& logits, const at::Tensor& seed, const at::Tensor& position,
                   const at::Tensor& temperature, const at::Tensor& ends, const at::Tensor& output,
                   const at::Tensor& pool_scores, const at::Tensor& pool_tokens,
                   const at::Tensor& pool_parents, const at::Tensor& nodes, const at::Tensor& slots,
                   const at::Tensor& tokens, const at::Tensor& scores, const at::Tensor& words,
                   const at::Tensor& carried, int64_t level, double sharpness, bool noise) {
  const TreeGrowTensors tensors{logits, seed,        position,    temperature,  ends,
                                output, pool_scores, pool_tokens, pool_parents, nodes,
                                slots,  tokens,      scores,      words,        carried};
  const TreeGrowShape shape = check_tree_grow(tensors, level, sharpness);
  cpu::TreeGrowParams params{};
  set_tree_grow(shape, tensors, level, sharpness, noise, &params);
  check_values(params);
  cpu::tree_grow(params);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kTreeGrowSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("tree_grow_", &tree_grow_cpu); }

}  // namespace hivis
