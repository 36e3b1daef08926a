// How many requests a client may make: a bucket for each, which fills evenly.
//
//   a minute's requests fit into a bucket; a request takes one, and waits for
//   nobody: without one it is refused, with the time until there will be

#ifndef SERVING_API_RATE_LIMITER_H_
#define SERVING_API_RATE_LIMITER_H_

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace strata {

// For several threads.
class RateLimiter {
 public:
  // `per_minute` is above 0.
  explicit RateLimiter(double per_minute) : per_minute_(per_minute) {}

  // Takes a request of `client` at `now`, which must not go back: zero if it
  // may go on, else how long until it might.
  absl::Duration Take(const std::string& client, absl::Time now);

  // Clients that are remembered: those whose bucket is not full.
  int64_t num_clients() const;

 private:
  struct Bucket {
    double requests = 0;  // That are left ...
    absl::Time when;      // ... at that time.
  };

  void ForgetFull(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const double per_minute_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Bucket> buckets_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_forgotten_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace strata

#endif  // SERVING_API_RATE_LIMITER_H_
