#include "engine/fiber.h"

#include <cstdint>

#if defined(__x86_64__) && !defined(EMULATION_UCONTEXT)

// The registers that a call must preserve go onto the stack left behind; everything else has been
// saved by the caller. Floating-point modes are the same on all stacks.
asm(R"(
    .text
    .globl emulation_switch_stack
    .type emulation_switch_stack, @function
emulation_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulation_switch_stack, . - emulation_switch_stack
)");

extern "C" __attribute__((visibility("hidden"))) void emulation_switch_stack(void** from, void* to);

namespace emulation {

Fiber make_fiber(char* stack, size_t bytes, void (*entry)()) {
  // What the switch pops: six registers, then where it returns to. That place is aligned to 16
  // bytes, so that entry finds the stack as if it had been called; its own caller is null.
  uintptr_t top = reinterpret_cast<uintptr_t>(stack + bytes) / 16 * 16 - 32;
  void** place = reinterpret_cast<void**>(top);
  place[0] = reinterpret_cast<void*>(entry);
  place[1] = nullptr;
  for (int i = 1; i <= 6; ++i) place[-i] = nullptr;
  return place - 6;
}

void switch_fiber(Fiber* from, Fiber to) { emulation_switch_stack(from, to); }

}  // namespace emulation

#else

#include <ucontext.h>

namespace emulation {

// The portable way, some 20 times slower. A context lies on the stack that it describes.
Fiber make_fiber(char* stack, size_t bytes, void (*entry)()) {
  const uintptr_t top = reinterpret_cast<uintptr_t>(stack + bytes) - sizeof(ucontext_t);
  auto* context = reinterpret_cast<ucontext_t*>(top / 64 * 64);
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = reinterpret_cast<char*>(context) - stack;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}

void switch_fiber(Fiber* from, Fiber to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}

}  // namespace emulation

#endif
