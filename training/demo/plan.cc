#include "training/demo/plan.h"

#include <cstdint>

namespace strata {

double DemoSeconds(const DemoCosts& costs, int64_t steps,
                   int64_t validation_interval) {
  // One at the end, and those before it.
  int64_t num_validations = 1;
  if (validation_interval > 0) {
    num_validations += (steps - 1) / validation_interval;
  }
  return costs.closing_seconds + costs.step_seconds * steps +
         costs.validation_seconds * num_validations;
}

int64_t StepsWithin(double seconds, const DemoCosts& costs,
                    int64_t validation_interval, int64_t max_steps) {
  int64_t fits = 1;
  int64_t too_many = max_steps + 1;
  while (too_many - fits > 1) {
    const int64_t middle = fits + (too_many - fits) / 2;
    (DemoSeconds(costs, middle, validation_interval) <= seconds ? fits
                                                                : too_many) =
        middle;
  }
  return fits;
}

}  // namespace strata
