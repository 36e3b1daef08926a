// Where gradients vanish on their way down through the layers (E3).
//
//   norm [layers]   L2 norm of the gradients of a layer's parameters, >= 0
//     |
//     v
//   vanishing index = log10(largest norm / norm): 0 of the layer that learns
//   most, 3 of one that has a thousandth of its gradient. The model's is the
//   largest of its layers'.

#ifndef CORE_MONITOR_GRADIENT_FLOW_H_
#define CORE_MONITOR_GRADIENT_FLOW_H_

#include <algorithm>
#include <cmath>

#include "absl/types/span.h"

namespace strata {

// Of a layer that has no gradient at all, and the most there is.
inline constexpr double kNoGradientIndex = 30;

inline double VanishingIndex(double norm, double largest) {
  if (largest <= 0) return 0;  // Nobody has one: nothing vanished on its way.
  if (norm <= 0) return kNoGradientIndex;
  return std::min(kNoGradientIndex, std::log10(largest / norm));
}

// The model's; 0 without layers.
inline double VanishingIndex(absl::Span<const double> norms) {
  double largest = 0, index = 0;
  for (const double norm : norms) largest = std::max(largest, norm);
  for (const double norm : norms) {
    index = std::max(index, VanishingIndex(norm, largest));
  }
  return index;
}

}  // namespace strata

#endif  // CORE_MONITOR_GRADIENT_FLOW_H_
