// Barriers, shuffles, votes and reductions.
#include "engine/collectives.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/race.h"

namespace emulation {
namespace {

bool same_place(const Where& a, const Where& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

Gathering& find_gathering(Warp& warp, const Operation& operation, unsigned mask, Where where) {
  for (int i = 0; i < warp.gatherings; ++i) {
    Gathering& g = warp.gathering[i];
    if (g.operation == &operation && g.mask == mask &&
        (!operation.one_place || same_place(g.where, where))) {
      return g;
    }
  }
  if ((mask >> current->lane & 1) == 0) {
    fail("%s: wanted the calling lane in the mask, got %08x, %s", operation.name, mask,
         describe(where).c_str());
  }
  if ((mask & ~warp.lanes) != 0 || (mask & warp.exited) != 0) {
    fail("%s: wanted running lanes in the mask, got %08x with %08x running, %s", operation.name,
         mask, warp.lanes & ~warp.exited, describe(where).c_str());
  }
  Gathering& g = warp.gathering[warp.gatherings++];
  g = {&operation, mask, 0, where};
  return g;
}

struct ShuffleArguments {
  uint64_t value;
  uint64_t result;
  int selector;
  int width;
};

template <Shuffle kKind>
void combine_shuffle(void* const* arguments, unsigned mask) {
  for_each_lane<ShuffleArguments>(arguments, mask, [&](int lane, ShuffleArguments& a) {
    const int first = lane / a.width * a.width, last = first + a.width - 1;
    int source = 0;
    if constexpr (kKind == Shuffle::kIndex) {
      source = first + (a.selector & (a.width - 1));
    } else if constexpr (kKind == Shuffle::kXor) {
      source = lane ^ a.selector;
    } else {
      source = lane + a.selector;
    }
    if (source < 0 || source > last) source = lane;
    // What a lane outside of the mask would give is undefined.
    const bool given = (mask >> source & 1) != 0;
    a.result = given ? static_cast<ShuffleArguments*>(arguments[source])->value : ~uint64_t{0};
  });
}

struct BallotArguments {
  bool predicate;
  unsigned result;
};

void combine_ballot(void* const* arguments, unsigned mask) {
  unsigned votes = 0;
  for_each_lane<BallotArguments>(arguments, mask, [&](int lane, BallotArguments& a) {
    votes |= static_cast<unsigned>(a.predicate) << lane;
  });
  for_each_lane<BallotArguments>(arguments, mask,
                                 [&](int, BallotArguments& a) { a.result = votes; });
}

template <Reduce kKind>
void combine_reduce(void* const* arguments, unsigned mask) {
  uint32_t result = kKind == Reduce::kMin ? ~0u : 0u;
  for_each_lane<uint32_t>(arguments, mask, [&](int, uint32_t& x) {
    result = kKind == Reduce::kSum   ? result + x
             : kKind == Reduce::kMax ? std::max(result, x)
                                     : std::min(result, x);
  });
  for_each_lane<uint32_t>(arguments, mask, [&](int, uint32_t& x) { x = result; });
}

void combine_nothing(void* const*, unsigned) {}

// __syncwarp may stand in several places, as long as all lanes come to one of them.
constexpr Operation kSyncWarp = {"__syncwarp", combine_nothing, false};
constexpr Operation kSyncBlock = {"__syncthreads", nullptr, true};
constexpr Operation kShuffles[] = {{"__shfl_sync", combine_shuffle<Shuffle::kIndex>, true},
                                   {"__shfl_xor_sync", combine_shuffle<Shuffle::kXor>, true},
                                   {"__shfl_down_sync", combine_shuffle<Shuffle::kDown>, true}};
constexpr Operation kBallot = {"a vote", combine_ballot, true};
constexpr Operation kReductions[] = {{"warp_max", combine_reduce<Reduce::kMax>, true},
                                     {"warp_min", combine_reduce<Reduce::kMin>, true},
                                     {"warp_sum", combine_reduce<Reduce::kSum>, true}};

}  // namespace

void meet(const Operation& operation, unsigned mask, Where where, void* arguments) {
  Thread& thread = *current;
  Warp& warp = *thread.warp;
  Gathering& gathering = find_gathering(warp, operation, mask, where);
  thread.operation = &operation;
  thread.mask = mask;
  thread.where = where;
  thread.arguments = arguments;
  thread.atomics = 0;
  gathering.arrived |= 1u << thread.lane;
  if (gathering.arrived == mask) {
    void* all[kWarpSize];
    for (unsigned left = mask; left != 0; left &= left - 1) {
      Thread& lane = warp.threads[__builtin_ctz(left)];
      all[lane.lane] = lane.arguments;
      lane.operation = nullptr;
    }
    operation.combine(all, mask);
    gathering = warp.gathering[--warp.gatherings];
    if (race != nullptr && &operation == &kSyncWarp) race->sync_warp(warp, mask);
    made_progress();
    make_ready(warp, mask);
  }
  wait_for_others();
}

int sync_block(Where where, bool vote) {
  Thread& thread = *current;
  Block& block = *thread.block;
  if (block.live < block.size) {
    fail("__syncthreads: wanted all %d threads of the block, %d have exited, %s", block.size,
         block.size - block.live, describe(where).c_str());
  }
  if (block.arrived == 0) {
    block.barrier = where;
  } else if (!same_place(block.barrier, where)) {
    fail("__syncthreads at %s while %d threads of the block wait at the one at %s",
         describe(where).c_str(), block.arrived, describe(block.barrier).c_str());
  }
  thread.operation = &kSyncBlock;
  thread.mask = 0;
  thread.where = where;
  thread.atomics = 0;
  block.votes += vote ? 1 : 0;
  if (++block.arrived == block.size) {
    block.arrived = 0;
    block.voted = std::exchange(block.votes, 0);
    for (int i = 0; i < block.size; ++i) block.threads[i].operation = nullptr;
    for (int w = 0; w < block.warp_count; ++w) make_ready(block.warps[w], block.warps[w].lanes);
    if (race != nullptr) race->sync_block(block);
    passed_barrier(block);
  }
  wait_for_others();
  return block.voted;
}

void sync_warp(unsigned mask, Where where) { meet(kSyncWarp, mask, where, nullptr); }

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int selector, int width,
                 Where where) {
  if (width < 1 || width > kWarpSize || (width & (width - 1)) != 0) {
    fail("shuffle: wanted a power of two up to 32 as width, got %d, %s", width,
         describe(where).c_str());
  }
  ShuffleArguments arguments{value, 0, selector, width};
  meet(kShuffles[static_cast<int>(kind)], mask, where, &arguments);
  return arguments.result;
}

unsigned ballot(unsigned mask, bool predicate, Where where) {
  BallotArguments arguments{predicate, 0};
  meet(kBallot, mask, where, &arguments);
  return arguments.result;
}

uint32_t reduce(Reduce kind, uint32_t value, Where where) {
  meet(kReductions[static_cast<int>(kind)], kAllLanes, where, &value);
  return value;
}

}  // namespace emulation
