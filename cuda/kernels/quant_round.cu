#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_round.h"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/store_rows.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kRoundThreads = 256;
constexpr int64_t kMaxBlocks = 132 * 8;

// Columns [column, column + 8) of a row, in the order of a thread's slots.
__device__ __forceinline__ uint4 LoadRounded(const QuantProductArgs& args,
                                             int64_t row, int64_t column) {
  const int k = args.w.k;
  if (args.x_bf16 != nullptr && k % 8 == 0 && column < k) {
    return OrderedEight(
        *reinterpret_cast<const uint4*>(args.x_bf16 + row * k + column));
  }
  float v[8] = {};
  LoadEight(args, row, column, v);
  return RoundedEight(v);
}

// A thread eight columns at a time; a piece is four threads', whole warps have
// the same number of turns.
template <RoundedOrder kOrder>
__global__ void __launch_bounds__(kRoundThreads)
    RoundKernel(const QuantProductArgs args, uint32_t pieces,
                __nv_bfloat16* y) {
  LetLaterBegin();  // It waits for this one, and this for those before.
  WaitForEarlier();
  const auto all = static_cast<uint32_t>(args.rows.Get()) * pieces;
  for (uint32_t i = blockIdx.x * kRoundThreads + threadIdx.x; i < all;
       i += gridDim.x * kRoundThreads) {
    const uint32_t row = i / pieces;
    uint4 eight = LoadRounded(args, row, int64_t{i - row * pieces} * 8);
    // That order is its own inverse.
    if (kOrder == RoundedOrder::kAsItLies) eight = OrderedEight(eight);
    uint32_t word[4] = {eight.x, eight.y, eight.z, eight.w};
#if STRATA_SM90A
    if constexpr (kOrder == RoundedOrder::kBySlot) Transpose4(word);
#endif
    *reinterpret_cast<uint4*>(y + int64_t{i} * 8) = {word[0], word[1], word[2],
                                                     word[3]};
  }
}

}  // namespace

cudaError_t RoundForProduct(const QuantProductArgs& args, RoundedOrder order,
                            __nv_bfloat16* rounded, cudaStream_t stream) {
  const int64_t pieces = RoundedColumns(args.w) / 8;
  const int64_t all = args.rows.bound * pieces;
  const int64_t blocks =
      std::min(kMaxBlocks, (all + kRoundThreads - 1) / kRoundThreads);
  const auto kernel =
      order == RoundedOrder::kBySlot     ? RoundKernel<RoundedOrder::kBySlot>
      : order == RoundedOrder::kAsItLies ? RoundKernel<RoundedOrder::kAsItLies>
                                         : RoundKernel<RoundedOrder::kByThread>;
  return LaunchAhead(kernel, dim3(static_cast<unsigned>(blocks)),
                     dim3(kRoundThreads), 0, stream, args,
                     static_cast<uint32_t>(pieces), rounded);
}

}  // namespace strata::gpu
