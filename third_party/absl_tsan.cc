// Tells ThreadSanitizer of Abseil's locks (--config=tsan).
//
// Debian's Abseil is built without the sanitizer, which therefore sees neither
// that a mutex orders what its holders do nor that a waiter wakes with it. The
// linker's --wrap sends the calls through here, by the names that Debian's
// inline namespace gives them; a call that is not here shows as races of what
// its mutex guards.

#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

extern "C" {

void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);

}  // extern "C"

namespace strata {
namespace {

using ::absl::Condition;
using ::absl::Duration;
using ::absl::Mutex;
using ::absl::Time;

// Gives `mutex` up by `call`, which runs the conditions of waiters before: with
// the lock held, but after what the sanitizer takes for its end. Their reads
// are not looked at.
template <typename F>
auto GiveUp(Mutex* mutex, const F& call) {
  struct Reads {
    Reads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
    ~Reads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
  };
  __tsan_release(mutex);
  const Reads reads;
  return call();
}

// The same, where `call` returns with the lock.
template <typename F>
auto Wait(Mutex* mutex, const F& call) {
  struct Acquire {
    Mutex* mutex;
    ~Acquire() { __tsan_acquire(mutex); }
  };
  const Acquire acquire{mutex};
  return GiveUp(mutex, call);
}

}  // namespace

#define STRATA_MUTEX(kind, name) \
  __asm__("__" kind "__ZN4absl7debian35Mutex" name)

void RealLock(Mutex*) STRATA_MUTEX("real", "4LockEv");
void Lock(Mutex*) STRATA_MUTEX("wrap", "4LockEv");
void Lock(Mutex* mutex) {
  RealLock(mutex);
  __tsan_acquire(mutex);
}

void RealReaderLock(Mutex*) STRATA_MUTEX("real", "10ReaderLockEv");
void ReaderLock(Mutex*) STRATA_MUTEX("wrap", "10ReaderLockEv");
void ReaderLock(Mutex* mutex) {
  RealReaderLock(mutex);
  __tsan_acquire(mutex);
}

bool RealTryLock(Mutex*) STRATA_MUTEX("real", "7TryLockEv");
bool TryLock(Mutex*) STRATA_MUTEX("wrap", "7TryLockEv");
bool TryLock(Mutex* mutex) {
  const bool locked = RealTryLock(mutex);
  if (locked) __tsan_acquire(mutex);
  return locked;
}

void RealUnlock(Mutex*) STRATA_MUTEX("real", "6UnlockEv");
void Unlock(Mutex*) STRATA_MUTEX("wrap", "6UnlockEv");
void Unlock(Mutex* mutex) {
  GiveUp(mutex, [&] { RealUnlock(mutex); });
}

void RealReaderUnlock(Mutex*) STRATA_MUTEX("real", "12ReaderUnlockEv");
void ReaderUnlock(Mutex*) STRATA_MUTEX("wrap", "12ReaderUnlockEv");
void ReaderUnlock(Mutex* mutex) {
  GiveUp(mutex, [&] { RealReaderUnlock(mutex); });
}

void RealAwait(Mutex*, const Condition&)
    STRATA_MUTEX("real", "5AwaitERKNS0_9ConditionE");
void Await(Mutex*, const Condition&)
    STRATA_MUTEX("wrap", "5AwaitERKNS0_9ConditionE");
void Await(Mutex* mutex, const Condition& condition) {
  Wait(mutex, [&] { RealAwait(mutex, condition); });
}

bool RealAwaitUntil(Mutex*, const Condition&, Time)
    STRATA_MUTEX("real", "17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
bool AwaitUntil(Mutex*, const Condition&, Time)
    STRATA_MUTEX("wrap", "17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
bool AwaitUntil(Mutex* mutex, const Condition& condition, Time deadline) {
  return Wait(mutex,
              [&] { return RealAwaitUntil(mutex, condition, deadline); });
}

bool RealAwaitFor(Mutex*, const Condition&, Duration)
    STRATA_MUTEX("real", "16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
bool AwaitFor(Mutex*, const Condition&, Duration)
    STRATA_MUTEX("wrap", "16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
bool AwaitFor(Mutex* mutex, const Condition& condition, Duration timeout) {
  return Wait(mutex, [&] { return RealAwaitFor(mutex, condition, timeout); });
}

}  // namespace strata
