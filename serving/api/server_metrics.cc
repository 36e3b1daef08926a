#include "serving/api/server_metrics.h"

#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/text_serializer.h"
#include "serving/engine/engine.h"

namespace strata {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// Seconds.
const Buckets& FirstTokenBuckets() {
  static const Buckets& buckets = *new Buckets{
      0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
      1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
  return buckets;
}
const Buckets& InterTokenBuckets() {
  static const Buckets& buckets =
      *new Buckets{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                   0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
  return buckets;
}
const Buckets& RequestBuckets() {
  static const Buckets& buckets =
      *new Buckets{0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                   30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
  return buckets;
}
const Buckets& TokenBuckets() {
  static const Buckets& buckets = *new Buckets{
      1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5};
  return buckets;
}

const char* NameOf(int reason) {
  switch (static_cast<FinishReason>(reason)) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "abort";
    case FinishReason::kTimedOut:
      return "timeout";
    case FinishReason::kFailed:
      return "error";
  }
  return "";
}

void RaiseTo(prometheus::Counter& counter, double value) {
  counter.Increment(value - counter.Value());
}

}  // namespace

prometheus::Gauge& ServerMetrics::AddGauge(const std::string& name,
                                           const std::string& help) {
  return prometheus::BuildGauge()
      .Name("strata:" + name)
      .Help(help)
      .Labels(labels_)
      .Register(registry_)
      .Add({});
}

prometheus::Counter& ServerMetrics::AddCounter(const std::string& name,
                                               const std::string& help) {
  return prometheus::BuildCounter()
      .Name("strata:" + name)
      .Help(help)
      .Labels(labels_)
      .Register(registry_)
      .Add({});
}

prometheus::Histogram& ServerMetrics::AddHistogram(const std::string& name,
                                                   const std::string& help,
                                                   const Buckets& buckets) {
  return prometheus::BuildHistogram()
      .Name("strata:" + name)
      .Help(help)
      .Labels(labels_)
      .Register(registry_)
      .Add({}, buckets);
}

ServerMetrics::ServerMetrics(const std::string& model)
    : labels_({{"model_name", model}}),
      running_(AddGauge("num_requests_running", "Sequences in the batch.")),
      waiting_(AddGauge("num_requests_waiting",
                        "Sequences that wait for their turn.")),
      cache_usage_(AddGauge("kv_cache_usage_perc",
                            "Share of the cache's blocks in use, kept "
                            "prefixes included; 1 is all.")),
      preemptions_(AddCounter("num_preemptions_total",
                              "Sequences that gave up their blocks.")),
      prompt_tokens_(
          AddCounter("prompt_tokens_total", "Tokens of prompts that began.")),
      generation_tokens_(
          AddCounter("generation_tokens_total", "Tokens drawn.")),
      prefix_queries_(AddCounter("prefix_cache_queries_total",
                                 "Tokens looked up in the prefix cache.")),
      prefix_hits_(AddCounter("prefix_cache_hits_total",
                              "Tokens found in the prefix cache.")),
      steps_(AddCounter("engine_steps_total", "Runs of the model.")),
      step_seconds_(AddCounter("engine_step_seconds_total",
                               "Time of steps, scheduling and drawing "
                               "included.")),
      forward_seconds_(AddCounter("engine_forward_seconds_total",
                                  "Time of these in the model.")),
      first_token_(AddHistogram("time_to_first_token_seconds",
                                "From the request to its first token.",
                                FirstTokenBuckets())),
      inter_token_(AddHistogram("inter_token_latency_seconds",
                                "From one token to the next of a choice.",
                                InterTokenBuckets())),
      request_(AddHistogram("e2e_request_latency_seconds",
                            "From a request to the end of its answer.",
                            RequestBuckets())),
      request_prompt_(AddHistogram("request_prompt_tokens",
                                   "Tokens of a request's prompts.",
                                   TokenBuckets())),
      request_generation_(AddHistogram("request_generation_tokens",
                                       "Tokens of a request's answers.",
                                       TokenBuckets())),
      finished_(prometheus::BuildCounter()
                    .Name("strata:request_success_total")
                    .Help("Choices that ended, by reason; abort, timeout and "
                          "error among them.")
                    .Labels(labels_)
                    .Register(registry_)),
      responses_(prometheus::BuildCounter()
                     .Name("strata:http_responses_total")
                     .Help("Responses by path and status.")
                     .Labels(labels_)
                     .Register(registry_)) {}

void ServerMetrics::ObserveFirstToken(absl::Duration since_request) {
  first_token_.Observe(absl::ToDoubleSeconds(since_request));
}

void ServerMetrics::ObserveInterToken(absl::Duration since_last_token) {
  inter_token_.Observe(absl::ToDoubleSeconds(since_last_token));
}

void ServerMetrics::ObserveRequest(absl::Duration duration,
                                   int64_t prompt_tokens,
                                   int64_t completion_tokens) {
  request_.Observe(absl::ToDoubleSeconds(duration));
  request_prompt_.Observe(static_cast<double>(prompt_tokens));
  request_generation_.Observe(static_cast<double>(completion_tokens));
}

void ServerMetrics::CountResponse(const std::string& path, int status) {
  responses_.Add({{"path", path}, {"status", absl::StrCat(status)}})
      .Increment();
}

std::string ServerMetrics::Text(const EngineStats& stats) {
  absl::MutexLock lock(&mutex_);
  running_.Set(static_cast<double>(stats.num_running));
  waiting_.Set(static_cast<double>(stats.num_waiting));
  cache_usage_.Set(static_cast<double>(stats.num_used_blocks) /
                   static_cast<double>(stats.num_blocks));
  RaiseTo(preemptions_, static_cast<double>(stats.num_preemptions));
  RaiseTo(prompt_tokens_, static_cast<double>(stats.prompt_tokens));
  RaiseTo(generation_tokens_, static_cast<double>(stats.generated_tokens));
  RaiseTo(prefix_queries_, static_cast<double>(stats.prefix_queried_tokens));
  RaiseTo(prefix_hits_, static_cast<double>(stats.prefix_found_tokens));
  RaiseTo(steps_, static_cast<double>(stats.num_steps));
  RaiseTo(step_seconds_, stats.step_seconds);
  RaiseTo(forward_seconds_, stats.forward_seconds);
  for (int reason = 0; reason < kNumFinishReasons; ++reason) {
    RaiseTo(finished_.Add({{"finished_reason", NameOf(reason)}}),
            static_cast<double>(stats.num_finished[reason]));
  }
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace strata
