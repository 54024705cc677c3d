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

// Which of the keys kv_len + first + 0..63 does a node with these ancestor words see? first > -64;
// keys before kv_len are the prefix, which every node sees.
HIVIS_HD constexpr uint64_t visible_window(const uint64_t* words, int nodes, int first) {
  if (first < 0) return (words[0] & node_bits(0, nodes)) << -first | ((uint64_t{1} << -first) - 1);
  const int word = first / kWordBits, shift = first % kWordBits;
  const uint64_t low_bits = node_bits(word, nodes), high_bits = node_bits(word + 1, nodes);
  const uint64_t low = low_bits != 0 ? words[word] & low_bits : 0;
  const uint64_t high = high_bits != 0 ? words[word + 1] & high_bits : 0;
  return shift == 0 ? low : low >> shift | high << (kWordBits - shift);
}

// Does the node with these ancestor words see any node? If not, it is padding.
HIVIS_HD constexpr bool sees_any(const uint64_t* words, int nodes) {
  uint64_t bits = 0;
  for (int word = 0; word < word_count(nodes); ++word) bits |= words[word] & node_bits(word, nodes);
  return bits != 0;
}

// Does the node with these ancestor words see node j?
HIVIS_HD constexpr bool sees(const uint64_t* words, int j) {
  return (words[j / kWordBits] >> (j % kWordBits)) & 1;
}

}  // namespace hivis
