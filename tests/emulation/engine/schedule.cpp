// Who runs next. Each warp has a rank; of the lanes that are ready, one of the warp with the lowest
// rank runs. So one warp gets as far ahead of the others as barriers let it. The seed picks how
// ranks are given:
//   random      no ranks: any warp for a while, any lane
//   straggler   one warp, drawn by lot, from some barrier on runs only when nobody else can; then
//               another one takes its place
//   descending  from the last thread of the last block down
//   priority    drawn by lot, and two warps trade their ranks now and then
//   ascending   from the first thread of the first block up
#include <algorithm>
#include <utility>

#include "engine/grid.h"

namespace emulation {
namespace {

constexpr int kStrategies = 5;
constexpr unsigned char kFills[] = {0xff, 0x00, 0x7f};
constexpr int kTradeEvery = 256;
constexpr int kStay = 8;  // random: lanes of a warp that run in a row, on average
// Rounds in which all that threads did was to spin on atomics.
constexpr int kMaxIdleRounds = 50000;

uint64_t the_seed = 0;
Schedule the_schedule = {Strategy::kRandom, kFills[0]};
uint64_t launches = 0;  // since the seed was set
uint64_t random_state = 1;

Warp* by_rank[kMaxWarps];
uint64_t ready_ranks[kMaxWarps / 64];  // bit: that warp has ready lanes
int warps_in_use = 0;
int idle_rounds = 0;
int last_rank = 0;
Warp* straggler = nullptr;
uint64_t head_start = 0;  // barriers that it still passes in its turn

int first_ready(int from) {
  for (int word = from / 64; word < kMaxWarps / 64; ++word) {
    const uint64_t bits =
        ready_ranks[word] & (word == from / 64 ? ~uint64_t{0} << from % 64 : ~0ull);
    if (bits != 0) return word * 64 + __builtin_ctzll(bits);
  }
  return -1;
}

void give_rank(Warp* warp, int rank) {
  warp->rank = rank;
  by_rank[rank] = warp;
  const uint64_t bit = uint64_t{1} << rank % 64;
  if (warp->ready != 0) {
    ready_ranks[rank / 64] |= bit;
  } else {
    ready_ranks[rank / 64] &= ~bit;
  }
}

void trade_ranks(Warp* one, Warp* other) {
  const int rank = one->rank;
  give_rank(one, other->rank);
  give_rank(other, rank);
}

int pick_lane(unsigned ready) {
  switch (schedule().strategy) {
    case Strategy::kAscending:
    case Strategy::kStraggler:
      return __builtin_ctz(ready);
    case Strategy::kDescending:
      return kWarpSize - 1 - __builtin_clz(ready);
    default: {
      const int shift = static_cast<int>(random_below(kWarpSize));
      const unsigned turned = shift == 0 ? ready : ready >> shift | ready << (kWarpSize - shift);
      return (__builtin_ctz(turned) + shift) % kWarpSize;
    }
  }
}

void draw_straggler() {
  straggler = by_rank[random_below(static_cast<uint64_t>(warps_in_use))];
  head_start = random_below(uint64_t{1} << random_below(6));
}

// It is the straggler's turn. Returns the rank of who runs.
int hold_back() {
  if (head_start > 0) return straggler->rank;
  trade_ranks(straggler, by_rank[warps_in_use - 1]);
  const int rank = first_ready(0);
  if (by_rank[rank] == straggler) draw_straggler();
  return rank;
}

// Those who gave way get their turn again.
bool wake_yielded() {
  bool any = false;
  for (int rank = 0; rank < warps_in_use; ++rank) {
    Warp& warp = *by_rank[rank];
    if (warp.yielded == 0) continue;
    any = true;
    make_ready(warp, std::exchange(warp.yielded, 0u));
  }
  return any;
}

}  // namespace

void set_schedule(uint64_t seed) {
  the_seed = seed;
  the_schedule = {static_cast<Strategy>(seed % kStrategies), kFills[seed % 3]};
  launches = 0;
}

const Schedule& schedule() { return the_schedule; }

uint64_t random_below(uint64_t bound) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (random_state >> 32) * bound >> 32;  // of the upper bits, without a division
}

void start_schedule(Warp* warps, int count) {
  random_state = (the_seed + 1) * 0x9e3779b97f4a7c15u + launches++ * 0xd1342543de82ef95u;
  random_state |= 1;
  idle_rounds = 0;
  last_rank = 0;
  warps_in_use = count;
  std::fill(std::begin(ready_ranks), std::end(ready_ranks), uint64_t{0});
  for (int i = 0; i < count; ++i) give_rank(&warps[i], i);
  const Strategy strategy = schedule().strategy;
  if (strategy == Strategy::kDescending) {
    for (int i = 0; i < count; ++i) give_rank(&warps[i], count - 1 - i);
  } else if (strategy != Strategy::kAscending) {
    for (int i = count - 1; i > 0; --i) {
      trade_ranks(by_rank[i], by_rank[random_below(static_cast<uint64_t>(i) + 1)]);
    }
  }
  draw_straggler();
}

void make_ready(Warp& warp, unsigned lanes) {
  warp.ready |= lanes;
  ready_ranks[warp.rank / 64] |= uint64_t{1} << warp.rank % 64;
}

void made_progress() { idle_rounds = 0; }

void passed_barrier(const Block& block) {
  made_progress();
  if (straggler->block == &block && head_start > 0) --head_start;
}

Thread* next_thread() {
  const Strategy strategy = schedule().strategy;
  const auto bound = static_cast<uint64_t>(warps_in_use);
  int rank = -1;
  if (strategy == Strategy::kRandom) {
    const bool stay = by_rank[last_rank]->ready != 0 && random_below(kStay) != 0;
    rank = stay ? last_rank : first_ready(static_cast<int>(random_below(bound)));
  }
  if (rank < 0) rank = first_ready(0);
  while (rank < 0) {
    if (!wake_yielded()) {
      for (const Block* block : resident_blocks()) {
        if (block->live > 0) report_deadlock();
      }
      return nullptr;
    }
    if (++idle_rounds > kMaxIdleRounds) {
      fail("livelock: every thread that can run spins on atomics, for %d rounds", kMaxIdleRounds);
    }
    rank = first_ready(0);
  }
  if (strategy == Strategy::kPriority && random_below(kTradeEvery) == 0) {
    Warp* const best = by_rank[rank];
    Warp* const other = by_rank[random_below(bound)];
    trade_ranks(best, other);
    rank = (other->ready != 0 ? other : best)->rank;
  }

  if (strategy == Strategy::kStraggler && by_rank[rank] == straggler) rank = hold_back();

  last_rank = rank;
  Warp& warp = *by_rank[rank];
  const int lane = pick_lane(warp.ready);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) ready_ranks[rank / 64] &= ~(uint64_t{1} << rank % 64);
  return &warp.threads[lane];
}

}  // namespace emulation
