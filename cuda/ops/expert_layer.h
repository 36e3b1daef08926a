// The experts of a layer behind their dispatch plan, in BF16 with F32 sums:
//
//   x       [t, d]
//     |  a row for each slot that has an expert, by expert
//   rows    [rows, d]        BF16
//     |  product by gate_up, SwiGLU in its registers
//   hidden  [rows, width]    BF16
//     |  product by down
//   rows    [rows, d]        BF16, where the first lay
//     |  each token's rows by their weights, in order, and what is added to
//   y       [t, d]
//
// Four launches, each of which begins before the one ahead of it has ended
// (ahead.cuh). Few slots take two and no rows: each reads its expert's weights
// by itself (kMaxFewSlots).

#ifndef CUDA_OPS_EXPERT_LAYER_H_
#define CUDA_OPS_EXPERT_LAYER_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// F32 or BF16, as the flag beside it says.
struct ExpertLayerArgs {
  Extent tokens;
  int k = 1, num_experts = 0;
  int64_t d = 0, width = 0;
  const void* x = nullptr;  // [t, d]
  bool bf16_x = false;
  const float* weight = nullptr;           // [t, k]; null: ones
  const __nv_bfloat16* gate_up = nullptr;  // [E, 2 width, d]
  const __nv_bfloat16* down = nullptr;     // [E, d, width]

  // The plan (dispatch_plan.h). With `expert`, few slots need no other.
  const int32_t* slot_row = nullptr;
  const int32_t* offset = nullptr;
  Extent rows;
  const int32_t* expert = nullptr;  // [t, k] or null

  // y [index[i]] = h [index[i]] + the sum of token i; without index, i; without
  // h, 0. Both F32 or BF16.
  const void* h = nullptr;
  // [t, d], what token i has beside its experts; or null. Only CombineExperts()
  // adds it.
  const float* beside = nullptr;
  const int32_t* index = nullptr;
  int64_t num_indexed = 0;  // Rows of h and y, if there is an index.
  void* y = nullptr;
  bool bf16_y = false;

  __nv_bfloat16* gathered = nullptr;  // [t * k, d]
  bool has_rows = false;              // They are there already.
  // With has_rows: the kernel ahead makes neither them nor the plan, as
  // GroupedProductArgs' weights_ahead has it.
  bool plan_is_old = false;
  __nv_bfloat16* hidden = nullptr;  // [t * k, width]
  FaultSink fault;                  // Told of an index out of range.

  int64_t max_slots() const { return tokens.bound * k; }
};

constexpr int64_t kMaxFewSlots = 64;

// Whether this GPU and these extents have it: Hopper, tiles of the products.
bool HasExpertLayer(const ExpertLayerArgs& args);

cudaError_t ExpertLayer(const ExpertLayerArgs& args, cudaStream_t stream);

// Its last launch: y = h + each token's `rows`, F32 or BF16, by their weights.
// Of d a multiple of 8. `plan_is_old`: the kernel ahead makes rows and what is
// beside them alone, and has itself waited for what makes slot_row, weight and
// h before it lets this one begin.
cudaError_t CombineExperts(const ExpertLayerArgs& args, const void* rows,
                           bool bf16_rows, bool plan_is_old,
                           cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_EXPERT_LAYER_H_
