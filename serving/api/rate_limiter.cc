#include "serving/api/rate_limiter.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace strata {

void RateLimiter::ForgetFull(absl::Time now) {
  // A bucket is full after a minute without requests.
  if (now - last_forgotten_ < absl::Minutes(1)) return;
  last_forgotten_ = now;
  absl::erase_if(buckets_, [&](const auto& client) {
    return now - client.second.when >= absl::Minutes(1);
  });
}

absl::Duration RateLimiter::Take(const std::string& client, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  ForgetFull(now);
  const double most = std::max(1.0, per_minute_);
  const auto [it, is_new] = buckets_.try_emplace(client, Bucket{most, now});
  Bucket& bucket = it->second;
  const double minutes = absl::ToDoubleMinutes(now - bucket.when);
  bucket.requests =
      std::min(most, bucket.requests + std::max(0.0, minutes) * per_minute_);
  bucket.when = now;
  if (bucket.requests >= 1) {
    bucket.requests -= 1;
    return absl::ZeroDuration();
  }
  return absl::Minutes((1 - bucket.requests) / per_minute_);
}

int64_t RateLimiter::num_clients() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(buckets_.size());
}

}  // namespace strata
