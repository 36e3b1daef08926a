// What a Rope node's frequencies are, or are made of on the device.

#ifndef CUDA_OPS_ROPE_TABLE_H_
#define CUDA_OPS_ROPE_TABLE_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

// Given to kernels by value.
struct RopeTable {
  static constexpr int kMaxHalf = 128;

  int64_t num_heads = 1;
  int half = 0;  // Pairs of columns that turn.
  bool interleaved = false;
  double magnitude = 1;
  double turn = 1;  // magnitude, or -magnitude to turn back.
  double frequency[kMaxHalf] = {};
  // Frequencies follow from the longest sequence (RopeStretch::kDynamic).
  bool dynamic = false;
  double theta = 0, factor = 1, original_len = 0;
};

// Returns false if the node turns more than 2 * kMaxHalf columns.
bool MakeRopeTable(const KernelContext& ctx, RopeTable& table);

}  // namespace strata::gpu

#endif  // CUDA_OPS_ROPE_TABLE_H_
