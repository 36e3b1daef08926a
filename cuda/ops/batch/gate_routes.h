// From a layer's rows to the plan of its packed experts, for up to 64 tokens in
// one launch: the norm, a flat gate's product, and its choice with the dispatch
// plan, which elsewhere are a launch each (batch_rows.h, skinny_product.h,
// route_rows.h).
//
//   h [t, d] F32
//     |  a cluster of eight blocks, each an eighth of the columns: times gain,
//     |  rounded to BF16, by the gate in the tensor cores
//     |  sums and sums of squares to the blocks that have a token, by which
//     |  sums are divided (a token's root mean square)
//     v
//   logits of an eighth of the tokens --> the k best of each, a warp a token
//     |  their experts to the first block, which sorts slots by expert
//     v
//   weight [t, k], slot_row [t, k], row_token [rows], offset [E + 1], rows []
//   x [t, d] BF16: rows, normalised, for the experts
//
// Weights are loaded before earlier kernels have ended (ahead.cuh). Values are
// those of ChooseExperts (decode/choose_experts.h) and PlanDispatch
// (dispatch_plan.h).

#ifndef CUDA_OPS_BATCH_GATE_ROUTES_H_
#define CUDA_OPS_BATCH_GATE_ROUTES_H_

#include <cstdint>

#include "cuda/ops/decode/choose_experts.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct GateRoutesArgs {
  // Of up to 64 tokens, without logits; `expert` may be null.
  ChooseExpertsArgs choice;
  int64_t d = 0;
  const float* h = nullptr;             // [t, d]
  const float* gain = nullptr;          // [d]
  float eps = 0;                        // As RmsNorm's.
  const __nv_bfloat16* gate = nullptr;  // [E, d]
  __nv_bfloat16* x = nullptr;           // [t, d]
  int32_t* slot_row = nullptr;          // [t, k]
  int32_t* row_token = nullptr;         // [t * k]
};

// Whether there is a kernel: 1 to 64 tokens, 256 experts, 32 of them a token, d
// a multiple of 8 of which an eighth, of rows and gate, has room in shared
// memory (with 128 experts some 5,000 columns); pointers aligned to 16 bytes; a
// Hopper GPU.
bool HasGateRoutes(const GateRoutesArgs& args);

// Only enqueues. Returns cudaErrorInvalidValue where there is no kernel.
cudaError_t GateRoutes(const GateRoutesArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BATCH_GATE_ROUTES_H_
