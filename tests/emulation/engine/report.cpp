// What went wrong, where, and by whom.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine/grid.h"

namespace emulation {

bool exit_on_failure = false;
std::string occasion;

namespace {

std::string last_report;

[[noreturn]] void end_with(const std::string& report) {
  last_report = occasion.empty() ? report : report + "\n  in " + occasion;
  std::fprintf(stderr, "emulation: %s\n", last_report.c_str());
  if (exit_on_failure) {
    std::fflush(stdout);
    _exit(1);
  }
  abandon_grid();
}

}  // namespace

std::string text(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char buffer[1024];
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

std::string describe(Where where) {
  const char* slash = std::strrchr(where.file, '/');
  return text("%s:%d", slash != nullptr ? slash + 1 : where.file, where.line);
}

std::string describe(const Thread& thread) {
  const Index3 &b = thread.block->index, &t = thread.index;
  return text("block (%u, %u, %u), thread (%u, %u, %u), warp %d, lane %d", b.x, b.y, b.z, t.x, t.y,
              t.z, thread.warp->number, thread.lane);
}

std::string describe_code(const void* code_address) {
  Dl_info info;
  if (dladdr(code_address, &info) == 0) return text("code at %p", code_address);
  const ptrdiff_t offset =
      static_cast<const char*>(code_address) - static_cast<const char*>(info.dli_fbase);
  char line[256] = "";
  const std::string command = text("addr2line -s -e '%s' %#tx 2>/dev/null", info.dli_fname, offset);
  if (FILE* pipe = popen(command.c_str(), "r")) {
    if (std::fgets(line, sizeof line, pipe) == nullptr) line[0] = 0;
    pclose(pipe);
  }
  line[std::strcspn(line, " \n")] = 0;
  if (line[0] == 0 || line[0] == '?') return text("%s+%#tx", info.dli_fname, offset);
  return line;
}

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char buffer[4096];
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  const std::string report = buffer;
  end_with(current == nullptr ? report : report + "\n  by " + describe(*current));
}

const char* error_text(int error) {
  switch (error) {
    case 0:
      return "no error";
    case 1:
      return "invalid argument";
    default:
      return last_report.c_str();
  }
}

void report_deadlock() {
  constexpr int kMaxLines = 16;
  std::string lines;
  int count = 0;
  for (const Block* block : resident_blocks()) {
    for (int w = 0; block->live > 0 && w < block->warp_count; ++w) {
      const Warp& warp = block->warps[w];
      unsigned left = warp.lanes & ~warp.exited;
      while (left != 0) {
        // The lanes that wait for the same as the first one left.
        const Thread& first = warp.threads[__builtin_ctz(left)];
        unsigned same = 0;
        for (unsigned rest = left; rest != 0; rest &= rest - 1) {
          const Thread& other = warp.threads[__builtin_ctz(rest)];
          if (other.operation == first.operation && other.mask == first.mask &&
              other.where.line == first.where.line) {
            same |= 1u << other.lane;
          }
        }
        left &= ~same;
        if (++count > kMaxLines) continue;
        const Index3& b = block->index;
        lines += text("\n  block (%u, %u, %u), warp %d: lanes %08x wait at %s", b.x, b.y, b.z, w,
                      same, first.operation->name);
        if (first.mask != 0) lines += text(" of lanes %08x", first.mask);
        lines += ", " + describe(first.where);
      }
      if (warp.exited != 0 && warp.exited != warp.lanes && count <= kMaxLines) {
        lines += text("; lanes %08x have exited", warp.exited);
      }
    }
  }
  if (count > kMaxLines) lines += text("\n  and %d more", count - kMaxLines);
  end_with("deadlock: nobody can go on" + lines);
}

}  // namespace emulation
