// The time of a dense product.
//
// A library picks one of a few tiles, and may split k over thread blocks whose
// parts are then added up. We take the fastest, as a tuned heuristic does:
//
//   time = launch + min over tile and split of
//            overlap(tiles, bytes) + adding up the parts of a split
//          [+ quantising the activations, for FP8]

#ifndef SIM_COMPUTE_MAT_MUL_TIME_H_
#define SIM_COMPUTE_MAT_MUL_TIME_H_

#include "absl/types/span.h"
#include "sim/compute/device.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/parameter.h"
#include "sim/compute/tile_cost.h"

namespace strata {

struct MatMulParameters {
  double launch_us = 0;  // a kernel that does nothing, in a CUDA graph
  TileParameters tile;
  double memory_share = 0;     // of the sheet's memory bandwidth
  double block_gb_per_s = 0;   // of memory, that one thread block can ask for
  double l2_gb_per_s = 0;      // of the L2 cache, all SMs
  double resident_share = 0;   // of L2, where a repeated call finds its data
  double split_us = 0;         // to add up the parts of a split k
  double overlap = 0;          // exponent, of arithmetic with memory
  double sustained_share = 0;  // of the rate, under the power limit
  double quantise_us = 0;      // FP8: kernels that quantise the activations
  double quantise_share = 0;   // FP8: of memory bandwidth, in those
};

absl::Span<const ParameterSpec<MatMulParameters>> SpecsOf(
    const MatMulParameters&);

// Microseconds. A repeated call cycles through up to five copies of b, as many
// as L2 could hold, as benchmarks do.
double MatMulUs(const Device& device, const MatMulParameters& p,
                const MatMul& shape);

}  // namespace strata

#endif  // SIM_COMPUTE_MAT_MUL_TIME_H_
