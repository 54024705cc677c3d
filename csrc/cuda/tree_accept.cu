// Which drafted nodes the target's own draws lead to, and the token after them.
//
// Two launches. The first one draws at every node as if there were no top-k, top-p or min-p, and
// walks along these draws. With none of the filters that is the answer. Otherwise the second one
// (tree_accept_confirm.cu) checks the draws on the path: a draw that the filters let pass is the
// filtered draw, too. Top-p rejects one with a probability of at most 1 - top_p; from there on the
// second launch draws anew.
//
// survey_kernel: grid (spans / kWarps, N / kGroup, B). A warp owns a span of 256 tokens of kGroup
// nodes, a thread 8 neighboring tokens; their noise depends on a node's depth alone and stays in
// registers from node to node. The warp leaves its best token and, for the second launch, its
// largest x, per node. The last block of a sequence walks, with one reduction over the spans and
// one search for a child per visited node.
//
// Floor: the logits once, B * N * V elements (18.2 MB for N = 60, V = 152064 in bf16: 5.5 us on an
// H100), and 12 bytes of results per 256 tokens. Greedy draws are bound by memory; that is why the
// logits of kInFlight nodes are under way at a time. Else the noise adds about 70 instructions per
// token, depth and group (4 us there), a division about 10 per logit.
// Estimate for that case on an H100, not measured: greedy 12 us, sampled 20 us, confirmed 30 us,
// and 10 to 50 us more for each node at which the filters reject the first draw.
#include "cuda/launch.h"
#include "cuda/tree_accept.h"
#include "cuda/tree_accept_row.h"

namespace hivis::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kGroup = 16;
constexpr int kInFlight = 4;

struct SurveyShared {
  Scratch scratch;
  int32_t parents[kMaxNodes];
  int32_t depth[kGroup];
};

// Depth of a node, or -1 if no walk gets there.
__device__ __forceinline__ int node_depth(const int32_t* parents, int node, int64_t max_depth) {
  int depth = 0;
  while (node > 0) {
    const int parent = parents[node];
    if (parent < 0 || parent >= node || depth == max_depth) return -1;
    node = parent;
    ++depth;
  }
  return depth;
}

// The best token of one node among the warp's.
__device__ __forceinline__ uint64_t span_best(const float (&x)[kOctet],
                                              const float (&noise)[kOctet], int first) {
  float score[kOctet], most = kLowest;
  bool nan = false;
#pragma unroll
  for (int j = 0; j < kOctet; ++j) {
    score[j] = add_rn(x[j], noise[j]);
    nan |= score[j] != score[j];
    most = fmaxf(most, score[j]);
  }
  int token = first;
#pragma unroll
  for (int j = kOctet - 1; j >= 0; --j) token = score[j] == most ? first + j : token;
  return warp_best(pack_best(nan ? kNanKey : key_of(most), token));
}

__device__ __forceinline__ uint32_t span_top(const float (&x)[kOctet]) {
  float top = kLowest;
#pragma unroll
  for (int j = 0; j < kOctet; ++j) top = fmaxf(top, x[j]);
  return warp_max(key_of(top));
}

// Surveys one span of `count` nodes, whose depths are given.
template <class T>
__device__ __forceinline__ void survey(const TreeAcceptParams& p, const Workspace& work, int64_t b,
                                       int64_t span, int first_node, int count,
                                       const int32_t* depths) {
  const SamplingRule rule = rule_of(p, b);
  const bool greedy = rule.temperature == 0.0f, filters = has_filters(rule, p.vocab);
  const int lane = threadIdx.x % kWarp;
  const int first = static_cast<int>(span) * kSpan + lane * kOctet;
  const int64_t seed = p.seed[b], position = p.position[b];

  float noise[kOctet] = {};
  int noise_depth = -1;
  for (int node = 0, end; node < count; node = end) {
    // The next nodes that share a depth: their logits, then their noise while those are under way.
    const int depth = depths[node];
    for (end = node + 1; end < count && end < node + kInFlight && depths[end] == depth;) ++end;
    if (depth < 0) continue;
    Octet<T> octet[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (node + i < end) {
        octet[i] = row_of<T>(p, b, first_node + node + i, rule.temperature).load(first);
      }
    }
    if (!greedy && depth != noise_depth) {
      octet_noise(noise_key(seed, position, depth), first, noise);
      noise_depth = depth;
    }

    // Their results.
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (node + i < end) {
        const int64_t at = (b * p.nodes + first_node + node + i) * work.spans + span;
        float x[kOctet];
        row_of<T>(p, b, 0, rule.temperature).scale(octet[i], x);
        const uint64_t best = span_best(x, noise, first);
        if (lane == 0) work.best[at] = best;
        if (filters) {
          const uint32_t top = span_top(x);
          if (lane == 0) work.top[at] = top;
        }
      }
    }
  }
}

// budget: survey_kernel: registers <= 128
template <class T>
__global__ void __launch_bounds__(kThreads)
    survey_kernel(const TreeAcceptParams p, const Workspace work) {
  auto& shared = *reinterpret_cast<SurveyShared*>(dynamic_shared());
  const int64_t b = blockIdx.z;
  const int nodes = static_cast<int>(p.nodes);
  const int first_node = blockIdx.y * kGroup;
  const int count = nodes - first_node < kGroup ? nodes - first_node : kGroup;

  // Depths of the block's nodes.
  for (int n = threadIdx.x; n < nodes; n += kThreads) shared.parents[n] = p.parents[b * nodes + n];
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < count) {
    shared.depth[threadIdx.x] = node_depth(shared.parents, first_node + threadIdx.x, p.max_depth);
  }
  __syncthreads();

  const int64_t span = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (span < work.spans) survey<T>(p, work, b, span, first_node, count, shared.depth);

  // The last block of the sequence walks.
  if (!is_last_block(&work.tickets[b], gridDim.x * gridDim.y, &shared.scratch.last)) return;
  walk(p, b, 0, 0, &shared.scratch, [&](int node, int) {
    return token_of(
        row_best(work.best + (b * p.nodes + node) * work.spans, work.spans, &shared.scratch));
  });
}

template <class T>
cudaError_t launch_survey(const TreeAcceptParams& p, const Workspace& work, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(divide_up(work.spans, kWarps)),
                  static_cast<unsigned>(divide_up(p.nodes, kGroup)),
                  static_cast<unsigned>(p.batch));
  return launch(survey_kernel<T>, grid, dim3(kThreads), sizeof(SurveyShared), stream, p, work);
}

cudaError_t launch_survey(const TreeAcceptParams& p, const Workspace& work, cudaStream_t stream) {
  switch (p.dtype) {
    case DType::kFloat:
      return launch_survey<float>(p, work, stream);
    case DType::kBFloat16:
      return launch_survey<Bf16>(p, work, stream);
    case DType::kHalf:
      return launch_survey<Half>(p, work, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

int64_t tree_accept_workspace(const TreeAcceptParams& p) {
  return make_workspace(p, nullptr, nullptr).bytes;
}

cudaError_t launch_tree_accept(const TreeAcceptParams& p, void* workspace, uint32_t* tickets,
                               cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  const Workspace work = make_workspace(p, workspace, tickets);
  const cudaError_t status = launch_survey(p, work, stream);
  return status == cudaSuccess ? launch_confirm(p, work, stream) : status;
}

}  // namespace hivis::cuda
