// /metrics in Prometheus' text form. Names and buckets are vLLM's, with the
// prefix strata:, where the meaning is the same.

#ifndef SERVING_API_SERVER_METRICS_H_
#define SERVING_API_SERVER_METRICS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "serving/engine/engine.h"

namespace strata {

// For several threads.
class ServerMetrics {
 public:
  explicit ServerMetrics(const std::string& model);

  void ObserveFirstToken(absl::Duration since_request);
  void ObserveInterToken(absl::Duration since_last_token);
  // Of a request that has been answered to its end.
  void ObserveRequest(absl::Duration duration, int64_t prompt_tokens,
                      int64_t completion_tokens);
  void CountResponse(const std::string& path, int status);

  // The page, with the engine's counts as they are now.
  std::string Text(const EngineStats& stats);

 private:
  prometheus::Gauge& AddGauge(const std::string& name, const std::string& help);
  prometheus::Counter& AddCounter(const std::string& name,
                                  const std::string& help);
  prometheus::Histogram& AddHistogram(
      const std::string& name, const std::string& help,
      const prometheus::Histogram::BucketBoundaries& buckets);

  const std::map<std::string, std::string> labels_;
  prometheus::Registry registry_;
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& cache_usage_;
  prometheus::Counter& preemptions_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Counter& prefix_queries_;
  prometheus::Counter& prefix_hits_;
  prometheus::Counter& steps_;
  prometheus::Counter& step_seconds_;
  prometheus::Counter& forward_seconds_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& inter_token_;
  prometheus::Histogram& request_;
  prometheus::Histogram& request_prompt_;
  prometheus::Histogram& request_generation_;
  prometheus::Family<prometheus::Counter>& finished_;
  prometheus::Family<prometheus::Counter>& responses_;
  absl::Mutex mutex_;  // Counters take differences to what they last had.
};

}  // namespace strata

#endif  // SERVING_API_SERVER_METRICS_H_
