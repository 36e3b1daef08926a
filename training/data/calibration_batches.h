// Text of a corpus as calibration takes it (core/quant/input_moments.h).

#ifndef TRAINING_DATA_CALIBRATION_BATCHES_H_
#define TRAINING_DATA_CALIBRATION_BATCHES_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "core/quant/input_moments.h"
#include "training/data/corpus.h"

namespace strata {

// At least `num_tokens` tokens of the corpus's training part, of each domain as
// many, in sequences of 256 tokens or what the model reads at most. A pure
// function of its arguments.
//
// Returns INVALID_ARGUMENT if a domain is shorter than a sequence, or if the
// corpus has ids that the model does not know.
absl::StatusOr<std::vector<TokenBatch>> CalibrationBatches(
    const Corpus& corpus, const ModelConfig& config, int64_t num_tokens,
    uint64_t seed);

// The same of the validation part, which calibration never sees.
absl::StatusOr<std::vector<TokenBatch>> HeldOutBatches(
    const Corpus& corpus, const ModelConfig& config, int64_t num_tokens);

}  // namespace strata

#endif  // TRAINING_DATA_CALIBRATION_BATCHES_H_
