// Whether two checkpoints hold the same tensors: names, dtypes, shapes, bytes.

#ifndef CORE_CHECKPOINT_COMPARE_WEIGHTS_H_
#define CORE_CHECKPOINT_COMPARE_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace strata {

struct WeightComparison {
  int64_t num_equal = 0;
  int64_t num_bytes = 0;                 // Of the equal ones.
  std::vector<std::string> differences;  // A line each, by name.
};

// `a` and `b` are safetensors files, or folders with them. `progress` sees the
// tensors done and their number.
//
// Returns the errors of WeightFiles::Open.
absl::StatusOr<WeightComparison> CompareWeights(
    const std::string& a, const std::string& b,
    const std::function<void(int64_t done, int64_t all)>& progress = nullptr);

}  // namespace strata

#endif  // CORE_CHECKPOINT_COMPARE_WEIGHTS_H_
