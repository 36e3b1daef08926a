// The experts of up to eight tokens with their choice (choose_experts.h), by
// weights in BF16, INT4 or INT8 with F32 sums, each chosen expert read once: in
// two launches, or on Hopper one, of BF16 (sm90_few_experts.h) and of packed
// weights of rows that are not too long (sm90_packed_experts.h). Each block
// makes the choice by itself:
//
//   logits [t, E] F32  -->  the tokens' experts and weights
//
//   x [t, d] BF16
//     |  a tile is 8 or 16 columns of an expert: products by both halves of
//     |  gate_up, SwiGLU, times the token's weight
//   hidden [t, k, width] BF16
//     |  a block 16 columns of y: products by down of all chosen experts, their
//     |  columns divided over the warps, and by the shared expert's; their sum
//     |  + h
//   y [t, d] F32

#ifndef CUDA_OPS_DECODE_FEW_EXPERTS_H_
#define CUDA_OPS_DECODE_FEW_EXPERTS_H_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/ops/decode/choose_experts.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// By which the blocks of a launch go together (expert_stream.cuh).
struct ExpertCounters {
  unsigned long long arrived;  // Of all launches.
  int next_tile;               // 0 between launches.
};

struct FewExpertsArgs {
  // Logits, h and shared_hidden are made by kernels that run before these: the
  // second reads them before the first has ended.
  ChooseExpertsArgs choice;
  int64_t d = 0, width = 0;
  const __nv_bfloat16* x = nullptr;
  PackedRows gate_up;  // [E, 2 width, d]
  PackedRows down;     // [E, d, width]
  // What every token has beside its experts, behind its SwiGLU; or no width.
  const float* shared_hidden = nullptr;  // [t, shared_width]
  PackedRows shared_down;                // [d, shared_width], as down
  int64_t shared_width = 0;

  const float* h = nullptr;         // [t, d]
  float* y = nullptr;               // [t, d], may be h.
  __nv_bfloat16* hidden = nullptr;  // [t, k, width]

  // Zero before the first call, then only of calls like it, one after another.
  // Null: two launches.
  ExpertCounters* counters = nullptr;
};

// Whether there is a kernel: weights of tiles (HasTiles) with d a multiple of
// 16, width of 16; a choice that blocks can make; what the tokens have, their
// rows of x and those of hidden of all their experts, in 160 KB each.
bool HasFewExperts(const FewExpertsArgs& args);
cudaError_t FewExperts(const FewExpertsArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_FEW_EXPERTS_H_
