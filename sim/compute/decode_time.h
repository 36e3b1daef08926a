// The time of attention of one new token for each sequence.
//
// Libraries have three kernels, which read the cache in thread blocks:
//
//   per query head      a block for each query head; heads of a group read the
//                       cache once each
//   per group           a block for each key/value head, its query heads as the
//                       rows of a matrix instruction
//   per group, FP8      the same with Hopper's FP8 instructions
//
// A long context is split over blocks, whose parts are then merged:
//
//   time = launch + overlap(waves of blocks, cache bytes) + merging

#ifndef SIM_COMPUTE_DECODE_TIME_H_
#define SIM_COMPUTE_DECODE_TIME_H_

#include "absl/types/span.h"
#include "sim/compute/device.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/parameter.h"

namespace strata {

struct DecodeParameters {
  double launch_us = 0;
  double narrow_us = 0;    // more of that for heads of up to 64
  double block_us = 0;     // to start and finish a block ...
  double block_dim = 0;    // ... twice that at this head dimension
  double block_heads = 0;  // ... twice that for so many heads of a group
  double element_ns = 0;   // of 128 elements of a key and its value, to convert
  double block_gb_per_s = 0;  // of the cache, that one block reads
  double math_share = 0;      // of the peak rate, in scores and sums
  double wave_share = 0;      // 1: a part of a wave costs a whole one
  double blocks_per_sm = 0;   // up to which a context is split
  double split_us = 0;        // to merge the parts
  double merge_ns = 0;        // ... and of each part
  double memory_share = 0;    // of the sheet's memory bandwidth
  double l2_gb_per_s = 0;
  double resident_share = 0;  // of L2, where a repeated call finds the cache
  double overlap = 0;         // exponent
};

absl::Span<const ParameterSpec<DecodeParameters>> SpecsOf(
    const DecodeParameters&);

enum class DecodeKernel { kPerQueryHead, kPerGroup, kPerGroupFp8 };

// The one that TensorRT-LLM's heuristics choose, as far as times tell it.
DecodeKernel KernelOf(const Device& device, const AttentionDecode& shape);

// "per_query_head", "per_group", "per_group_fp8": the fit's variant.
const char* NameOf(DecodeKernel kernel);

// Microseconds.
double DecodeUs(const Device& device, const DecodeParameters& p,
                const AttentionDecode& shape);
double LatentDecodeUs(const Device& device, const DecodeParameters& p,
                      const LatentDecode& shape);

}  // namespace strata

#endif  // SIM_COMPUTE_DECODE_TIME_H_
