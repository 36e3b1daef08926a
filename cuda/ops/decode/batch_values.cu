#include <cmath>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/sm90_product_narrow.cuh"
#include "cuda/kernels/sm90_send.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/decode/batch_values.h"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A cluster of eight blocks has a head, a block 64 columns:
//
//   before the wait   the block's columns of W_V, by the copy engine
//   behind it         16 lanes a token, each four columns of all its pieces:
//                     loads of pieces, scores and sums all at once; joined,
//                     rounded, into shared memory as products want it
//   warp i            16 rows of W_V, of all tokens: its sums to block i
//   block i           adds what came from eight blocks, and stores 16 values of
//                     each token

namespace strata::gpu {
namespace {

constexpr int kMaxTokens = 64;
constexpr int kBlocks = 8;  // Of a cluster.
constexpr int kColumns = kLatentRank / kBlocks;
constexpr int kThreads = 2 * kWarpgroup;
constexpr int kOfToken = kColumns / 4;          // Lanes of a token.
constexpr int kAtATime = kThreads / kOfToken;   // Tokens of a block's threads.
constexpr int kMaxLoads = 16;                   // Of pieces, of a thread.
constexpr int kTile = 64;                       // Rows of a product.
constexpr int kRowsOfWarp = 16;                 // Of these.
constexpr int kRowBytes = kSwizzleColumns * 2;  // Of an operand.
constexpr int kBlocksOfProcessor = 2;
constexpr int kProcessors = 132;
constexpr int kMaxHeads = kBlocksOfProcessor * kProcessors / kBlocks;
static_assert(kColumns == kSwizzleColumns, "an operand is one swizzled tile");
static_assert(kThreads / kWarp == kBlocks, "a warp's sums go to one block");
static_assert(kMaxLoads <= kOfToken, "a lane a piece");

// Pieces of a token, where a block has so many tokens.
constexpr int MaxPieces(int tokens) { return kMaxLoads * kAtATime / tokens; }
// Of a block, from each of the cluster: [eight tokens][lane of the warp].
constexpr int SumsOfBlock(int tokens) { return tokens / 8 * kWarp; }

constexpr size_t SharedBytes(int tokens, int value) {
  return kSwizzleBytes + (value + tokens) * kRowBytes +
         kBlocks * SumsOfBlock(tokens) * sizeof(float4);
}

#if STRATA_SM90A

// Where four columns of a row lie in a swizzled tile, in bytes; `four` of 16.
__device__ __forceinline__ int PlaceOfFour(int row, int four) {
  return row * kRowBytes + ((four / 2 ^ row % 8) << 4) + four % 2 * 8;
}

// Joins pieces to rows of x, a token a row, as JoinKernel does
// (join_pieces.cu): sums in the same order. Tokens beyond the bound are zeros.
// `over` is a barrier in its first phase.
template <int kTokens>
__device__ __forceinline__ void JoinRows(const BatchValuesArgs& a, int head,
                                         int first_column, uint64_t* over,
                                         char* x) {
  constexpr int kOfThread = kTokens / kAtATime;
  constexpr int kPieces = MaxPieces(kTokens);
  const int lane = static_cast<int>(threadIdx.x) % kOfToken;
  const int first = static_cast<int>(threadIdx.x) / kOfToken;
  const int bound = static_cast<int>(a.tokens.bound), splits = a.splits;
  float weight[kOfThread], total[kOfThread];
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int token = first + i * kAtATime;
    const int at = (token * a.num_heads + head) * splits + lane;
    const bool has = token < bound && lane < splits;
    weight[i] = has ? a.max[at] : -INFINITY;
    total[i] = has ? a.sum[at] : 0.f;
  }
  float4 piece[kOfThread][kPieces];
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int token = first + i * kAtATime;
    const float* const from =
        a.partial +
        int64_t{(token * a.num_heads + head) * splits} * kLatentRank +
        first_column + 4 * lane;
#pragma unroll
    for (int s = 0; s < kPieces; ++s) {
      piece[i][s] =
          token < bound && s < splits
              ? *reinterpret_cast<const float4*>(from + s * kLatentRank)
              : float4{0, 0, 0, 0};
    }
  }
  // A wait that is over, in front of which the compiler leaves all loads: else
  // some come behind what waits for the first.
  Wait(over, 1);
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const float largest = LanesMax<kOfToken>(weight[i]);
    weight[i] = weight[i] > -INFINITY ? exp2f(weight[i] - largest) : 0.f;
    total[i] = LanesSum<kOfToken>(fmaf(total[i], weight[i], 0.f));
  }
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    float4 v = {0, 0, 0, 0};
#pragma unroll
    for (int s = 0; s < kPieces; ++s) {
      if (s >= splits) break;
      const float w = __shfl_sync(kWholeWarp, weight[i], s, kOfToken);
      const float4 p = piece[i][s];
      v = {fmaf(w, p.x, v.x), fmaf(w, p.y, v.y), fmaf(w, p.z, v.z),
           fmaf(w, p.w, v.w)};
    }
    const float factor = total[i] > 0 ? 1.f / total[i] : 0.f;
    const __nv_bfloat162 pair[2] = {
        __floats2bfloat162_rn(factor * v.x, factor * v.y),
        __floats2bfloat162_rn(factor * v.z, factor * v.w)};
    *reinterpret_cast<uint2*>(x + PlaceOfFour(first + i * kAtATime, lane)) = {
        *reinterpret_cast<const uint32_t*>(&pair[0]),
        *reinterpret_cast<const uint32_t*>(&pair[1])};
  }
}

// The sum over blocks of a thread's four: two rows of W_V by two tokens.
__device__ __forceinline__ float4 AddBlocks(const float4* sums, int of_block) {
  float4 of[kBlocks];
#pragma unroll
  for (int s = 0; s < kBlocks; ++s) of[s] = sums[s * of_block];
  float4 sum = of[0];
#pragma unroll
  for (int s = 1; s < kBlocks; ++s) {
    sum = {sum.x + of[s].x, sum.y + of[s].y, sum.z + of[s].z, sum.w + of[s].w};
  }
  return sum;
}

#endif  // STRATA_SM90A

template <int kTokens>
__global__ void __launch_bounds__(kThreads, kBlocksOfProcessor)
    ValuesKernel(const BatchValuesArgs a,
                 const __grid_constant__ CUtensorMap map) {
#if STRATA_SM90A
  constexpr int kEights = kTokens / 8;
  constexpr int kSums = SumsOfBlock(kTokens);
  static_assert(kEights <= kThreads / kWarp, "an eight a warp");
  extern __shared__ char memory[];
  __shared__ uint64_t loaded, joined;
  char* const w =
      memory +
      (kSwizzleBytes - SharedAddress(memory) % kSwizzleBytes) % kSwizzleBytes;
  char* const x = w + a.value * kRowBytes;
  auto* const sums = reinterpret_cast<float4*>(x + kTokens * kRowBytes);

  const int rank = static_cast<int>(ClusterRank());
  const int head = static_cast<int>(blockIdx.x) / kBlocks;
  const int warp = Uniform(static_cast<int>(threadIdx.x) / kWarp);
  const int lane = Lane();
  // Of 64 values a head, half of the warps multiply and of the blocks store.
  const bool multiplies = warp * kRowsOfWarp < a.value;
  const bool stores = rank * kRowsOfWarp < a.value;
  if (threadIdx.x == 0) {
    InitBarrier(&loaded, 1);
    InitBarrier(&joined, 1);
    FenceBarrierInit();
    ArriveExpecting(&loaded, a.value * kRowBytes);
    LoadBox(&map, w, &loaded, rank * kColumns, head * a.value, 0);
    if (stores) {
      constexpr int kBytes = kBlocks * kSums * sizeof(float4);
      ArriveExpecting(&joined, kBytes);
    }
  }
  __syncthreads();
  ArriveAtCluster();
  LetLaterBegin();
  WaitForCluster();  // Others' barriers are ready for this block's sums.
  WaitForEarlier();

  const int tokens = static_cast<int>(a.tokens.Get());
  JoinRows<kTokens>(a, head, rank * kColumns, &joined, x);
  FenceSharedStores();
  __syncthreads();
  if (multiplies) {
    float sum[kTokens / 2];
#pragma unroll
    for (float& v : sum) v = 0;
    Wait(&loaded, 0);
    MultiplyTiles(sum, w + warp / 4 * kTile * kRowBytes, x);
    WaitForProducts<0>();
#pragma unroll
    for (int i = 0; i < kEights; ++i) {
      StoreFourTo(sums + rank * kSums + i * kWarp + lane, &joined,
                  static_cast<uint32_t>(warp),
                  {sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]});
    }
  }
  // The first warp of a block that stores stays till all sums have come.
  if (!stores || warp >= kEights) return;
  Wait(&joined, 0);
  const float4 sum = AddBlocks(sums + warp * kWarp + lane, kSums);
  const int token = warp * 8 + lane % 4 * 2;
  const int column = head * a.value + rank * kRowsOfWarp + lane / 4;
  const auto store = [&](int t, int c, float v) {
    if (t >= tokens) return;
    a.y[t * a.num_heads * a.value + c] = __float2bfloat16_rn(v);
  };
  store(token, column, sum.x);
  store(token + 1, column, sum.y);
  store(token, column + 8, sum.z);
  store(token + 1, column + 8, sum.w);
#endif
}

template <int kTokens>
cudaError_t Launch(const BatchValuesArgs& args, cudaStream_t stream) {
  BoxedTensor box;
  box.data = args.w;
  box.columns = box.pitch = kLatentRank;
  box.rows = int64_t{args.num_heads} * args.value;
  box.box_rows = args.value;
  CUtensorMap map = {};
  if (const cudaError_t e = MakeTensorMap(box, &map); e) return e;
  auto* const kernel = ValuesKernel<kTokens>;
  // Of any launch, as captured ones may differ.
  const cudaError_t allowed =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(SharedBytes(kTokens, 2 * kTile)));
  if (allowed != cudaSuccess) return allowed;
  return LaunchClustersAhead(
      kernel, kBlocks, dim3(static_cast<unsigned>(args.num_heads * kBlocks)),
      dim3(kThreads), SharedBytes(kTokens, args.value), stream, args, map);
}

}  // namespace

bool HasBatchValues(const BatchValuesArgs& args) {
  const int64_t tokens = args.tokens.bound;
  return tokens >= 1 && tokens <= kMaxTokens && args.splits > 1 &&
         args.splits <= MaxPieces(NarrowColumns(tokens)) &&
         (args.value == kTile || args.value == 2 * kTile) &&
         args.num_heads >= 1 && args.num_heads <= kMaxHeads &&
         IsAligned(args.partial) && IsAligned(args.w) && IsHopper();
}

cudaError_t BatchValues(const BatchValuesArgs& args, cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (!HasBatchValues(args)) return cudaErrorInvalidValue;
  const int tokens = NarrowColumns(args.tokens.bound);
  return tokens == 16   ? Launch<16>(args, stream)
         : tokens == 32 ? Launch<32>(args, stream)
                        : Launch<kMaxTokens>(args, stream);
}

}  // namespace strata::gpu
