// Minimum of a function of a few positive numbers, without derivatives.

#ifndef SIM_COMPUTE_MINIMIZE_H_
#define SIM_COMPUTE_MINIMIZE_H_

#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"

namespace strata {

// Where to search: between bounds that are positive, in logarithms.
struct SearchRange {
  double initial = 0;
  double least = 0;
  double most = 0;
};

struct Minimum {
  std::vector<double> at;
  double value = 0;
  int evaluations = 0;
};

// The best point of a pattern search from `initial` and from points drawn
// around it, then refined by the simplex of Nelder and Mead (with the
// coefficients of Gao and Han for many dimensions) and pattern search again.
// A local minimum: nothing promises more. The same for the same arguments on
// every machine. Evaluates `cost` about `max_evaluations` times; a cost that is
// not finite counts as infinite.
Minimum Minimize(absl::FunctionRef<double(absl::Span<const double>)> cost,
                 absl::Span<const SearchRange> range, int max_evaluations);

}  // namespace strata

#endif  // SIM_COMPUTE_MINIMIZE_H_
