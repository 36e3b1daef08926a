// What the kernels share that make all of a few tokens' experts in one launch
// (sm90_few_experts.cu, sm90_packed_experts.cu): turns of a ring of stages, the
// wait of blocks for each other, and what becomes of a tile's sums.

#ifndef CUDA_OPS_DECODE_EXPERT_STREAM_CUH_
#define CUDA_OPS_DECODE_EXPERT_STREAM_CUH_

#include <cstdint>

#include "cuda/kernels/sm90.cuh"
#include "cuda/ops/decode/choose_experts.cuh"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode/few_experts.h"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"
#include "cuda_runtime.h"

namespace strata::gpu {

// Of a tile of hidden, columns: as many rows are of gate_up's other half.
constexpr int kHalfTile = kTileRows / 2;

// Blocks that run at once, one a multiprocessor.
inline int NumProcessors() {
  static const int count = [] {
    int device = 0, processors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    return processors;
  }();
  return count;
}

// `rows` rows of `columns` BF16 to shared memory, by so many
// threads.
__device__ __forceinline__ void StageRows(const __nv_bfloat16* from, int rows,
                                          int columns, char* to, int threads) {
  const int chunks = columns / 8;
  for (int i = threadIdx.x; i < rows * chunks; i += threads) {
    const int row = i / chunks, chunk = i - row * chunks;
    CopyAsync16(to + row * RowBytes(columns) + chunk * 16,
                from + int64_t{row} * columns + chunk * 8);
  }
}

#if STRATA_SM90A

// Which stage of the ring is next, and in which round.
struct Turn {
  int stages, at;
  uint32_t round;
  __device__ __forceinline__ void Next() {
    if (++at == stages) {
      at = 0;
      ++round;
    }
  }
};

// Waits for all blocks' hidden. By a thread.
__device__ __forceinline__ void WaitForBlocks(ExpertCounters* counters) {
  __threadfence();
  unsigned long long* const counter = &counters->arrived;
  const unsigned long long ticket = atomicAdd(counter, 1);
  const unsigned long long all = (ticket / gridDim.x + 1) * gridDim.x;
  // Nobody takes tiles any more.
  if (ticket + 1 == all) counters->next_tile = 0;
  unsigned long long now;
  do {
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];"
                 : "=l"(now)
                 : "l"(counter)
                 : "memory");
  } while (now < all);
  asm volatile("fence.proxy.async;" ::: "memory");
}

// An element of a tile of y, added to h, where the sums of all warps lie.
template <int kWarps>
__device__ __forceinline__ void StoreOutput(
    const FewExpertsArgs& a, int tile, int token, int column, float h,
    const float (&sums)[kWarps][kTileRows][kTileTokens]) {
  a.y[token * a.d + tile * kTileRows + column] =
      h + SumOfWarps(sums, column, token);
}

// The same of a tile of hidden of `expert`, an index of the active ones, if it
// is one of the token's.
template <int kWarps>
__device__ __forceinline__ void StoreHidden(
    const FewExpertsArgs& a, const ChosenExperts& chosen, int tile, int expert,
    int token, int column,
    const float (&sums)[kWarps][kTileRows][kTileTokens]) {
  const int slot = chosen.pick[expert][token];
  if (slot < 0) return;
  const int of_expert = static_cast<int>(a.width) / kHalfTile;
  const float gate = SumOfWarps(sums, column, token);
  const float up = SumOfWarps(sums, column + kHalfTile, token);
  const int at = token * a.choice.k + slot;
  a.hidden[at * a.width + (tile - expert * of_expert) * kHalfTile + column] =
      __float2bfloat16_rn(chosen.weight[at] * gate * SigmoidOf(gate) * up);
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_EXPERT_STREAM_CUH_
