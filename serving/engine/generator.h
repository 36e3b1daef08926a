// Text from a model: prefill, then one token after another over a KV cache.
//
//   prompt --in chunks-----> prefill program --.
//                                              +--> logits --sampler--> token
//   token  --one at a time--> decode program --'                          |
//      ^                                                                  |
//      '------------------------------------------------------------------'
//
// Both programs share weights and cache, which lie in one StateStore.

#ifndef SERVING_ENGINE_GENERATOR_H_
#define SERVING_ENGINE_GENERATOR_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/quant/cache_format.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "serving/engine/sampler.h"

namespace strata {

struct GenerateOptions {
  int64_t max_new_tokens = 200;  // Fewer where max_seq_len ends before.
  SamplingOptions sampling;
  int32_t stop_token = -1;  // Generation ends before it; -1: no such token.
  // The first new tokens, in place of drawn ones: for measuring. Not read by
  // speculation.
  std::vector<int32_t> given;
  // The model's multi-token prediction module drafts a token ahead, which the
  // model then checks together with its own next one. The same tokens as
  // without, at any temperature, in fewer runs; only for models with a module.
  bool speculative = false;
};

struct GenerateStats {
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;   // Of sampling too; not of on_token.
  int64_t drafted_tokens = 0;  // Speculative: drafts that the model checked ...
  int64_t accepted_tokens = 0;  // ... and that were its own choice.
};

// One sequence at a time. Not for several threads; kernels use the backend's
// own.
class Generator {
 public:
  static constexpr int64_t kPrefillTokens = 64;
  // A chunk of this many serves experts a dozen or more tokens each, where
  // activations of so many are no burden.
  static constexpr int64_t kLongPrefillTokens = 512;

  // A generator over the weights in `state`, which, with `backend`, must
  // outlive it; they may change between calls (as between training steps).
  //
  // `fuse`: a block is a few composite operators, as far as the backend has
  // kernels of them (docs/fusion.md). `cache`: keys and values in fewer bits,
  // then attention is not fused. `prefill_tokens`: of a chunk, at most.
  //
  // Returns INVALID_ARGUMENT if the config is wrong or `state` holds tensors of
  // another, and RESOURCE_EXHAUSTED if memory runs out.
  static absl::StatusOr<std::unique_ptr<Generator>> Create(
      const ModelConfig& config, Backend& backend, StateStore& state,
      bool fuse = true, const CacheOptions& cache = {},
      int64_t prefill_tokens = kPrefillTokens);

  // Continues `prompt` (token ids, at least one). `on_token` sees each new
  // token as it is made and may return false to stop.
  //
  // Returns INVALID_ARGUMENT if an option is out of range or the prompt is
  // empty, holds an id outside the vocabulary, leaves no room in
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

  // Time by operator of decoding a token at a time, and of chunks of prompts,
  // since EnableProfile().
  void EnableProfile() {
    decode_->EnableProfile();
    prefill_->EnableProfile();
  }
  std::vector<Program::OpTime> Profile() const { return decode_->Profile(); }
  std::vector<Program::OpTime> PrefillProfile() const {
    return prefill_->Profile();
  }

 private:
  Generator(const ModelConfig& config, Backend& backend, StateStore& state,
            bool fuse, const CacheOptions& cache, int64_t prefill_tokens)
      : config_(config),
        backend_(backend),
        state_(state),
        fuse_(fuse),
        cache_(cache),
        prefill_tokens_(std::min(prefill_tokens, config.max_seq_len())) {}

  absl::Status Check(absl::Span<const int32_t> prompt,
                     const GenerateOptions& options) const;
  // Tokens that one round gives: emits them through `emit`, which says whether
  // to go on.
  using Emit = std::function<bool(int32_t token)>;
  absl::Status GenerateSpeculatively(absl::Span<const int32_t> prompt,
                                     const SamplingOptions& sampling,
                                     int64_t max_new_tokens, const Emit& emit);
  // Runs the module on tokens from `position` on, whose hidden states are
  // `hidden` [ids, d_model] and whose next tokens are `ids`; returns its logits
  // of the token after the last, valid until the next run.
  absl::StatusOr<absl::Span<const float>> Draft(absl::Span<const float> hidden,
                                                absl::Span<const int32_t> ids,
                                                int64_t position);
  // Of basic operators.
  absl::StatusOr<Graph> BuildGraph(DecoderOptions::Mode mode,
                                   int64_t max_tokens,
                                   int64_t max_logits) const;
  absl::StatusOr<std::unique_ptr<Program>> Compile(DecoderOptions::Mode mode,
                                                   int64_t max_tokens,
                                                   int64_t max_logits) const;
  // Makes the programs that only speculation needs.
  absl::Status CompileDrafting();

  // Runs `ids` at positions from `position` on; logits of the last one.
  absl::Status Advance(absl::Span<const int32_t> ids, int64_t position);
  // Runs ids that fit into `program`; logits of the last `num_logits`.
  absl::Status RunChunk(Program& program, absl::Span<const int32_t> ids,
                        int64_t position, int64_t num_logits);
  absl::Status CheckLogits(int64_t num_tokens) const;

  ModelConfig config_;
  Backend& backend_;
  StateStore& state_;
  const bool fuse_;
  const CacheOptions cache_;
  const int64_t prefill_tokens_;
  std::unique_ptr<Program> prefill_;
  std::unique_ptr<Program> decode_;
  // Speculation: the model on two tokens, the module on many and on one or two.
  std::unique_ptr<Program> check_;
  std::unique_ptr<Program> draft_prefill_;
  std::unique_ptr<Program> draft_;
  Program* latest_ = nullptr;
  GenerateStats stats_;
};

}  // namespace strata

#endif  // SERVING_ENGINE_GENERATOR_H_
