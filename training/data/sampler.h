// Which tokens a model sees when: sequences for training and for validation.
//
//   train tokens ... t o   b e   o r   n o t ...      of one domain
//                    |<-- seq_len = 8 -->|
//   ids              t o _ b e _ o r
//   targets            o _ b e _ o r _                each the token after
//
// A sequence is a pure function of (seed, step, its number in the step). So the
// state of the data order that a checkpoint keeps is (seed, step), and the
// sequences of a step are the same however it is cut into micro-batches, ranks
// and threads.
//
// Neither class allocates after it was made. Both point into the corpus, which
// must outlive them.

#ifndef TRAINING_DATA_SAMPLER_H_
#define TRAINING_DATA_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "training/data/corpus.h"

namespace strata {

struct SamplerConfig {
  uint64_t seed = 0;
  int64_t seq_len = 0;             // Tokens.
  int64_t sequences_per_step = 0;  // Over all micro-batches and ranks.
};

// Training sequences. Of each run of num_domains sequences every domain has
// one, in an order that turns by chance; starts are uniform over the domain.
class Sampler {
 public:
  // Returns INVALID_ARGUMENT if a number of `config` is not positive or a
  // domain is shorter than a sequence.
  static absl::StatusOr<Sampler> Create(const Corpus* corpus,
                                        const SamplerConfig& config);

  // Fills the step's sequences from number `first_sequence` on, as many as the
  // arrays hold; micro-batch m of b sequences begins at m * b.
  void Fill(int64_t step, int64_t first_sequence,
            absl::Span<int32_t> ids,             // [sequences, seq_len]
            absl::Span<int32_t> targets) const;  // [sequences, seq_len]

  // The domain of a sequence, and where in its train tokens it starts.
  int DomainOf(int64_t step, int64_t sequence) const;
  int64_t StartOf(int64_t step, int64_t sequence) const;

  const SamplerConfig& config() const { return config_; }

 private:
  Sampler(const Corpus* corpus, const SamplerConfig& config)
      : corpus_(corpus), config_(config) {}

  const Corpus* corpus_;
  SamplerConfig config_;
};

// Validation sequences: for each domain the same windows every time. They do
// not overlap, and if the budget does not pay for all, they are spread evenly
// over the domain's validation tokens.
class ValidationWindows {
 public:
  // `tokens_per_domain` is a bound; every domain has one window at least.
  //
  // Returns INVALID_ARGUMENT if seq_len is not positive or a domain is shorter
  // than a sequence.
  static absl::StatusOr<ValidationWindows> Create(const Corpus* corpus,
                                                  int64_t seq_len,
                                                  int64_t tokens_per_domain);

  int num_domains() const { return static_cast<int>(num_windows_.size()); }
  int64_t num_windows(int domain) const { return num_windows_[domain]; }

  // Fills the domain's windows from number `first_window` on, as many as there
  // are and the arrays hold, and returns how many. Rows after those are filled
  // with 0 as id and -1, which stands for no target.
  int64_t Fill(int domain, int64_t first_window,
               absl::Span<int32_t> ids,             // [rows, seq_len]
               absl::Span<int32_t> targets) const;  // [rows, seq_len]

  // Where in the domain's validation tokens a window starts.
  int64_t StartOf(int domain, int64_t window) const;

  // Bytes of text that the targets of windows are.
  int64_t NumTextBytes(int domain, int64_t first_window,
                       int64_t num_windows) const;

 private:
  ValidationWindows(const Corpus* corpus, int64_t seq_len)
      : corpus_(corpus), seq_len_(seq_len) {}

  const Corpus* corpus_;
  int64_t seq_len_;
  std::vector<int64_t> num_windows_;  // [num_domains]
};

}  // namespace strata

#endif  // TRAINING_DATA_SAMPLER_H_
