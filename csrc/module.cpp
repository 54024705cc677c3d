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

std::tuple<Tensor, Tensor, Tensor, Tensor> tree_accept(const Tensor& logits, const Tensor& tokens,
                                                       const Tensor& parents, const Tensor& seed,
                                                       const Tensor& position,
                                                       const Tensor& temperature,
                                                       const Tensor& top_k, const Tensor& top_p,
                                                       const Tensor& min_p, int64_t max_depth) {
  static const auto op = find_op<std::tuple<Tensor, Tensor, Tensor, Tensor>(
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

void tree_grow_(const Tensor& logits, const Tensor& seed, const Tensor& position,
                const Tensor& temperature, const Tensor& ends, const Tensor& output,
                const Tensor& pool_scores, const Tensor& pool_tokens, const Tensor& pool_parents,
                const Tensor& nodes, const Tensor& slots, const Tensor& tokens,
                const Tensor& scores, const Tensor& words, const Tensor& carried, int64_t level,
                double sharpness, bool noise) {
  static const auto op = find_op<void(
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
      const Tensor&, const Tensor&, const Tensor&, int64_t, double, bool)>("hivis::tree_grow_");
  op.call(logits, seed, position, temperature, ends, output, pool_scores, pool_tokens, pool_parents,
          nodes, slots, tokens, scores, words, carried, level, sharpness, noise);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> tree_prune(const Tensor& pool_scores,
                                                              const Tensor& pool_tokens,
                                                              const Tensor& pool_parents,
                                                              int64_t children, int64_t depth,
                                                              int64_t nodes) {
  static const auto op = find_op<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t, int64_t)>("hivis::tree_prune");
  return op.call(pool_scores, pool_tokens, pool_parents, children, depth, nodes);
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
  using py::arg;
  using release_gil = py::call_guard<py::gil_scoped_release>;
  m.doc() =
      "hivis ops for CPU and CUDA tensors; torch.ops.hivis.* are the same ops.\n\n"
      "B batch, N tree nodes (at most 256), S cache rows, H heads, Hkv key/value heads, D head "
      "dim,\n"
      "L layers, V vocabulary, M = max_depth + 1, W = ceil(N / 64). hivis.ops has typed wrappers,\n"
      "hivis.ops.reference the plain-torch definition of each op.";

  m.def("tree_attention", &hivis::tree_attention, arg("q"), arg("k"), arg("v"), arg("kv_len"),
        arg("ancestors"), arg("scale"), release_gil(),
        R"(Attention of every tree node over the cached prefix and over its own ancestors.

q: [B, N, H, D] f32, bf16 or f16. k, v: [B, Hkv, S, D], dtype of q, strided views allowed.
kv_len: [B] i32, kv_len + N <= S. ancestors: [B, N, W] i64: bit j % 64 of word j // 64 of node n
says that n sees row kv_len + j. Every node sees rows 0..kv_len-1; a node without a bit gets zeros.
scale: factor on the scores. Returns [B, N, H, D], dtype of q.
Source: tree attention of SpecInfer (section 4) and Medusa (section 3.1).
Raises RuntimeError (name: wanted X, got Y) for a wrong rank, shape, dtype, device, stride or, on
the CPU, length.)");
  m.def("kv_compact_", &hivis::kv_compact_, arg("kv"), arg("kv_len"), arg("path"), arg("path_len"),
        release_gil(),
        R"(Move row kv_len + path[i] to row kv_len + i for i < path_len; then kv_len += path_len.

kv: [L, 2, B, Hkv, S, D], any dtype, changed in place. kv_len: [B] i32, changed in place.
path: [B, M] i32, strictly increasing. path_len: [B] i32, 0..M. Returns nothing.
Raises RuntimeError (name: wanted X, got Y) for a wrong rank, shape, dtype, device or stride, for an
argument within the memory of kv or kv_len or, on the CPU, a path that does not increase or leaves
the cache.)");
  m.def("tree_accept", &hivis::tree_accept, arg("logits"), arg("tokens"), arg("parents"),
        arg("seed"), arg("position"), arg("temperature"), arg("top_k"), arg("top_p"), arg("min_p"),
        arg("max_depth"), release_gil(),
        R"(Walk a drafted tree along the target's own draws, argmax(logits / temperature + noise).

logits: [B, N, V] f32, bf16 or f16. tokens: [B, N] i64. parents: [B, N] i32, -1 at the root.
seed, position: [B] i64. temperature: [B] f32, 0 is greedy. top_k: [B] i32, 0 is off.
top_p: [B] f32, 1 is off. min_p: [B] f32, 0 is off. max_depth: deepest level, M = max_depth + 1.
Returns path [B, M] i32, path_len [B] i32, next_token [B] i64 (-1: NaN, or nothing finite) and
emitted [B, M] i64, the tokens drawn along the path, next_token to the end.
Source: the Gumbel-max trick, with noise that depends on seed, position and token id only.
Raises RuntimeError (name: wanted X, got Y) for a wrong rank, shape, dtype, device, stride or, on
the CPU, value.)");
  m.def("shared_noise", &hivis::shared_noise, arg("seed"), arg("position"), arg("count"),
        arg("vocab"), release_gil(),
        R"(Gumbel noise g(seed, position + i, v) of `count` successive positions.

seed, position: [B] i64. Returns [B, count, vocab] f32, the same bits on every machine.
Source: Philox4x32-10 (Salmon et al. 2011, section 4.3) keyed by seed, position and token id.
Raises RuntimeError (name: wanted X, got Y) for a wrong rank, shape, dtype, device or count.)");
  m.def("tree_grow_", &hivis::tree_grow_, arg("logits"), arg("seed"), arg("position"),
        arg("temperature"), arg("ends"), arg("output"), arg("pool_scores"), arg("pool_tokens"),
        arg("pool_parents"), arg("nodes"), arg("slots"), arg("tokens"), arg("scores"), arg("words"),
        arg("carried"), arg("level"), arg("sharpness"), arg("noise"), release_gil(),
        R"(Grow draft trees by one level: k children for each node, and the k best of these all.

logits: [B, K, V] f32, bf16 or f16, at the nodes of level - 1 (K = 1 at level 1, else k).
seed, position: [B] i64. temperature: [B] f32, 0 is greedy. ends: i64, any number of tokens.
output: [B, K, E], any dtype, the drafter's at those nodes.
Changed in place: the pool of candidates (pool_scores [B, P] f32, pool_tokens [B, P] i64,
pool_parents [B, P] i32) and the frontiers (nodes [R, B, k] i32, slots [R, B, k] i64, tokens
[R, B, k] i64, scores [R, B, k] f32, words [R, B, k, W] i64, carried [R, B, k, E]), of which level writes number
level - 1 and reads the one before. hivis.ops.tree_grow_ says what they hold. Returns nothing.
Source: EAGLE-2 (arXiv 2406.16858, section 4), with scores that know the noise of the draws to come.
Raises RuntimeError (name: wanted X, got Y) for a wrong rank, shape, dtype, device, stride, level,
sharpness or, on the CPU, temperature.)");
  m.def("tree_prune", &hivis::tree_prune, arg("pool_scores"), arg("pool_tokens"),
        arg("pool_parents"), arg("children"), arg("depth"), arg("nodes"), release_gil(),
        R"(The root and the best nodes - 1 entries of a pool of candidates, as a draft tree.

pool_scores [B, P] f32, pool_tokens [B, P] i64, pool_parents [B, P] i32: as tree_grow_ leaves them
after `depth` levels of `children` each.
Returns tokens [B, N] i64, parents [B, N] i32, depths [B, N] i64, ancestors [B, N, W] i64 and
scores [B, N] f32, for N = nodes.
Source: EAGLE-2 (arXiv 2406.16858, section 4.2).
Raises RuntimeError (name: wanted X, got Y) for a wrong rank, shape, dtype, device, stride, depth,
number of nodes or, on the CPU, parent.)");
  m.def("build_info", &hivis::build_info,
        "How this module was built: version, torch, torch_cuda, cuda (linked in or not),\n"
        "cuda_arch_list, nvcc, compiler, cpu_flags.");
}
