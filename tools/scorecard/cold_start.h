// Cold start: how many steps of training a forgotten expert needs until it is
// used again.
//
//   checkpoint --> the last expert of each gate is forgotten: its rows of the
//   gate, their moments and its load history are zero, so that nothing speaks
//   for it --> training goes on --> steps until its load is half the mean's
//
// An expert that never fell below half the mean counts as 0 steps: a zero row
// is a middling score, which a gate may well choose.

#ifndef TOOLS_SCORECARD_COLD_START_H_
#define TOOLS_SCORECARD_COLD_START_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "training/trainer.h"

namespace strata {

struct ColdStart {
  int64_t max_steps = 0;  // That were made.
  // Of each gate's forgotten expert: load over the gate's mean, step by step.
  std::vector<std::vector<double>> load;  // [gates][max_steps]

  // Steps of each gate's expert before the first of five in a row with at least
  // half the mean load; max_steps if it never came to that.
  std::vector<int64_t> Steps() const;  // [gates]
  double MeanSteps() const;
};

// Forgets the last expert of each gate of the trainer's model and trains on for
// `max_steps` steps. Asks `stop` between steps.
//
// Returns CANCELLED if stopped, or a step's error.
absl::StatusOr<ColdStart> MeasureColdStart(Trainer& trainer, int64_t max_steps,
                                           const std::function<bool()>& stop);

}  // namespace strata

#endif  // TOOLS_SCORECARD_COLD_START_H_
