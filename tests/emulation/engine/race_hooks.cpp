// What the compiler calls before every access to memory when it compiles kernels with
// -fsanitize=thread. These take the place of its own run-time library, which is not linked.
#include <cstring>

#include "engine/race.h"

namespace {

using emulation::Access;

inline void access(const void* address, size_t bytes, Access kind, const void* caller) {
  if (emulation::current == nullptr) return;  // the launcher
  emulation::race->access(*emulation::current, address, bytes, kind,
                          reinterpret_cast<uintptr_t>(caller));
}

}  // namespace

#define READ(name, bytes) \
  void name(void* address) { access(address, bytes, Access::kRead, __builtin_return_address(0)); }
#define WRITE(name, bytes) \
  void name(void* address) { access(address, bytes, Access::kWrite, __builtin_return_address(0)); }

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}

READ(__tsan_read1, 1)
READ(__tsan_read2, 2)
READ(__tsan_read4, 4)
READ(__tsan_read8, 8)
READ(__tsan_read16, 16)
READ(__tsan_unaligned_read2, 2)
READ(__tsan_unaligned_read4, 4)
READ(__tsan_unaligned_read8, 8)
READ(__tsan_unaligned_read16, 16)
WRITE(__tsan_write1, 1)
WRITE(__tsan_write2, 2)
WRITE(__tsan_write4, 4)
WRITE(__tsan_write8, 8)
WRITE(__tsan_write16, 16)
WRITE(__tsan_unaligned_write2, 2)
WRITE(__tsan_unaligned_write4, 4)
WRITE(__tsan_unaligned_write8, 8)
WRITE(__tsan_unaligned_write16, 16)

void __tsan_read_range(void* address, size_t bytes) {
  access(address, bytes, Access::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t bytes) {
  access(address, bytes, Access::kWrite, __builtin_return_address(0));
}

}  // extern "C"
