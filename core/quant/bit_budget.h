// Which matrices get 8 bits where bytes are counted and the others get 4.
//
// Each has a gain, what 8 bits take off the error, and a price in bytes. Those
// that gain most a byte go first, as long as they can be paid; what is too dear
// for the rest is passed over. So the sum of gains is within one matrix's of
// the largest there is (a fraction of the first passed over would reach that).

#ifndef CORE_QUANT_BIT_BUDGET_H_
#define CORE_QUANT_BIT_BUDGET_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace strata {

// A matrix, or all of an expert.
struct BitChoice {
  std::string name;
  double gain = 0;          // Not negative.
  int64_t extra_bytes = 0;  // Of 8 bits over 4; positive.
  bool wide = false;        // Chosen to have 8.
};

// Sets `wide` of those that `budget` pays for, `least` being the bytes where
// none is.
//
// Returns INVALID_ARGUMENT, with the bytes, if `budget` is below `least`.
absl::Status SpendBytes(int64_t budget, int64_t least,
                        std::vector<BitChoice>& choices);

}  // namespace strata

#endif  // CORE_QUANT_BIT_BUDGET_H_
