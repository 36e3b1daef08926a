// How many steps of training fit the time that a demo has.

#ifndef TRAINING_DEMO_PLAN_H_
#define TRAINING_DEMO_PLAN_H_

#include <cstdint>

namespace strata {

// Measured on this machine, just before; of both models together.
struct DemoCosts {
  double step_seconds = 0;
  double validation_seconds = 0;
  double closing_seconds = 0;  // Checkpoints, samples: once.
};

// Seconds that a run of `steps` takes, with a validation every
// `validation_interval` steps (0: none) and one at the end.
double DemoSeconds(const DemoCosts& costs, int64_t steps,
                   int64_t validation_interval);

// The most steps whose run takes at most `seconds`, in [1, max_steps].
int64_t StepsWithin(double seconds, const DemoCosts& costs,
                    int64_t validation_interval, int64_t max_steps);

}  // namespace strata

#endif  // TRAINING_DEMO_PLAN_H_
