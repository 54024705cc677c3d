// Who may share counters. Kernels of one stream run one after the other, so they share one buffer.
// A captured graph may be replayed on any stream, at the same time as other work: each captured
// call gets counters that no other call ever gets, from a supply cleared before the capture.
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <map>
#include <mutex>
#include <utility>

#include "ops/tickets.h"

namespace hivis {
namespace {

constexpr int64_t kSupply = int64_t{1} << 20;  // counters for captured calls, per device: 4 MiB
constexpr int64_t kLine = 32;                  // counters of different calls share no 128 bytes

struct Book {
  std::mutex mutex;
  std::map<std::pair<int, cudaStream_t>, at::Tensor> of_stream;
  std::map<int, at::Tensor> supply;  // what is left of it
};

// Never destroyed: at exit, torch's allocator may be gone already.
Book& book() {
  static Book* const the_book = new Book;
  return *the_book;
}

}  // namespace

at::Tensor tickets(at::Device device, cudaStream_t stream, int64_t count) {
  const auto zeros = [&](int64_t size) {
    const c10::InferenceMode off(false);  // a buffer outlives the mode in which it was first needed
    return at::zeros({size}, at::TensorOptions().device(device).dtype(at::kInt));
  };
  const int64_t wanted = (count + kLine - 1) / kLine * kLine;
  const std::lock_guard<std::mutex> lock(book().mutex);
  at::Tensor& supply = book().supply[device.index()];

  if (is_capturing(stream)) {
    // Captured without a call before it, or too many captures: then clearing is captured, too.
    if (!supply.defined() || supply.numel() < wanted) return zeros(count);
    const at::Tensor mine = supply.narrow(0, 0, count);
    supply = supply.narrow(0, wanted, supply.numel() - wanted);
    return mine;
  }
  if (!supply.defined()) {
    supply = zeros(kSupply);
    synchronize(stream);  // once: captured graphs are replayed on other streams
  }
  at::Tensor& mine = book().of_stream[{device.index(), stream}];
  if (!mine.defined() || mine.numel() < wanted) mine = zeros(wanted);
  return mine.narrow(0, 0, count);
}

}  // namespace hivis
