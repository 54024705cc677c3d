#include "check.h"

#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/grid.h"

namespace emulation {
namespace {

constexpr unsigned char kPoison = 0xff;

std::vector<uint64_t> parse_seeds(const char* list) {
  std::vector<uint64_t> seeds;
  for (char* end = nullptr; *list != 0; list = *end == ',' ? end + 1 : end) {
    seeds.push_back(std::strtoull(list, &end, 10));
    if (end == list) {
      std::fprintf(stderr, "--seeds: wanted numbers with commas between them, got %s\n", list);
      std::exit(2);
    }
  }
  if (seeds.empty()) {
    std::fprintf(stderr, "--seeds: wanted at least one number, got none\n");
    std::exit(2);
  }
  return seeds;
}

}  // namespace

void* allocate_guarded(size_t bytes, size_t alignment, const char* name) {
  const Region region = map_region(bytes, alignment, name);
  char* const begin = const_cast<char*>(region.begin);
  std::memset(begin, kPoison, static_cast<size_t>(region.page - region.begin));
  return begin;
}

void free_guarded(void* memory) {
  const Region region = region_at(memory);
  const char* const end = region.begin + region.bytes;
  for (const char* byte = end; byte < region.page; ++byte) {
    expect(static_cast<unsigned char>(*byte) == kPoison, "%s: byte %td behind its end was written",
           region.name, byte - end);
  }
  unmap_region(region);
}

void expect(bool ok, const char* format, ...) {
  if (ok) return;
  va_list arguments;
  va_start(arguments, format);
  char message[2048];
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  std::fflush(stdout);
  std::fprintf(stderr, "FAILED: %s: %s\n", occasion.c_str(), message);
  _exit(1);
}

int run_checks(int argc, char** argv, std::initializer_list<Check> checks) {
  std::vector<uint64_t> seeds{0, 1, 2, 3};
  std::string only;
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i];
    if (i + 1 == argc) {
      std::fprintf(stderr, "options: wanted --seeds LIST or --only NAME, got %s\n", argv[i]);
      return 2;
    }
    if (option == "--seeds") {
      seeds = parse_seeds(argv[i + 1]);
    } else if (option == "--only") {
      only = argv[i + 1];
    } else {
      std::fprintf(stderr, "options: wanted --seeds or --only, got %s\n", argv[i]);
      return 2;
    }
  }
  exit_on_failure = true;
  int runs = 0;
  for (const Check& check : checks) {
    if (!only.empty() && only != check.name) continue;
    const auto start = std::chrono::steady_clock::now();
    for (const uint64_t seed : seeds) {
      occasion = check.name + std::string(", seed ") + std::to_string(seed);
      set_schedule(seed);
      check.run();
      ++runs;
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("ok  %-36s %5.2f s\n", check.name, seconds.count());
    std::fflush(stdout);
  }
  if (runs == 0) std::fprintf(stderr, "--only: wanted the name of a check, got %s\n", only.c_str());
  return runs > 0 ? 0 : 2;
}

}  // namespace emulation
