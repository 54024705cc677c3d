// Ancestor words of a draft tree: bit j % 64 of word j / 64 says that the node sees node j.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace hivis {

constexpr int kWordBits = 64;
constexpr int kMaxNodes = 256;

// W, the words that hold one bit per node.
HIVIS_HD constexpr int word_count(int nodes) { return (nodes + kWordBits - 1) / kWordBits; }

// The bits of word `word` that stand for nodes: bits at N and above are ignored, because they would
// lead to cache rows that do not belong to the tree.
HIVIS_HD constexpr uint64_t node_bits(int word, int nodes) {
  const int left = nodes - word * kWordBits;
  if (left <= 0) return 0;
  return left >= kWordBits ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

// Does the node with these ancestor words see node j?
HIVIS_HD constexpr bool sees(const uint64_t* words, int j) {
  return (words[j / kWordBits] >> (j % kWordBits)) & 1;
}

}  // namespace hivis
