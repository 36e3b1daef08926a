// How redundant a gate's choices are: the similarity of what experts that were
// chosen together say of the same tokens.
//
//   validation windows, of all domains in turn --> the model, evaluating
//     --> outputs of experts a and b, of tokens that chose both
//     --> linear CKA (cka.h), averaged over pairs of experts of a gate

#ifndef TOOLS_SCORECARD_REDUNDANCY_H_
#define TOOLS_SCORECARD_REDUNDANCY_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {

struct RedundancyOptions {
  int64_t rows = 256;  // Tokens a pair, the same for every pair and model.
  int64_t pairs_per_gate = 64;  // Drawn at random; all if there are fewer.
  int64_t max_batches = 32;
  uint64_t seed = 1;  // Of the draw.
};

struct Redundancy {
  double cka = 0;         // Mean over pairs; 0 if there are none.
  int64_t num_pairs = 0;  // That were chosen together by `rows` tokens.
};

// Of the trainer's weights as they stand; changes nothing. `corpus` is the
// trainer's.
absl::StatusOr<Redundancy> MeasureRedundancy(Trainer& trainer,
                                             const Corpus& corpus,
                                             const RedundancyOptions& options);

}  // namespace strata

#endif  // TOOLS_SCORECARD_REDUNDANCY_H_
