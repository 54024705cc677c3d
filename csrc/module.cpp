// hivis._C: the ops as plain functions, for callers who do not want torch.ops, and build_info().
// Every call goes through torch's dispatcher, so both doors lead to the same checks and bodies.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/utils/pybind.h>

namespace hivis {
namespace {

using at::Tensor;

// The dispatcher's handle for `name`, looked up at the first call.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

Tensor tree_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& kv_len,
                      const Tensor& ancestors, double scale) {
  static const auto op = find_op<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                        const Tensor&, double)>("hivis::tree_attention");
  return op.call(q, k, v, kv_len, ancestors, scale);
}

void kv_compact_(const Tensor& kv, const Tensor& kv_len, const Tensor& path,
                 const Tensor& path_len) {
  static const auto op = find_op<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&)>(
      "hivis::kv_compact_");
  op.call(kv, kv_len, path, path_len);
}

std::tuple<Tensor, Tensor, Tensor> tree_accept(const Tensor& logits, const Tensor& tokens,
                                               const Tensor& parents, const Tensor& seed,
                                               const Tensor& position, const Tensor& temperature,
                                               const Tensor& top_k, const Tensor& top_p,
                                               const Tensor& min_p, int64_t max_depth) {
  static const auto op = find_op<std::tuple<Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
      const Tensor&, const Tensor&, const Tensor&, int64_t)>("hivis::tree_accept");
  return op.call(logits, tokens, parents, seed, position, temperature, top_k, top_p, min_p,
                 max_depth);
}

Tensor shared_noise(const Tensor& seed, const Tensor& position, int64_t count, int64_t vocab) {
  static const auto op =
      find_op<Tensor(const Tensor&, const Tensor&, int64_t, int64_t)>("hivis::shared_noise");
  return op.call(seed, position, count, vocab);
}

py::dict build_info() {
  py::dict info;
  info["version"] = HIVIS_VERSION;
  info["torch"] = HIVIS_TORCH_VERSION;
  info["torch_cuda"] = HIVIS_TORCH_CUDA;
  info["cuda"] = static_cast<bool>(HIVIS_WITH_CUDA);
  info["cuda_arch_list"] = HIVIS_WITH_CUDA ? HIVIS_CUDA_ARCH_LIST : "";
  info["nvcc"] = HIVIS_NVCC_VERSION;
  info["compiler"] = HIVIS_COMPILER;
  info["cpu_flags"] = HIVIS_CPU_FLAGS;
  return info;
}

}  // namespace
}  // namespace hivis

PYBIND11_MODULE(_C, m) {
  using release_gil = py::call_guard<py::gil_scoped_release>;
  m.doc() = "hivis ops for CPU and CUDA tensors; the same ops are torch.ops.hivis.*";

  m.def("tree_attention", &hivis::tree_attention, py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("kv_len"), py::arg("ancestors"), py::arg("scale"), release_gil(), "");
  m.def("kv_compact_", &hivis::kv_compact_, py::arg("kv"), py::arg("kv_len"), py::arg("path"),
        py::arg("path_len"), release_gil(), "");
  m.def(
      "tree_accept", &hivis::tree_accept, py::arg("logits"), py::arg("tokens"), py::arg("parents"),
      py::arg("seed"), py::arg("position"), py::arg("temperature"), py::arg("top_k"),
      py::arg("top_p"), py::arg("min_p"), py::arg("max_depth"), release_gil(),
      "Walk a drafted tree along the target's own draws -> (path, path_len, next_token).\n\n"
      "A node of depth d draws argmax_v(logits[v] / temperature + g(seed, position + d, v)) over\n"
      "its candidates (temperature, top-k, top-p, min-p, in this order; ties stay together); the\n"
      "lowest token id wins a tie, temperature 0 is the argmax of the logits. A child with that\n"
      "token is accepted, otherwise the walk ends.\n\n"
      "logits [B, N, V] f32, bf16 or f16, last dimension contiguous; tokens [B, N] i64 (-1:\n"
      "padding); parents [B, N] i32 (-1 at node 0, parents first); seed, position [B] i64;\n"
      "temperature, top_p, min_p [B] f32; top_k [B] i32; M = max_depth + 1.\n"
      "Returns path [B, M] i32 (the last accepted node repeated to the end), path_len [B] i32\n"
      "(the root included) and next_token [B] i64 (-1: NaN, +inf or nothing finite in the\n"
      "logits).\n"
      "Raises RuntimeError (name, wanted, got) for a wrong rank, shape, dtype, device or stride.");
  m.def(
      "shared_noise", &hivis::shared_noise, py::arg("seed"), py::arg("position"), py::arg("count"),
      py::arg("vocab"), release_gil(),
      "Gumbel noise g(seed, position + i, v) -> [B, count, vocab] f32.\n\n"
      "seed, position [B] i64. A pure function of seed, absolute position and token id, the same\n"
      "bits on every device (Philox4x32-10). Raises RuntimeError (name, wanted, got).");
  m.def("build_info", &hivis::build_info, "");
}
