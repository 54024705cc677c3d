#include "ops/tree_accept.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>

#include "cpu/tree_accept.h"

namespace hivis {
namespace {

// What only a body that can read the tensors for free can check.
void check_values(const cpu::TreeAcceptParams& p) {
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
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> tree_accept_cpu(
    const at::Tensor& logits, const at::Tensor& tokens, const at::Tensor& parents,
    const at::Tensor& seed, const at::Tensor& position, const at::Tensor& temperature,
    const at::Tensor& top_k, const at::Tensor& top_p, const at::Tensor& min_p, int64_t max_depth) {
  const TreeAcceptShape shape = check_tree_accept(logits, tokens, parents, seed, position,
                                                  temperature, top_k, top_p, min_p, max_depth);
  at::Tensor path = at::empty({shape.B, max_depth + 1}, parents.options());
  at::Tensor path_len = at::empty({shape.B}, parents.options());
  at::Tensor next_token = at::empty({shape.B}, tokens.options());
  at::Tensor emitted = at::empty({shape.B, max_depth + 1}, tokens.options());

  cpu::TreeAcceptParams params{};
  set_tree_accept<cpu::LogitType>(shape, logits, tokens, parents, seed, position, temperature,
                                  top_k, top_p, min_p, max_depth, path, path_len, next_token,
                                  emitted, &params);
  check_values(params);
  cpu::tree_accept(params);
  return {path, path_len, next_token, emitted};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kTreeAcceptSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("tree_accept", &tree_accept_cpu); }

}  // namespace hivis
