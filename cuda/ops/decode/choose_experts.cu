#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/decode/choose_experts.cuh"
#include "cuda/ops/decode/choose_experts.h"
#include "cuda/ops/device.cuh"

namespace strata::gpu {
namespace {

// One block.
__global__ void __launch_bounds__(kBlock)
    ChooseKernel(const ChooseExpertsArgs a) {
  __shared__ ChosenExperts chosen;
  WaitForEarlier();
  LetLaterBegin();
  Choose(a, chosen);
  StoreChoice(a, chosen);
}

}  // namespace

bool HasChooseExperts(const ChooseExpertsArgs& args) {
  return args.tokens.bound <= kMaxChoosers && args.num_experts <= kMaxOffered &&
         args.k <= kMaxChosen && args.k <= args.num_experts;
}

cudaError_t ChooseExperts(const ChooseExpertsArgs& args, cudaStream_t stream) {
  if (!HasChooseExperts(args)) return cudaErrorInvalidValue;
  return LaunchAhead(ChooseKernel, dim3(1), dim3(kBlock), 0, stream, args);
}

}  // namespace strata::gpu
