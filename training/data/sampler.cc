#include "training/data/sampler.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "training/data/corpus.h"

namespace strata {
namespace {

// Keeps the turns of the domains apart from the starts, whose third word is a
// sequence's number.
constexpr uint64_t kTurnStream = ~uint64_t{0};

absl::Status CheckPositive(const char* name, int64_t value) {
  if (value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is %d; want at least 1", name, value));
}

// In [0, n), by the high word of a product: no value is likelier than another
// by more than n in 2^64.
int64_t Below(int64_t n, uint64_t bits) {
  return static_cast<int64_t>(
      (static_cast<unsigned __int128>(bits) * static_cast<uint64_t>(n)) >> 64);
}

// The sequence that starts at `start`, and the token after each.
void CopySequence(const Domain& domain, CorpusPart part, int64_t start,
                  absl::Span<int32_t> ids, absl::Span<int32_t> targets) {
  domain.CopyTokens(part, start, ids);
  domain.CopyTokens(part, start + 1, targets);
}

}  // namespace

absl::StatusOr<Sampler> Sampler::Create(const Corpus* corpus,
                                        const SamplerConfig& config) {
  RETURN_IF_ERROR(CheckPositive("seq_len", config.seq_len));
  RETURN_IF_ERROR(
      CheckPositive("sequences_per_step", config.sequences_per_step));
  RETURN_IF_ERROR(CheckLongEnough(*corpus, config.seq_len));
  CHECK(!corpus->domains.empty()) << "a corpus without domains";
  return Sampler(corpus, config);
}

int Sampler::DomainOf(int64_t step, int64_t sequence) const {
  const int64_t num_domains = corpus_->domains.size();
  const int64_t number = step * config_.sequences_per_step + sequence;
  const int64_t turn =
      Below(num_domains,
            HashCounter(config_.seed, number / num_domains, kTurnStream));
  return static_cast<int>((number + turn) % num_domains);
}

int64_t Sampler::StartOf(int64_t step, int64_t sequence) const {
  const Domain& domain = corpus_->domains[DomainOf(step, sequence)];
  // The last start leaves seq_len tokens and the target of the last.
  const int64_t num_starts =
      domain.NumTokens(CorpusPart::kTrain) - config_.seq_len;
  return Below(num_starts, HashCounter(config_.seed, step, sequence));
}

void Sampler::Fill(int64_t step, int64_t first_sequence,
                   absl::Span<int32_t> ids, absl::Span<int32_t> targets) const {
  const int64_t seq_len = config_.seq_len;
  const int64_t num_sequences = static_cast<int64_t>(ids.size()) / seq_len;
  CHECK_EQ(num_sequences * seq_len, static_cast<int64_t>(ids.size()));
  CHECK_EQ(ids.size(), targets.size());
  CHECK(step >= 0 && first_sequence >= 0);
  CHECK_LE(first_sequence + num_sequences, config_.sequences_per_step);
  for (int64_t i = 0; i < num_sequences; ++i) {
    const int64_t sequence = first_sequence + i;
    CopySequence(corpus_->domains[DomainOf(step, sequence)], CorpusPart::kTrain,
                 StartOf(step, sequence), ids.subspan(i * seq_len, seq_len),
                 targets.subspan(i * seq_len, seq_len));
  }
}

absl::StatusOr<ValidationWindows> ValidationWindows::Create(
    const Corpus* corpus, int64_t seq_len, int64_t tokens_per_domain) {
  RETURN_IF_ERROR(CheckPositive("seq_len", seq_len));
  RETURN_IF_ERROR(CheckLongEnough(*corpus, seq_len));
  ValidationWindows windows(corpus, seq_len);
  for (const Domain& domain : corpus->domains) {
    // Those with a target.
    const int64_t num_tokens = domain.NumTokens(CorpusPart::kValidation) - 1;
    windows.num_windows_.push_back(std::max<int64_t>(
        1, std::min(num_tokens, tokens_per_domain) / seq_len));
  }
  return windows;
}

int64_t ValidationWindows::StartOf(int domain, int64_t window) const {
  const int64_t num_tokens =
      corpus_->domains[domain].NumTokens(CorpusPart::kValidation) - 1;
  const int64_t num_places = num_tokens / seq_len_;
  // Of equal places side by side, every (num_places / num_windows)-th.
  return window * num_places / num_windows_[domain] * seq_len_;
}

int64_t ValidationWindows::Fill(int domain, int64_t first_window,
                                absl::Span<int32_t> ids,
                                absl::Span<int32_t> targets) const {
  const int64_t num_rows = static_cast<int64_t>(ids.size()) / seq_len_;
  CHECK_EQ(num_rows * seq_len_, static_cast<int64_t>(ids.size()));
  CHECK_EQ(ids.size(), targets.size());
  CHECK(domain >= 0 && domain < num_domains() && first_window >= 0);
  const int64_t num_filled =
      std::clamp<int64_t>(num_windows_[domain] - first_window, 0, num_rows);
  for (int64_t i = 0; i < num_filled; ++i) {
    CopySequence(corpus_->domains[domain], CorpusPart::kValidation,
                 StartOf(domain, first_window + i),
                 ids.subspan(i * seq_len_, seq_len_),
                 targets.subspan(i * seq_len_, seq_len_));
  }
  const auto rest = static_cast<size_t>(num_filled * seq_len_);
  std::fill(ids.begin() + rest, ids.end(), kDocumentBoundary);
  std::fill(targets.begin() + rest, targets.end(), -1);
  return num_filled;
}

int64_t ValidationWindows::NumTextBytes(int domain, int64_t first_window,
                                        int64_t num_windows) const {
  int64_t num_bytes = 0;
  for (int64_t i = 0; i < num_windows; ++i) {
    num_bytes += corpus_->domains[domain].NumValidationTextBytes(
        StartOf(domain, first_window + i) + 1, seq_len_);
  }
  return num_bytes;
}

}  // namespace strata
