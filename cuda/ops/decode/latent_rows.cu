#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode/latent_rows.cuh"
#include "cuda/ops/decode/latent_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

using namespace latent_rows;

constexpr int kMaxTokens = 8;
// AbsorbQueries: columns of W_K a block, rows that its threads take at a time.
constexpr int kColumns = 64;
constexpr int kRowsAtATime = kBlock / (kColumns / 8);
constexpr int kMaxSteps = 4;

__global__ void __launch_bounds__(kBlock) TurnKernel(const LatentRowsArgs a) {
  const int half = a.rope / 2;
  const int64_t n = a.tokens.Get() * a.num_heads * half;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const int64_t head = i / half;  // Of all tokens.
    float* const rotary = a.q + head * (a.nope + a.rope) + a.nope;
    const int j = static_cast<int>(i % half);
    TurnPair(a, AngleOf(a, head / a.num_heads, j), j, rotary, rotary);
  }
}

// Pair `at` of all that is rotary of a token: its heads' queries, then its key,
// which goes to `row` of the cache.
template <typename Element>
__device__ __forceinline__ void TurnOne(const LatentRowsArgs& a, int64_t token,
                                        Angle angle, int at, Element* row) {
  const int half = a.rope / 2, head = at / half, j = at - head * half;
  if (head < a.num_heads) {
    TurnPair(a, angle, j, QueryTurns(a, token, head),
             TurnedQuery(a, token, head));
    return;
  }
  if constexpr (!kIsCode<Element>) {  // A block stores those.
    if (head == a.num_heads && row != nullptr) {
      TurnPair(a, angle, j, KeyTurns(a, token), row + a.rank, KeyBias(a));
    }
  }
}

// The token's key into the cache, by a block.
template <typename Element>
__device__ __forceinline__ void StoreKey(const LatentRowsArgs& a, int64_t token,
                                         const float (&gain)[kOfThread]) {
  const int key = a.num_heads * (a.rope / 2);
  Element* const row =
      CacheRow<Element>(a, token, a.row != nullptr ? a.row[token] : token);
  StoreNorm<Element>(a, token, gain, [row] { return row; });
  for (int j = threadIdx.x; j < a.rope / 2; j += kBlock) {
    TurnOne(a, token, AngleOf(a, token, j), key + j, row);
  }
}

template <typename Element>
__global__ void __launch_bounds__(kBlock) StoreKernel(const LatentRowsArgs a) {
  const int64_t t = a.tokens.Get();
  float gain[kOfThread];
  LoadGain(a, gain);
  for (int64_t i = blockIdx.x; i < t; i += gridDim.x)
    StoreKey<Element>(a, i, gain);
}

// Blocks of AbsorbKernel that have what is rotary of a token, a pair a thread,
// so that they wait for memory once.
__host__ __device__ constexpr int TurnBlocks(int num_heads, int rope) {
  return ((num_heads + 1) * (rope / 2) + kBlock - 1) / kBlock;
}

// Blocks of each token's latent and of what is rotary, which wait for most;
// then those of (head, 64 columns). Of W_K a thread has eight columns of every
// 32nd row, in shared memory, so that blocks find room beside those of the
// kernel before, which keep nearly all registers till they end.
//
// The kernel behind this one begins with it, as it has keys to bring that
// depend on neither this one nor the one before.
template <int kTokens, typename Element>
__global__ void __launch_bounds__(kBlock, kTokens == 1 ? 8 : 4)
    AbsorbKernel(const LatentRowsArgs a) {
  __shared__ __align__(8) float sums[kBlock / kWarp][kTokens][kColumns];
  __shared__ __align__(8) float q[kTokens][kMaxSteps * kRowsAtATime];
  __shared__ uint4 w_k[kMaxSteps][kBlock];
  LetLaterBegin();
  const int block = static_cast<int>(blockIdx.x);
  const int of_token = 1 + TurnBlocks(a.num_heads, a.rope);
  const int of_tokens = static_cast<int>(a.tokens.bound) * of_token;
  if (block < of_tokens) {
    const int64_t token = block / of_token;
    const int part = block % of_token;
    // Where the token goes no kernel that still runs has written, nor what it
    // turns by.
    const bool there = token < a.tokens.Get();
    Element* const row =
        there ? CacheRow<Element>(a, token, a.row[token]) : nullptr;
    const int at = (part - 1) * kBlock + static_cast<int>(threadIdx.x);
    float gain[kOfThread];
    Angle angle = {1, 0};
    if (part == 0) {
      LoadGain(a, gain);
    } else {
      angle = AngleOf(a, token, at % (a.rope / 2));
    }
    WaitForEarlier();
    if (!there) return;
    const auto find_row = [row] { return row; };
    if (part > 0) {
      TurnOne(a, token, angle, at, row);
    } else if constexpr (kIsCode<Element>) {
      StoreInCodes(a, token, gain, find_row);
    } else {
      StoreNorm<Element>(a, token, gain, find_row);
    }
    return;
  }
  const int chunks = a.rank / kColumns, of_heads = block - of_tokens;
  const int head = of_heads / chunks, first = of_heads % chunks * kColumns;
  const int piece = static_cast<int>(threadIdx.x) % 8;
  const int row = static_cast<int>(threadIdx.x) / 8;
  const int steps = a.nope / kRowsAtATime;
  const __nv_bfloat16* const w =
      a.w_k + (int64_t{head} * a.nope + row) * a.rank + first + piece * 8;
#pragma unroll
  for (int i = 0; i < kMaxSteps; ++i) {
    if (i < steps) {
      CopyAsync16(&w_k[i][threadIdx.x], w + int64_t{i} * kRowsAtATime * a.rank);
    }
  }
  WaitForEarlier();
  // Rows are there up to the bound; of those beyond the count nobody reads.
  const int tokens = static_cast<int>(a.tokens.bound);
  const int qk = a.nope + a.rope, width = a.rank + a.rope;
  const int lane = Lane(), warp = static_cast<int>(threadIdx.x) / kWarp;
  // All tokens' q of the head on their way at once, each read by one thread.
  constexpr int kLoads =
      (kTokens * kMaxSteps * kRowsAtATime / 2 + kBlock - 1) / kBlock;
  const int pairs = a.nope / 2;
  float2 x[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kBlock;
    const int t = at / pairs;
    if (t >= tokens) continue;
    x[i] = reinterpret_cast<const float2*>(
        a.q + (int64_t{t} * a.num_heads + head) * qk)[at - t * pairs];
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kBlock;
    const int t = at / pairs;
    if (t >= tokens) continue;
    // Rounded, as products of many rows have it.
    *reinterpret_cast<float2*>(&q[t][(at - t * pairs) * 2]) = {
        __bfloat162float(__float2bfloat16_rn(x[i].x)),
        __bfloat162float(__float2bfloat16_rn(x[i].y))};
  }
  WaitForCopies16();  // A thread's own.
  __syncthreads();
  // Of several tokens a thread keeps its part of W_K; one has no room for it in
  // the registers that let this kernel begin early.
  constexpr bool kKeeps = kTokens > 1;
  float kept[kKeeps ? kMaxSteps : 1][8] = {};
#pragma unroll
  for (int i = 0; i < kMaxSteps; ++i) {
    if constexpr (kKeeps) {
      if (i < steps) Unpack(w_k[i][threadIdx.x], kept[i]);
    }
  }
  // Short code: it comes from memory once a launch, which is what costs.
#pragma unroll 1
  for (int t = 0; t < tokens; ++t) {
    float sum[8] = {};
#pragma unroll
    for (int i = 0; i < kMaxSteps; ++i) {
      if (i >= steps) break;
      float(&value)[8] = kept[kKeeps ? i : 0];
      if (!kKeeps) Unpack(w_k[i][threadIdx.x], value);
      const float of_row = q[t][row + i * kRowsAtATime];
#pragma unroll
      for (int c = 0; c < 8; ++c) sum[c] = fmaf(of_row, value[c], sum[c]);
    }
    // Of the four lanes with these columns each gets two of them.
    const bool is_lower = lane < kWarp / 2, is_even = lane / 8 % 2 == 0;
    float half[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      half[c] = (is_lower ? sum[c] : sum[c + 4]) +
                __shfl_xor_sync(kWholeWarp, is_lower ? sum[c + 4] : sum[c], 16);
    }
    float2 mine;
    mine.x = (is_even ? half[0] : half[2]) +
             __shfl_xor_sync(kWholeWarp, is_even ? half[2] : half[0], 8);
    mine.y = (is_even ? half[1] : half[3]) +
             __shfl_xor_sync(kWholeWarp, is_even ? half[3] : half[1], 8);
    const int column = piece * 8 + (is_lower ? 0 : 4) + (is_even ? 0 : 2);
    *reinterpret_cast<float2*>(&sums[warp][t][column]) = mine;
  }
  __syncthreads();
  for (int at = threadIdx.x; at < tokens * kColumns; at += kBlock) {
    const int t = at / kColumns, c = at % kColumns;
    float value = 0;
#pragma unroll
    for (int i = 0; i < kBlock / kWarp; ++i) value += sums[i][t][c];
    a.absorbed[(int64_t{t} * a.num_heads + head) * width + first + c] = value;
  }
}

template <typename Element>
cudaError_t LaunchAbsorb(const LatentRowsArgs& args, unsigned blocks,
                         cudaStream_t stream) {
  auto* const kernel = args.tokens.bound == 1
                           ? AbsorbKernel<1, Element>
                           : AbsorbKernel<kMaxTokens, Element>;
  return LaunchAhead(kernel, dim3(blocks), dim3(kBlock), 0, stream, args);
}

}  // namespace

bool StoresLatents(const LatentRowsArgs& args) {
  return !IsInCodes(args.stored.format) ||
         (args.rank % kPackedGroup == 0 && args.rope <= kBlock);
}

cudaError_t TurnQueries(const LatentRowsArgs& args, cudaStream_t stream) {
  if (args.rope == 0) return cudaSuccess;
  TurnKernel<<<BlocksFor(args.tokens.bound * args.num_heads * args.rope / 2),
               kBlock, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t StoreLatents(const LatentRowsArgs& args, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(
      std::clamp<int64_t>(args.tokens.bound, 1, kMaxBlocks));
  if (IsInCodes(args.stored.format)) return cudaErrorInvalidValue;
  auto* const kernel = args.stored.format == PackedFormat::kBf16
                           ? StoreKernel<__nv_bfloat16>
                           : StoreKernel<float>;
  kernel<<<blocks, kBlock, 0, stream>>>(args);
  return cudaGetLastError();
}

bool HasAbsorbQueries(const LatentRowsArgs& args) {
  return StoresLatents(args) && args.tokens.bound >= 1 &&
         args.tokens.bound <= kMaxTokens && args.nope % kRowsAtATime == 0 &&
         args.nope > 0 && args.nope <= kMaxSteps * kRowsAtATime &&
         args.rank % kColumns == 0 && args.rope % 2 == 0;
}

cudaError_t AbsorbQueries(const LatentRowsArgs& args, cudaStream_t stream) {
  if (!HasAbsorbQueries(args)) return cudaErrorInvalidValue;
  const auto blocks = static_cast<unsigned>(
      args.num_heads * (args.rank / kColumns) +
      args.tokens.bound * (1 + TurnBlocks(args.num_heads, args.rope)));
  switch (args.stored.format) {
    case PackedFormat::kF32:
      return LaunchAbsorb<float>(args, blocks, stream);
    case PackedFormat::kBf16:
      return LaunchAbsorb<__nv_bfloat16>(args, blocks, stream);
    default:
      return LaunchAbsorb<Code>(args, blocks, stream);
  }
}

}  // namespace strata::gpu
