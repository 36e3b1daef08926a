// Alarms to whoever wants them: one HTTP POST of JSON each, from a thread of
// their own, so that a receiver that is slow or away delays nobody.

#ifndef SERVING_MONITOR_WEBHOOK_H_
#define SERVING_MONITOR_WEBHOOK_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "nlohmann/json.hpp"

namespace strata {

class Webhook {
 public:
  // `url`: http://host[:port]/path or https://...
  //
  // Returns INVALID_ARGUMENT if it is none.
  static absl::StatusOr<std::unique_ptr<Webhook>> Create(
      const std::string& url);
  // Waits for the one that is being sent, for seconds at most.
  ~Webhook();

  // Sends it soon; twice more if that fails. If more than a hundred wait, the
  // oldest is dropped.
  void Send(const nlohmann::ordered_json& object);

  int64_t num_sent() const;
  int64_t num_failed() const;  // Given up, or dropped.

 private:
  Webhook(std::string origin, std::string path);
  void Loop();

  const std::string origin_;  // "http://host:port"
  const std::string path_;
  mutable absl::Mutex mutex_;
  std::deque<std::string> waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t num_sent_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_failed_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace strata

#endif  // SERVING_MONITOR_WEBHOOK_H_
