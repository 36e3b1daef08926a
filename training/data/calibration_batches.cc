#include "training/data/calibration_batches.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/model/config.pb.h"
#include "core/quant/input_moments.h"
#include "training/data/corpus.h"
#include "training/data/sampler.h"

namespace strata {
namespace {

constexpr int64_t kSeqLen = 256;
constexpr int64_t kSequences = 8;  // A batch.

absl::StatusOr<int64_t> SeqLen(const Corpus& corpus,
                               const ModelConfig& config) {
  if (corpus.vocab_size() > config.vocab_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the corpus has ", corpus.vocab_size(), " tokens, and the model ",
        config.vocab_size(), "; it belongs to another model"));
  }
  const int64_t seq_len = std::min(kSeqLen, config.max_seq_len());
  RETURN_IF_ERROR(CheckLongEnough(corpus, seq_len));
  return seq_len;
}

TokenBatch EmptyBatch(int64_t seq_len) {
  TokenBatch batch;
  batch.seq_len = seq_len;
  batch.ids.resize(kSequences * seq_len);
  batch.targets.resize(batch.ids.size());
  return batch;
}

}  // namespace

absl::StatusOr<std::vector<TokenBatch>> CalibrationBatches(
    const Corpus& corpus, const ModelConfig& config, int64_t num_tokens,
    uint64_t seed) {
  ASSIGN_OR_RETURN(const int64_t seq_len, SeqLen(corpus, config));
  const int64_t tokens = kSequences * seq_len;
  SamplerConfig sampling;
  sampling.seed = seed;
  sampling.seq_len = seq_len;
  sampling.sequences_per_step = (num_tokens + tokens - 1) / tokens * kSequences;
  ASSIGN_OR_RETURN(const Sampler sampler, Sampler::Create(&corpus, sampling));
  std::vector<TokenBatch> batches;
  for (int64_t i = 0; i < sampling.sequences_per_step; i += kSequences) {
    TokenBatch batch = EmptyBatch(seq_len);
    sampler.Fill(/*step=*/0, i, absl::MakeSpan(batch.ids),
                 absl::MakeSpan(batch.targets));
    batches.push_back(std::move(batch));
  }
  return batches;
}

absl::StatusOr<std::vector<TokenBatch>> HeldOutBatches(
    const Corpus& corpus, const ModelConfig& config, int64_t num_tokens) {
  ASSIGN_OR_RETURN(const int64_t seq_len, SeqLen(corpus, config));
  const auto domains = static_cast<int64_t>(corpus.domains.size());
  ASSIGN_OR_RETURN(
      const ValidationWindows windows,
      ValidationWindows::Create(&corpus, seq_len,
                                std::max<int64_t>(1, num_tokens / domains)));
  std::vector<TokenBatch> batches;
  for (int domain = 0; domain < windows.num_domains(); ++domain) {
    for (int64_t i = 0; i < windows.num_windows(domain); i += kSequences) {
      TokenBatch batch = EmptyBatch(seq_len);
      const int64_t filled = windows.Fill(domain, i, absl::MakeSpan(batch.ids),
                                          absl::MakeSpan(batch.targets));
      batch.ids.resize(filled * seq_len);
      batch.targets.resize(filled * seq_len);
      batches.push_back(std::move(batch));
    }
  }
  return batches;
}

}  // namespace strata
