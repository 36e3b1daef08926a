// The time of a mixture-of-experts layer on one rank.
//
//   time = all launches + planning the route
//        + grouped product to the inner width + grouped product back
//        + traffic of permuting, activation and weighted sum
//
// A grouped product costs what a dense one does (sim/compute/mat_mul_time.h),
// but its tiles are those of each expert's rows, its bytes the weights of the
// experts that have rows, and k is not split.

#ifndef SIM_COMPUTE_MOE_TIME_H_
#define SIM_COMPUTE_MOE_TIME_H_

#include "absl/types/span.h"
#include "sim/compute/device.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/parameter.h"
#include "sim/compute/tile_cost.h"

namespace strata {

struct MoeParameters {
  double fixed_us = 0;  // all launches
  TileParameters tile;
  double fixed_tile_math_share = 0;  // math_share of tiles nobody has tuned
  double memory_share = 0;           // of the sheet's memory bandwidth
  double block_gb_per_s = 0;         // of memory, for one thread block
  double l2_gb_per_s = 0;
  double resident_share = 0;   // of L2, where a repeated call finds its weights
  double overlap = 0;          // exponent
  double choice_ns = 0;        // to plan the route of a token's choice
  double expert_ns = 0;        // to plan the rows of a local expert
  double traffic_share = 0;    // of memory bandwidth, beside the products
  double sustained_share = 0;  // of the rate, under the power limit
  // Of a slab of the tile that an untuned layer takes, for each of its rows
  // that holds nothing.
  double empty_row_ns = 0;
};

absl::Span<const ParameterSpec<MoeParameters>> SpecsOf(const MoeParameters&);

// What of a library no size tells.
struct MoeKernel {
  // Tiles of 16 by 32 for at most as many tokens as local experts, of 64 by 64
  // above. Otherwise the best of all.
  bool fixed_tiles = false;
  // Activation and sum pass over all tokens * top_k rows, local or not.
  bool passes_all_choices = false;
};

// Microseconds. `shape.reuse` is of the weights.
double MoeUs(const Device& device, const MoeParameters& p,
             const MoeKernel& kernel, const MoeLayer& shape);

// Microseconds of one grouped product, without its launch.
double GroupedMatMulUs(const Device& device, const MoeParameters& p,
                       const GroupedMatMul& shape);

}  // namespace strata

#endif  // SIM_COMPUTE_MOE_TIME_H_
