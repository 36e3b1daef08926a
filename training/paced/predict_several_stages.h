// What a step takes on paced ranks that hold several stages of a pipeline each,
// by the stages' graphs and the schedule.
//
//   stage   its forward, input gradients and weight gradients, walked with what
//           of their exchanges of rows is exposed (graph_walk.h)
//   pair    the three one after the other, or one program, walked likewise
//     |
//     v
//   timeline of the schedule (core/parallel/pipeline_timeline.h), the update

#ifndef TRAINING_PACED_PREDICT_SEVERAL_STAGES_H_
#define TRAINING_PACED_PREDICT_SEVERAL_STAGES_H_

#include "absl/status/statusor.h"
#include "training/paced/paced_setup.h"

namespace strata {

// Seconds a step, with sums of gradients after it (no overlap_sums).
//
// Returns the errors of BuildGradientGraph() and PlanPipeline().
absl::StatusOr<double> PredictSeveralStages(const PacedSetup& setup);

}  // namespace strata

#endif  // TRAINING_PACED_PREDICT_SEVERAL_STAGES_H_
