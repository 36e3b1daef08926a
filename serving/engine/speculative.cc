// Speculative decoding: Generator's part that drafts with the multi-token
// prediction module.
//
// Between rounds the model's cache holds the tokens before `token`, which is
// the newest and not in it, and `draft` is the module's guess of what follows:
//
//   model on [token, draft]      -> the true next token; if that is the draft,
//                                   the one after it too
//   module on what is now known  -> the next draft
//
// What a wrong draft left in the cache is overwritten by the next round. Runs
// of a few tokens round like one token alone (core/cpu/cached_attention.cc), so
// the choices are those of plain decoding.
//
// With a temperature too: the n-th token is drawn from the model's logits with
// the n-th random number, as without drafts, and a draft is accepted if it is
// that token. Nothing of the draft enters the draw, so the distribution is the
// model's, and texts are equal seed by seed. The module draws its draft with
// the same random number from its own logits: where these are near the model's,
// both draws mostly fall on the same token. Accepting by min(1, p / q), the
// usual way, keeps the distribution but not the text.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/runtime/program.h"
#include "core/tensor/tensor.h"
#include "serving/engine/generator.h"
#include "serving/engine/sampler.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

// Tokens of a round: one that is known and one that is drafted.
constexpr int64_t kRound = 2;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

absl::Status Generator::CompileDrafting() {
  if (check_ != nullptr) return absl::OkStatus();
  constexpr auto kDraft = DecoderOptions::Mode::kDraft;
  ASSIGN_OR_RETURN(draft_prefill_,
                   Compile(kDraft, prefill_tokens_, /*max_logits=*/1));
  ASSIGN_OR_RETURN(draft_, Compile(kDraft, kRound, /*max_logits=*/1));
  ASSIGN_OR_RETURN(check_,
                   Compile(DecoderOptions::Mode::kGenerate, kRound, kRound));
  return absl::OkStatus();
}

absl::StatusOr<absl::Span<const float>> Generator::Draft(
    absl::Span<const float> hidden, absl::Span<const int32_t> ids,
    int64_t position) {
  Program& program =
      static_cast<int64_t>(ids.size()) <= kRound ? *draft_ : *draft_prefill_;
  std::copy(hidden.begin(), hidden.end(), program.Input("hidden").as<float>());
  Program* const latest = latest_;
  RETURN_IF_ERROR(RunChunk(program, ids, position, /*num_logits=*/1));
  latest_ = latest;
  return program.Output("logits").span<float>();
}

absl::Status Generator::GenerateSpeculatively(absl::Span<const int32_t> prompt,
                                              const SamplingOptions& sampling,
                                              int64_t max_new_tokens,
                                              const Emit& emit) {
  RETURN_IF_ERROR(CompileDrafting());
  TokenSampler sampler(sampling), draft_sampler(sampling);
  const int64_t vocab = config_.vocab_size(), d = config_.d_model();
  const auto length = static_cast<int64_t>(prompt.size());
  int32_t token = 0, draft = 0;

  // The prompt, through the model and, with the tokens behind, the module.
  Clock::time_point start = Clock::now();
  std::vector<int32_t> behind;
  for (int64_t first = 0; first < length; first += prefill_tokens_) {
    const auto chunk = prompt.subspan(first, prefill_tokens_);
    const auto n = static_cast<int64_t>(chunk.size());
    const bool last = first + n == length;
    Program& program = n == 1 ? *decode_ : *prefill_;
    RETURN_IF_ERROR(RunChunk(program, chunk, first, last ? 1 : 0));
    if (last) {
      RETURN_IF_ERROR(CheckLogits(length));
      token = sampler.Draw(logits());
    }
    behind.assign(chunk.begin() + 1, chunk.end());
    behind.push_back(last ? token : prompt[first + n]);
    ASSIGN_OR_RETURN(
        const absl::Span<const float> guess,
        Draft(program.Output("hidden").span<float>(), behind, first));
    if (last) {
      draft_sampler.SkipTo(1);
      draft = draft_sampler.Draw(guess);
    }
  }
  stats_.prefill_seconds = SecondsSince(start);
  if (max_new_tokens == 0 || !emit(token)) return absl::OkStatus();

  int64_t position = length;  // Of `token`.
  while (stats_.new_tokens < max_new_tokens) {
    start = Clock::now();
    // The last token that fits is checked alone.
    const int64_t n = position + kRound <= config_.max_seq_len() ? kRound : 1;
    const int32_t round[kRound] = {token, draft};
    RETURN_IF_ERROR(RunChunk(*check_, absl::MakeConstSpan(round, n), position,
                             /*num_logits=*/n));
    RETURN_IF_ERROR(CheckLogits(position + n));
    const absl::Span<const float> all = logits();
    int32_t known[kRound] = {sampler.Draw(all.subspan(0, vocab)), 0};
    int64_t num_known = 1;
    if (n == kRound) {
      ++stats_.drafted_tokens;
      if (known[0] == draft) {
        ++stats_.accepted_tokens;
        known[num_known++] = sampler.Draw(all.subspan(vocab, vocab));
      }
    }
    const absl::Span<const float> hidden =
        check_->Output("hidden").span<float>();
    if (stats_.new_tokens + num_known < max_new_tokens) {
      ASSIGN_OR_RETURN(const absl::Span<const float> guess,
                       Draft(hidden.subspan(0, num_known * d),
                             absl::MakeConstSpan(known, num_known), position));
      draft_sampler.SkipTo(stats_.new_tokens + num_known);
      draft = draft_sampler.Draw(guess);
    }
    stats_.decode_seconds += SecondsSince(start);
    for (int64_t i = 0; i < num_known; ++i) {
      if (!emit(known[i])) return absl::OkStatus();
    }
    token = known[num_known - 1];
    position += num_known;
  }
  return absl::OkStatus();
}

}  // namespace strata
