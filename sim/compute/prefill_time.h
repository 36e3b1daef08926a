// The time of attention over whole sequences.
//
//   scores are computed in tiles of 64 or 128 queries by blocks of 64 keys; a
//   tile walks the blocks that its mask leaves: below the diagonal, within the
//   window
//
//     time = launch + preparing q, k, v and writing the cache (bytes)
//          + the longest tile, or all tiles in waves over the SMs

#ifndef SIM_COMPUTE_PREFILL_TIME_H_
#define SIM_COMPUTE_PREFILL_TIME_H_

#include "absl/types/span.h"
#include "sim/compute/device.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/parameter.h"

namespace strata {

struct PrefillParameters {
  double launch_us = 0;      // all launches
  double wide_us = 0;        // more of that for heads wider than 64
  double tile_us = 0;        // to start and finish a tile ...
  double tile_dim = 0;       // ... twice that at this head dimension
  double math_share = 0;     // of the BF16 peak; up to 2 where FP8 computes
  double softmax_ns = 0;     // of 64 by 64 scores, beside the products
  double step_ns = 0;        // latency of a block of keys, at head_dim 128
  double window_blocks = 0;  // more blocks that a windowed tile walks
  double wave_share = 0;     // 1: a part of a wave costs a whole one
  double memory_share = 0;   // of the sheet's memory bandwidth
  double l2_gb_per_s = 0;
  double resident_share = 0;   // of L2, where the activations may still be
  double sustained_share = 0;  // of the rate, under the power limit
};

absl::Span<const ParameterSpec<PrefillParameters>> SpecsOf(
    const PrefillParameters&);

// Microseconds of a forward pass; `backward` is ignored.
double PrefillUs(const Device& device, const PrefillParameters& p,
                 const AttentionPrefill& shape);
double LatentPrefillUs(const Device& device, const PrefillParameters& p,
                       const LatentPrefill& shape);

}  // namespace strata

#endif  // SIM_COMPUTE_PREFILL_TIME_H_
