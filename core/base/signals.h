// Ctrl-C, so that a long run can save before it ends.
//
//   InstallInterruptHandler();
//   while (step < num_steps && !InterruptRequested()) { ... }
//   if (InterruptRequested()) { save; return kInterruptedExitCode; }
//
// The first SIGINT or SIGTERM (what schedulers send) only asks; a second one of
// the same kind kills at once. SIGUSR1 only asks, however often it comes: it is
// the one that mpirun passes on to its ranks without ending them.

#ifndef CORE_BASE_SIGNALS_H_
#define CORE_BASE_SIGNALS_H_

namespace strata {

// What shells expect of a program that Ctrl-C ended: 128 + SIGINT.
inline constexpr int kInterruptedExitCode = 130;

// Starts to listen. Called again it forgets earlier requests.
void InstallInterruptHandler();

// Whether the process was asked to stop. Cheap; for any thread.
bool InterruptRequested();

}  // namespace strata

#endif  // CORE_BASE_SIGNALS_H_
