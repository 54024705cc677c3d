// Finds accesses to the same memory, one of them a write, that nothing puts in order. What does:
//   __syncthreads  everything before it in the block, with everything after it
//   __syncwarp     likewise among the lanes of its mask; shuffles, votes, mma and ldmatrix do not
//   an atomic      hands on what its thread knew at its last __threadfence; who finds it in the
//                  same place later knows that after a __threadfence of its own. Stores need not
//                  wait for that fence: they cannot overtake the atomic on whose value they depend.
// For shared memory it also finds bytes that are read before anybody wrote them, and bytes that are
// touched while an asynchronous copy into them is under way.
#include "engine/race.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "engine/race_places.h"
#include "engine/shadow.h"

namespace emulation {
namespace {

struct ThreadClock {
  uint32_t epoch;
  std::array<uint32_t, kWarpSize> seen;  // of the warp: what they did up to that epoch
  Knowledge known;
  Knowledge heard;      // by atomics, and waiting for a fence
  Knowledge published;  // at the last fence
};

struct BlockClock {
  uint32_t phase;
  Knowledge known, heard;  // of every thread, since the last barrier
  std::vector<ThreadClock> threads;
};

class HappensBefore : public RaceChecker {
 public:
  void start_grid() override {
    released_.clear();
    forget_regions();
  }
  void start_block(Block& block) override;
  void sync_block(Block& block) override;
  void sync_warp(Warp& warp, unsigned mask) override;
  void fence(Thread& thread) override;
  void atomic(Thread& thread, const void* address) override;
  void access(Thread& thread, const void* address, size_t bytes, Access kind,
              uintptr_t place) override;
  void start_copy(Thread& thread, const Copy& copy) override;
  void end_copy(Thread& thread, const Copy& copy) override;

 private:
  BlockClock& clock(const Block& block) { return blocks_[block.slot]; }
  ThreadClock& clock(const Thread& thread) {
    return clock(*thread.block).threads[static_cast<size_t>(thread.number)];
  }
  Record record(const Thread& thread, bool atomic, uintptr_t place);  // of no bytes yet
  bool ordered(const Thread& thread, const Record& before, bool store);
  void check(const Thread& thread, const Shadow& shadow, const Record& now, Access kind,
             bool shared, const void* address);
  static void remember(Shadow& shadow, const Record& now, Access kind);

  BlockClock blocks_[kMaxSlots];
  std::unordered_map<const void*, Knowledge> released_;  // by atomics at this address
  ShadowMap shadows_;
};

HappensBefore checker;
const bool linked_in = (race = &checker, true);

void HappensBefore::start_block(Block& block) {
  BlockClock& b = clock(block);
  b.phase = 0;
  b.known.clear();
  b.heard.clear();
  b.threads.resize(static_cast<size_t>(block.size));
  for (ThreadClock& t : b.threads) {
    t.epoch = 1;
    t.seen.fill(0);
    t.known.clear();
    t.heard.clear();
    t.published.clear();
  }
}

void HappensBefore::sync_block(Block& block) {
  BlockClock& b = clock(block);
  ++b.phase;
  for (ThreadClock& t : b.threads) {
    b.known.learn(t.known);
    b.heard.learn(t.heard);
    t.known.clear();
    t.heard.clear();
  }
}

void HappensBefore::sync_warp(Warp& warp, unsigned mask) {
  std::array<uint32_t, kWarpSize> seen{};
  Knowledge known, heard;
  const auto each = [&](auto f) {
    for (unsigned left = mask; left != 0; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      f(static_cast<size_t>(lane), clock(warp.threads[lane]));
    }
  };
  each([&](size_t lane, ThreadClock& t) {
    for (size_t i = 0; i < kWarpSize; ++i) seen[i] = std::max(seen[i], t.seen[i]);
    seen[lane] = std::max(seen[lane], t.epoch);
    known.learn(t.known);
    heard.learn(t.heard);
  });
  each([&](size_t, ThreadClock& t) {
    t.seen = seen;
    ++t.epoch;
    t.known = known;
    t.heard = heard;
  });
}

void HappensBefore::fence(Thread& thread) {
  BlockClock& b = clock(*thread.block);
  ThreadClock& t = clock(thread);
  const uint32_t serial = thread.block->serial;
  t.known.learn(t.heard);
  t.known.learn(b.heard);
  t.published = t.known;
  t.published.learn(b.known);
  t.published.learn_phase(serial, b.phase);
  t.published.learn_epoch(serial, thread.number, t.epoch);
  for (size_t lane = 0; lane < kWarpSize; ++lane) {
    if (t.seen[lane] == 0) continue;
    const int number = thread.warp->number * kWarpSize + static_cast<int>(lane);
    t.published.learn_epoch(serial, number, t.seen[lane]);
  }
  ++t.epoch;
}

void HappensBefore::atomic(Thread& thread, const void* address) {
  ThreadClock& t = clock(thread);
  Knowledge& released = released_[address];
  t.heard.learn(released);
  released.learn(t.published);
}

Record HappensBefore::record(const Thread& thread, bool atomic, uintptr_t place) {
  return {{thread.block->serial, clock(*thread.block).phase, clock(thread).epoch,
           static_cast<uint16_t>(thread.number)},
          0,
          atomic,
          static_cast<uint32_t>(place)};
}

bool HappensBefore::ordered(const Thread& thread, const Record& before, bool store) {
  const Moment& m = before.moment;
  const BlockClock& b = clock(*thread.block);
  const ThreadClock& t = b.threads[static_cast<size_t>(thread.number)];
  if (m.block == thread.block->serial) {
    if (m.thread == thread.number || m.phase < b.phase) return true;
    if (m.thread / kWarpSize == thread.warp->number && t.seen[m.thread % kWarpSize] >= m.epoch) {
      return true;
    }
  }
  if (t.known.covers(m) || b.known.covers(m)) return true;
  return store && (t.heard.covers(m) || b.heard.covers(m));
}

void HappensBefore::check(const Thread& thread, const Shadow& shadow, const Record& now,
                          Access kind, bool shared, const void* address) {
  // Serials only grow; those below the first of this grid's belong to an earlier one, and a block's
  // shared memory starts afresh.
  const uint32_t oldest = shared ? thread.block->serial : first_serial();
  const char* const verb = kind == Access::kRead ? "read" : "write";
  if (shared && shadow.copy_block == oldest) {
    fail("race: %s of %s, %s, while a copy issued by thread %u of the block at %s is under way",
         verb, memory_text(thread, address).c_str(), place_text(now.place).c_str(),
         shadow.write.moment.thread, place_text(shadow.write.place).c_str());
  }
  if (shared && kind == Access::kRead && shadow.write.moment.block != oldest) {
    fail("race: read of %s, %s, which nobody has written", memory_text(thread, address).c_str(),
         place_text(now.place).c_str());
  }
  const auto compare = [&](const Record& before, const char* earlier) {
    const Moment& m = before.moment;
    if (m.block < oldest || (before.bytes & now.bytes) == 0) return;
    if (before.atomic && kind == Access::kAtomic) return;
    if (ordered(thread, before, kind != Access::kRead)) return;
    fail(
        "race: %s of %s, %s, in no order with a %s by thread %d of block number %u (this is %u)"
        ", %s",
        verb, memory_text(thread, address).c_str(), place_text(now.place).c_str(), earlier,
        m.thread, m.block - first_serial(), thread.block->serial - first_serial(),
        place_text(before.place).c_str());
  };
  compare(shadow.write, shadow.write.atomic ? "atomic write" : "write");
  if (kind == Access::kRead) return;
  compare(shadow.read[0], "read");
  compare(shadow.read[1], "read");
}

void HappensBefore::remember(Shadow& shadow, const Record& now, Access kind) {
  if (kind != Access::kRead) {
    shadow.write = now;
    return;
  }
  const Moment &last = shadow.read[0].moment, &m = now.moment;
  const bool same_thread = last.block == m.block && last.thread == m.thread;
  const bool same_warp = last.block == m.block && last.thread / kWarpSize == m.thread / kWarpSize;
  const Moment& other = shadow.read[1].moment;
  const bool other_is_stale = other.block != m.block || other.phase < last.phase;
  if (!same_thread && (!same_warp || other_is_stale)) shadow.read[1] = shadow.read[0];
  shadow.read[0] = now;
}

void HappensBefore::access(Thread& thread, const void* address, size_t bytes, Access kind,
                           uintptr_t place) {
  if (!check_bounds(thread, address, bytes, static_cast<uint32_t>(place))) return;
  const bool shared = shared_arena.holds(address);
  const auto begin = reinterpret_cast<uintptr_t>(address);
  Record now = record(thread, kind == Access::kAtomic, place);
  for (uintptr_t at = begin / kGranule * kGranule; at < begin + bytes; at += kGranule) {
    now.bytes = 0;
    for (size_t i = 0; i < kGranule; ++i) {
      if (at + i >= begin && at + i < begin + bytes) now.bytes |= static_cast<uint8_t>(1u << i);
    }
    Shadow& shadow = shadows_.at(at);
    check(thread, shadow, now, kind, shared, reinterpret_cast<const void*>(at));
    remember(shadow, now, kind);
  }
}

void HappensBefore::start_copy(Thread& thread, const Copy& copy) {
  const auto begin = reinterpret_cast<uintptr_t>(copy.shared);
  access(thread, copy.shared, 16, Access::kWrite, static_cast<uintptr_t>(copy.where.line));
  for (uintptr_t at = begin; at < begin + 16; at += kGranule) {
    shadows_.at(at).copy_block = thread.block->serial;
  }
}

void HappensBefore::end_copy(Thread& thread, const Copy& copy) {
  const auto begin = reinterpret_cast<uintptr_t>(copy.shared);
  for (uintptr_t at = begin; at < begin + 16; at += kGranule) shadows_.at(at).copy_block = 0;
  access(thread, copy.shared, 16, Access::kWrite, static_cast<uintptr_t>(copy.where.line));
}

}  // namespace
}  // namespace emulation
