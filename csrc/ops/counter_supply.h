// Which of a device's counters are in use, by their places. Knows neither torch nor CUDA.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace hivis {

// A power of two times kLine counters; none if `size` is 0.
struct CounterSpan {
  int64_t first = 0, size = 0;
};

class CounterSupply {
 public:
  static constexpr int64_t kLine = 32;  // counters of different calls share no 128 bytes

  explicit CounterSupply(int64_t count) : count_(count) {}

  // At least `count` counters that nobody has; none if there are no more.
  CounterSpan take(int64_t count) {
    int64_t size = kLine;
    while (size < count) size *= 2;
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<int64_t>& free = free_[size];
    if (!free.empty()) {
      const int64_t first = free.back();
      free.pop_back();
      return {first, size};
    }
    if (size > count_ - used_) return {};
    used_ += size;
    return {used_ - size, size};
  }

  // They must be 0 again, and nothing that uses them may be still to come.
  void give_back(CounterSpan span) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_[span.size].push_back(span.first);
  }

 private:
  const int64_t count_;
  std::mutex mutex_;
  int64_t used_ = 0;                              // from here on no span was ever taken
  std::map<int64_t, std::vector<int64_t>> free_;  // by size
};

}  // namespace hivis
