// Text from a model: prefill, then one token after another over a KV cache.

#ifndef SERVING_ENGINE_GENERATOR_H_
#define SERVING_ENGINE_GENERATOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/model/config.pb.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "serving/engine/sampler.h"

namespace strata {

struct GenerateOptions {
  int64_t max_new_tokens = 200;
  SamplingOptions sampling;
  int32_t stop_token = -1;  // Generation ends before it; -1: no such token.
};

struct GenerateStats {
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

// One sequence at a time. Holds two programs over one cache: prefill in chunks
// of kPrefillTokens, and decoding of single tokens.
class Generator {
 public:
  static constexpr int64_t kPrefillTokens = 64;

  // A generator over the weights in `state`, which, with `backend`, must
  // outlive it; they may change between calls (as between training steps).
  static absl::StatusOr<std::unique_ptr<Generator>> Create(
      const ModelConfig& config, Backend& backend, StateStore& state);

  // Continues `prompt` (token ids, at least one). `on_token` sees each new
  // token as it is made and may return false to stop.
  //
  // Returns INVALID_ARGUMENT if the prompt is empty, holds an id outside the
  // vocabulary, or leaves no room in max_seq_len.
  absl::StatusOr<std::vector<int32_t>> Generate(
      absl::Span<const int32_t> prompt, const GenerateOptions& options,
      const std::function<bool(int32_t)>& on_token = nullptr);

  // Logits [vocab] after the latest token: for tests.
  absl::Span<const float> logits() const;
  const GenerateStats& stats() const { return stats_; }

  // Bytes that decoding one token must move at least: the weights that a token
  // reads (of experts, those it may activate at most) and its share of cache.
  double MinBytesPerToken(int64_t context) const;

 private:
  Generator(const ModelConfig& config) : config_(config) {}

  // Runs `ids` at positions from `position` on; logits of the last one.
  absl::Status Advance(absl::Span<const int32_t> ids, int64_t position);

  ModelConfig config_;
  std::unique_ptr<Program> prefill_;
  std::unique_ptr<Program> decode_;
  Program* latest_ = nullptr;
  GenerateStats stats_;
};

}  // namespace strata

#endif  // SERVING_ENGINE_GENERATOR_H_
