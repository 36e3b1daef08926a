// The model that the paced benchmark and its test train: small, since paced
// operators take their time anyway, and of shapes that eight ranks can share.

#ifndef TRAINING_PACED_PACED_EXAMPLE_H_
#define TRAINING_PACED_PACED_EXAMPLE_H_

#include "absl/status/statusor.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "training/data/corpus.h"
#include "training/paced/paced_run.h"

namespace strata {

// Eight layers of eight experts, eight micro-batches a step.
PacedSetup PacedExample(const MeshShape& shape, PipelineKind schedule);

absl::StatusOr<Corpus> PacedCorpus();

// `setup`'s pace, such that one rank alone takes so many seconds a step.
//
// Returns the errors of PredictPaced.
absl::StatusOr<Pace> PaceOf(PacedSetup setup, double one_rank_seconds);

}  // namespace strata

#endif  // TRAINING_PACED_PACED_EXAMPLE_H_
