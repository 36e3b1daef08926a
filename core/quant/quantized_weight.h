// What is said of a matrix that was quantised, and how a run that was stopped
// keeps it.

#ifndef CORE_QUANT_QUANTIZED_WEIGHT_H_
#define CORE_QUANT_QUANTIZED_WEIGHT_H_

#include <cstdint>
#include <map>
#include <string>

#include "core/quant/calibrate.h"
#include "core/quant/format.h"
#include "nlohmann/json.hpp"

namespace strata {

// One matrix, or all experts' in one tensor; errors on the calibration data.
struct QuantizedWeight {
  std::string name;
  QuantFormat format;
  int64_t num_weights = 0;
  double bits_per_weight = 0;
  QuantError error;
  // Of experts' matrices: how many, and what they were calibrated on.
  int64_t num_experts = 0;
  int64_t fewest_inputs = 0;
  int64_t num_blended = 0;  // Experts with fewer inputs than columns.
  // Of a budget: experts, or matrices, by their bits.
  std::map<int, int64_t> num_of_bits;
};

nlohmann::json ToJson(const QuantizedWeight& weight);
// Of what ToJson made.
QuantizedWeight QuantizedWeightFromJson(const nlohmann::json& json);

}  // namespace strata

#endif  // CORE_QUANT_QUANTIZED_WEIGHT_H_
