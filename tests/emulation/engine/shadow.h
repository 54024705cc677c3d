// Who touched a piece of memory last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "engine/knowledge.h"

namespace emulation {

constexpr size_t kGranule = 2;  // bytes that share a record

struct Record {
  Moment moment;
  uint8_t bytes;  // which of the granule's
  bool atomic;
  uint32_t place;  // low half of an address in the code, or a line number
};

struct Shadow {
  Record write;
  // The last two readers, of different warps if there are. Records of blocks that are gone since
  // the grid began, or of earlier grids, are told by their serials.
  Record read[2];
  uint32_t copy_block;  // the block (serial) whose asynchronous copy into it is under way
};

// Shadows of all of memory, made as they are needed and never reset.
class ShadowMap {
 public:
  Shadow& at(uintptr_t address) {
    const uintptr_t page = address / kPage;
    if (page != last_page_) {
      std::unique_ptr<Shadow[]>& shadows = pages_[page];
      if (shadows == nullptr) shadows = std::make_unique<Shadow[]>(kPage / kGranule);
      last_page_ = page;
      last_ = shadows.get();
    }
    return last_[address % kPage / kGranule];
  }

 private:
  static constexpr uintptr_t kPage = 4096;
  std::unordered_map<uintptr_t, std::unique_ptr<Shadow[]>> pages_;
  uintptr_t last_page_ = 0;
  Shadow* last_ = nullptr;
};

}  // namespace emulation
