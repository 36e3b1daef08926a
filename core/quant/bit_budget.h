// Which matrices get more bits where bytes are counted and all begin with few.
//
// A matrix goes up in steps, as from 2 bits to 4 and from 4 to 8; each has a
// gain, what it takes off the error, and a price in bytes. Steps that gain most
// a byte go first, each behind those of its matrix that are before it, as long
// as they can be paid; what is too dear for the rest is passed over. A step
// that gains more a byte than the one before it is taken together with that. So
// the sum of gains is within one matrix's of the largest there is (a fraction
// of the first passed over would reach that).

#ifndef CORE_QUANT_BIT_BUDGET_H_
#define CORE_QUANT_BIT_BUDGET_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace strata {

// A matrix, or all of an expert.
struct BitChoice {
  struct Step {
    int bits = 0;             // What it goes up to.
    double gain = 0;          // Not negative.
    int64_t extra_bytes = 0;  // Over the step before; positive.
  };
  std::string name;
  std::vector<Step> steps;
  int64_t num_taken = 0;  // Of the steps, from the first on.
};

// Sets `num_taken` to what `budget` pays for, `least` being the bytes where no
// step is taken.
//
// Returns INVALID_ARGUMENT, with the bytes, if `budget` is below `least`.
absl::Status SpendBytes(int64_t budget, int64_t least,
                        std::vector<BitChoice>& choices);

}  // namespace strata

#endif  // CORE_QUANT_BIT_BUDGET_H_
