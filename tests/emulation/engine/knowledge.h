// What a thread knows to have happened in other blocks (and, by atomics, in its own).
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>

namespace emulation {

// A moment in the life of a thread. Barriers divide it into phases, and whatever tells others of
// the thread's past, into epochs.
struct Moment {
  uint32_t block;  // serial
  uint32_t phase;
  uint32_t epoch;
  uint16_t thread;
};

class Knowledge {
 public:
  bool empty() const { return phases_.empty() && epochs_.empty(); }
  void clear() {
    phases_.clear();
    epochs_.clear();
  }

  // Everything that the block did before this phase.
  void learn_phase(uint32_t block, uint32_t phase) { raise(phases_, uint64_t{block}, phase); }
  // Everything that the thread did up to this epoch.
  void learn_epoch(uint32_t block, int thread, uint32_t epoch) {
    raise(epochs_, key(block, static_cast<uint16_t>(thread)), epoch);
  }
  void learn(const Knowledge& other) {
    for (const auto& [block, phase] : other.phases_) raise(phases_, block, phase);
    for (const auto& [thread, epoch] : other.epochs_) raise(epochs_, thread, epoch);
  }

  bool covers(const Moment& m) const {
    if (empty()) return false;
    const auto phase = phases_.find(m.block);
    if (phase != phases_.end() && phase->second > m.phase) return true;
    const auto epoch = epochs_.find(key(m.block, m.thread));
    return epoch != epochs_.end() && epoch->second >= m.epoch;
  }

 private:
  using Map = std::map<uint64_t, uint32_t>;
  static uint64_t key(uint32_t block, uint16_t thread) { return uint64_t{block} << 16 | thread; }
  static void raise(Map& map, uint64_t key, uint32_t value) {
    uint32_t& old = map[key];
    old = std::max(old, value);
  }

  Map phases_;
  Map epochs_;
};

}  // namespace emulation
