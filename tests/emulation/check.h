// What check programs are made of. They link the kernels and the emulator, and no torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace emulation {

// --- Device memory that ends at an inaccessible page

void* allocate_guarded(size_t bytes, size_t alignment, const char* name);
void free_guarded(void* memory);  // fails if the bytes between the end and the page have changed

// An array of T whose end is rounded up to `alignment` bytes (so that its start is aligned), behind
// which any access is reported with the block and thread that made it. alignment 1 leaves no gap.
// Freshly allocated it is poison: 0xFF bytes, NaN in every floating-point type.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count, const char* name = "buffer", size_t alignment = 16)
      : data_(static_cast<T*>(allocate_guarded(count * sizeof(T), alignment, name))),
        size_(count) {}
  ~Guarded() { free_guarded(data_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  void fill_poison() {
    std::memset(static_cast<void*>(data_), 0xff, static_cast<size_t>(size_) * sizeof(T));
  }

 private:
  T* data_;
  int64_t size_;
};

// --- Checks

// Unless `ok`: prints "FAILED", the check and the seed, the message, and exits with 1.
__attribute__((format(printf, 2, 3))) void expect(bool ok, const char* format, ...);

struct Check {
  const char* name;
  void (*run)();
};

// Runs each check once per seed: --seeds 0,1,2 (default 0,1,2,3) and --only NAME. A failure inside
// the emulator ends the program, too. Returns main's result.
int run_checks(int argc, char** argv, std::initializer_list<Check> checks);

}  // namespace emulation
