// Bad addresses and divisions by zero become reports, and so does a thread that runs on and on.
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <ucontext.h>

#include "engine/grid.h"

namespace emulation {
namespace {

constexpr int kSeconds = 3;  // of processor time that a thread may keep to itself
constexpr size_t kSignalStackBytes = 256 * 1024;

pthread_t kernel_thread;
struct sigaction before_fault, before_bus, before_arithmetic, before_timer;
stack_t before_stack;
itimerval before_interval;
uint64_t last_switches;
int seconds_alone;

const void* code_address(void* context) {
#ifdef __x86_64__
  return reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#else
  (void)context;
  return nullptr;
#endif
}

std::string describe_address(const void* address) {
  if (shared_arena.holds(address)) {
    for (const Block* block : resident_blocks()) {
      if (block->slot == slot_of_shared(address)) {
        return text("offset %td of %zu bytes of shared memory",
                    static_cast<const char*>(address) - block->shared, block->shared_bytes);
      }
    }
  }
  if (const Region* region = region_near(address)) {
    return text(
        "%s, %td bytes behind its end (offset %td of %zu bytes)", region->name,
        static_cast<const char*>(address) - region->begin - static_cast<ptrdiff_t>(region->bytes),
        static_cast<const char*>(address) - region->begin, region->bytes);
  }
  return text("address %p, which no buffer is near", address);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  if (current == nullptr || !pthread_equal(pthread_self(), kernel_thread)) {
    // Not a kernel's doing. Returning runs into it again, without us.
    const struct sigaction& before = signal == SIGBUS   ? before_bus
                                     : signal == SIGFPE ? before_arithmetic
                                                        : before_fault;
    sigaction(signal, &before, nullptr);
    return;
  }
  const void* code = code_address(context);
  if (signal == SIGFPE) {
    fail("integer division by zero, %s",
         code != nullptr ? describe_code(code).c_str() : "in the kernel");
  }
  fail("bad address, %s: %s", code != nullptr ? describe_code(code).c_str() : "in the kernel",
       describe_address(info->si_addr).c_str());
}

void on_timer(int signal, siginfo_t*, void* context) {
  if (!pthread_equal(pthread_self(), kernel_thread)) {
    pthread_kill(kernel_thread, signal);
    return;
  }
  seconds_alone = switches == last_switches ? seconds_alone + 1 : 0;
  last_switches = switches;
  if (current == nullptr || seconds_alone < kSeconds) return;
  const void* code = code_address(context);
  fail("endless loop: %d s without a barrier, a collective or an atomic, %s", kSeconds,
       code != nullptr ? describe_code(code).c_str() : "in the kernel");
}

}  // namespace

SignalGuard::SignalGuard() {
  static char signal_stack[kSignalStackBytes];
  kernel_thread = pthread_self();
  stack_t stack{};
  stack.ss_sp = signal_stack;
  stack.ss_size = sizeof signal_stack;
  sigaltstack(&stack, &before_stack);
  // The handlers may leave for another stack and never return, so they must not block anything.
  struct sigaction action{};
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  action.sa_sigaction = on_fault;
  sigaction(SIGSEGV, &action, &before_fault);
  sigaction(SIGBUS, &action, &before_bus);
  sigaction(SIGFPE, &action, &before_arithmetic);
  action.sa_sigaction = on_timer;
  action.sa_flags |= SA_RESTART;
  sigaction(SIGVTALRM, &action, &before_timer);
  seconds_alone = 0;
  const itimerval second{{1, 0}, {1, 0}};
  setitimer(ITIMER_VIRTUAL, &second, &before_interval);
}

SignalGuard::~SignalGuard() {
  setitimer(ITIMER_VIRTUAL, &before_interval, nullptr);
  sigaction(SIGVTALRM, &before_timer, nullptr);
  sigaction(SIGFPE, &before_arithmetic, nullptr);
  sigaction(SIGBUS, &before_bus, nullptr);
  sigaction(SIGSEGV, &before_fault, nullptr);
  sigaltstack(&before_stack, nullptr);
}

}  // namespace emulation
