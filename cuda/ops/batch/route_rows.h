// A flat gate's choice for up to 64 tokens, its dispatch plan, and the rows of
// the experts chosen, in one launch:
//
//   logits  [t, E]
//     |  each block for itself: probabilities, the k best of each token, and a
//     |  stable sort of slots by expert
//   weight  [t, k]         slot_row [t, k]       offset [E + 1], rows []
//     |  a few rows a block
//   gathered [rows, d]     BF16, x of each row's token; or, by one block alone,
//   row_token [rows]       which that is
//
// Values are those of ChooseExperts (decode/choose_experts.h) and PlanDispatch
// (dispatch_plan.h).

#ifndef CUDA_OPS_BATCH_ROUTE_ROWS_H_
#define CUDA_OPS_BATCH_ROUTE_ROWS_H_

#include <cstdint>

#include "cuda/ops/decode/choose_experts.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct RouteRowsArgs {
  // Of up to 64 tokens; `expert` may be null.
  ChooseExpertsArgs choice;
  int32_t* slot_row = nullptr;        // [t, k]
  int64_t d = 0;                      // A multiple of 8.
  const __nv_bfloat16* x = nullptr;   // [t, d]
  __nv_bfloat16* gathered = nullptr;  // [t * k, d]
  int32_t* row_token = nullptr;       // [t * k], in place of `gathered`.
  // The kernel behind begins when all that comes before this one is there.
  bool lets_late = false;
};

// Whether there is a kernel: up to 64 tokens, 256 experts, 32 of them a token,
// rows aligned to 16 bytes.
bool HasRouteRows(const RouteRowsArgs& args);

// Only enqueues. Returns cudaErrorInvalidValue where there is no kernel.
cudaError_t RouteRows(const RouteRowsArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BATCH_ROUTE_ROWS_H_
