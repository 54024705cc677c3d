// shared_noise against the CPU body, every bit.
#include <climits>
#include <vector>

#include "check.h"
#include "cpu/shared_noise.h"
#include "cuda/shared_noise.h"

namespace {

using emulation::expect;
using emulation::Guarded;

void check_sizes() {
  const std::vector<int64_t> seeds{0, -1, (int64_t{1} << 62) + 12345, INT64_MIN};
  const std::vector<int64_t> positions{7, (int64_t{1} << 33) - 2, -3, INT_MAX};
  for (const int64_t vocab : {1, 3, 4, 63, 64, 1001, 2048}) {
    for (const size_t alignment : {4, 16}) {
      const int64_t batch = static_cast<int64_t>(seeds.size()), count = 3;
      std::vector<float> wanted(batch * count * vocab);
      hivis::cpu::shared_noise(
          {batch, count, vocab, seeds.data(), positions.data(), wanted.data()});
      Guarded<float> noise(batch * count * vocab, "noise", alignment);
      const hivis::SharedNoiseParams params{
          batch, count, vocab, seeds.data(), positions.data(), noise.data()};
      expect(hivis::cuda::launch_shared_noise(params, nullptr) == cudaSuccess, "launch failed");
      expect(std::memcmp(noise.data(), wanted.data(), wanted.size() * sizeof(float)) == 0,
             "noise: V %d: not the CPU's", static_cast<int>(vocab));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  return emulation::run_checks(argc, argv, {{"sizes", check_sizes}});
}
