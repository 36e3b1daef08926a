// A flat gate's choice for a few tokens: probabilities, the k best, their
// weights, and how many slots each expert has. Kernels of experts make it by
// themselves (choose_experts.cuh); ChooseExperts() does nothing else.

#ifndef CUDA_OPS_DECODE_CHOOSE_EXPERTS_H_
#define CUDA_OPS_DECODE_CHOOSE_EXPERTS_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct ChooseExpertsArgs {
  Extent tokens;  // At most 8.
  int num_experts = 0, k = 1;
  bool softmax = false;  // Of logits; else sigmoid.
  bool normalize = false;
  float floor = 0, scale = 1;     // As core/ops/gate.h's weights.
  const float* logits = nullptr;  // [t, E]
  const float* bias = nullptr;  // [E], added where experts are chosen; or null
  int32_t* expert = nullptr;    // [t, k], or null
  float* weight = nullptr;      // [t, k], or null
  int32_t* offset = nullptr;    // [E + 1], as DispatchPlan's.
  int32_t* rows = nullptr;      // []
};

// Whether there is a kernel: up to 8 tokens, 256 experts, 32 of them a token.
bool HasChooseExperts(const ChooseExpertsArgs& args);
cudaError_t ChooseExperts(const ChooseExpertsArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_CHOOSE_EXPERTS_H_
