#include "core/base/signals.h"

#include <signal.h>

#include <atomic>

#include "core/base/check.h"

namespace strata {
namespace {

std::atomic<bool> interrupt_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "for the handler");

void OnInterrupt(int signal) { interrupt_requested = true; }

}  // namespace

void InstallInterruptHandler() {
  interrupt_requested = false;
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  // The first signal puts the default, which kills, back in place. Reads and
  // writes that it interrupts go on.
  action.sa_flags = SA_RESETHAND | SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM}) {
    CHECK(sigaction(signal, &action, nullptr) == 0) << signal;
  }
  action.sa_flags = SA_RESTART;
  CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
}

bool InterruptRequested() {
  return interrupt_requested.load(std::memory_order_relaxed);
}

}  // namespace strata
