// Text from a model: prefill, then one token after another over a KV cache.
//
//   prompt --chunks of 64--> prefill program --.
//                                              +--> logits --sampler--> token
//   token  --one at a time--> decode program --'                          |
//      ^                                                                  |
//      '------------------------------------------------------------------'
//
// Both programs share weights and cache, which lie in one StateStore.

#ifndef SERVING_ENGINE_GENERATOR_H_
#define SERVING_ENGINE_GENERATOR_H_

#include <cstdint>
#include <functional>
#include <memory>
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
  int64_t max_new_tokens = 200;  // Fewer where max_seq_len ends before.
  SamplingOptions sampling;
  int32_t stop_token = -1;  // Generation ends before it; -1: no such token.
};

struct GenerateStats {
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;  // Of sampling too; not of on_token.
};

// One sequence at a time. Not for several threads; kernels use the backend's
// own.
class Generator {
 public:
  static constexpr int64_t kPrefillTokens = 64;

  // A generator over the weights in `state`, which, with `backend`, must
  // outlive it; they may change between calls (as between training steps).
  //
  // Returns INVALID_ARGUMENT if the config is wrong or `state` holds tensors of
  // another, and RESOURCE_EXHAUSTED if memory runs out.
  static absl::StatusOr<std::unique_ptr<Generator>> Create(
      const ModelConfig& config, Backend& backend, StateStore& state);

  // Continues `prompt` (token ids, at least one). `on_token` sees each new
  // token as it is made and may return false to stop.
  //
  // Returns INVALID_ARGUMENT if an option is out of range or the prompt is
  // empty, holds an id outside the vocabulary, or leaves no room in
  // max_seq_len; OUT_OF_RANGE if the weights give logits that are not finite.
  absl::StatusOr<std::vector<int32_t>> Generate(
      absl::Span<const int32_t> prompt, const GenerateOptions& options,
      const std::function<bool(int32_t)>& on_token = nullptr);

  // Logits [vocab] that the latest token was drawn from, or would be: for
  // tests. Empty before the first Generate.
  absl::Span<const float> logits() const;
  const GenerateStats& stats() const { return stats_; }

  // Bytes that decoding one token must move at least: the weights that a token
  // reads (of experts, those it may activate at most) and, of the cache,
  // `context` rows to read and its own to write.
  double MinBytesPerToken(int64_t context) const;

 private:
  explicit Generator(const ModelConfig& config) : config_(config) {}

  absl::Status Check(absl::Span<const int32_t> prompt,
                     const GenerateOptions& options) const;
  // Runs `ids` at positions from `position` on; logits of the last one.
  absl::Status Advance(absl::Span<const int32_t> ids, int64_t position);
  // Runs ids that fit into `program`; logits of the last one if wanted.
  absl::Status RunChunk(Program& program, absl::Span<const int32_t> ids,
                        int64_t position, bool want_logits);

  ModelConfig config_;
  std::unique_ptr<Program> prefill_;
  std::unique_ptr<Program> decode_;
  Program* latest_ = nullptr;
  GenerateStats stats_;
};

}  // namespace strata

#endif  // SERVING_ENGINE_GENERATOR_H_
