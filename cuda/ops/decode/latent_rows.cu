#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/cache/bf16_number.cuh"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode/latent_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kMaxTokens = 8;
// AbsorbQueries: columns of W_K a block, rows that its threads take at a time.
constexpr int kColumns = 64;
constexpr int kRowsAtATime = kBlock / (kColumns / 8);
constexpr int kMaxSteps = 4;

// By what pair j of a token's rotary columns turns.
struct Angle {
  float cos, sin;
};
__device__ __forceinline__ Angle AngleOf(const LatentRowsArgs& a, int64_t token,
                                         int j) {
  const int64_t at = token * (a.rope / 2) + j;
  return {a.cos[at], a.sin[at]};
}

// An element of a query or of a cache's row. The operators that these kernels
// stand for round a sum with 0, of which -0 is none.
__device__ __forceinline__ void Put(float x, float& to) { to = x; }
__device__ __forceinline__ void Put(float x, __nv_bfloat16& to) {
  to = CachedBf16(x + 0.f);
}

// Pair j of the token's rotary columns: `from` and `to` may be one.
template <typename Element>
__device__ __forceinline__ void TurnPair(const LatentRowsArgs& a, Angle angle,
                                         int j, const float* from, Element* to,
                                         const float* bias = nullptr) {
  const int first = a.interleaved ? 2 * j : j;
  const int second = a.interleaved ? first + 1 : first + a.rope / 2;
  float x = from[first], y = from[second];
  if (bias != nullptr) {
    x += bias[first];
    y += bias[second];
  }
  Put(x * angle.cos - y * angle.sin, to[first]);
  Put(x * angle.sin + y * angle.cos, to[second]);
}

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

// Where in a cache of such elements the token goes, null if there is no such
// row.
template <typename Element>
__device__ __forceinline__ Element* CacheRow(const LatentRowsArgs& a,
                                             int64_t token) {
  const int64_t to = a.row[token];
  if (to >= 0 && to < a.slots) {
    return static_cast<Element*>(a.cache) + to * a.pitch;
  }
  a.fault.Report(FaultKind::kCacheRow, token, to, a.slots);
  return nullptr;
}

// The first 512 columns of a row by a block: those of a thread.
constexpr int kOfThread = 2;

__device__ __forceinline__ void LoadGain(const LatentRowsArgs& a,
                                         float (&gain)[kOfThread]) {
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int c = static_cast<int>(threadIdx.x) + i * kBlock;
    gain[i] = c < a.rank ? a.gain[c] : 0.f;
  }
}

// The norm of the latent, by a block, whose gain LoadGain() has.
template <typename Element>
__device__ void StoreNorm(const LatentRowsArgs& a, int64_t token,
                          const float (&gain)[kOfThread], Element* row) {
  const int width = a.rank + a.rope;
  const float* const from = a.kv + token * width;
  const auto at = [&](int c) {
    return a.bias != nullptr ? from[c] + a.bias[c] : from[c];
  };
  // The first 512 columns stay in registers.
  float x[kOfThread];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int c = static_cast<int>(threadIdx.x) + i * kBlock;
    x[i] = c < a.rank ? at(c) : 0.f;
    sum += x[i] * x[i];
  }
#pragma unroll 1
  for (int c = threadIdx.x + kOfThread * kBlock; c < a.rank; c += kBlock) {
    sum += at(c) * at(c);
  }
  const float scale =
      rsqrtf(BlockSum(sum) / static_cast<float>(a.rank) + a.eps);
  if (row == nullptr) return;
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int c = static_cast<int>(threadIdx.x) + i * kBlock;
    if (c < a.rank) Put(x[i] * scale * gain[i], row[c]);
  }
#pragma unroll 1
  for (int c = threadIdx.x + kOfThread * kBlock; c < a.rank; c += kBlock) {
    Put(at(c) * scale * a.gain[c], row[c]);
  }
  if constexpr (!std::is_same_v<Element, float>) {
    for (int64_t c = width + threadIdx.x; c < a.pitch; c += kBlock) {
      Put(0.f, row[c]);
    }
  }
}

// Pair `at` of all that is rotary of a token: its heads' queries, then its key,
// which goes to `row` of the cache.
template <typename Element>
__device__ __forceinline__ void TurnOne(const LatentRowsArgs& a, int64_t token,
                                        Angle angle, int at, Element* row) {
  const int half = a.rope / 2, head = at / half, j = at - head * half;
  if (head < a.num_heads) {
    const int64_t of = token * a.num_heads + head;
    TurnPair(a, angle, j, a.q + of * (a.nope + a.rope) + a.nope,
             a.absorbed + of * (a.rank + a.rope) + a.rank);
  } else if (head == a.num_heads && row != nullptr) {
    TurnPair(a, angle, j, a.kv + token * (a.rank + a.rope) + a.rank,
             row + a.rank, a.bias != nullptr ? a.bias + a.rank : nullptr);
  }
}

// The token's key into the cache, by a block.
template <typename Element>
__device__ __forceinline__ void StoreKey(const LatentRowsArgs& a, int64_t token,
                                         const float (&gain)[kOfThread]) {
  const int key = a.num_heads * (a.rope / 2);
  Element* const row = CacheRow<Element>(a, token);
  StoreNorm(a, token, gain, row);
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

// A token's key by a block, and by another its queries: all columns rounded,
// and turned to `absorbed` those that are rotary.
template <typename Element>
__global__ void __launch_bounds__(kBlock)
    SplitKernel(const LatentRowsArgs a, __nv_bfloat16* rounded) {
  float gain[kOfThread];
  LoadGain(a, gain);
  LetLaterBegin();
  WaitForEarlier();
  const int64_t token = blockIdx.x;
  if (token >= a.tokens.Get()) return;
  if (blockIdx.y == 0) {
    StoreKey<Element>(a, token, gain);
    return;
  }
  const int columns = a.num_heads * (a.nope + a.rope);
  for (int c = static_cast<int>(threadIdx.x) * 4; c < columns;
       c += kBlock * 4) {
    const int64_t at = token * columns + c;
    const float4 v = *reinterpret_cast<const float4*>(a.q + at);
    auto* const pair = reinterpret_cast<__nv_bfloat162*>(rounded + at);
    pair[0] = __floats2bfloat162_rn(v.x, v.y);
    pair[1] = __floats2bfloat162_rn(v.z, v.w);
  }
  const int half = a.rope / 2;
  for (int i = threadIdx.x; i < a.num_heads * half; i += kBlock) {
    TurnOne<Element>(a, token, AngleOf(a, token, i % half), i, /*row=*/nullptr);
  }
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
    Element* const row = there ? CacheRow<Element>(a, token) : nullptr;
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
    if (part == 0) {
      StoreNorm(a, token, gain, row);
    } else {
      TurnOne(a, token, angle, at, row);
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

cudaError_t TurnQueries(const LatentRowsArgs& args, cudaStream_t stream) {
  if (args.rope == 0) return cudaSuccess;
  TurnKernel<<<BlocksFor(args.tokens.bound * args.num_heads * args.rope / 2),
               kBlock, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t StoreLatents(const LatentRowsArgs& args, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(
      std::clamp<int64_t>(args.tokens.bound, 1, kMaxBlocks));
  auto* const kernel =
      args.bf16_cache ? StoreKernel<__nv_bfloat16> : StoreKernel<float>;
  kernel<<<blocks, kBlock, 0, stream>>>(args);
  return cudaGetLastError();
}

bool HasSplitLatents(const LatentRowsArgs& args) {
  return (args.nope + args.rope) % 4 == 0 && args.rope % 2 == 0;
}

cudaError_t SplitLatents(const LatentRowsArgs& args, __nv_bfloat16* rounded,
                         cudaStream_t stream) {
  if (!HasSplitLatents(args)) return cudaErrorInvalidValue;
  return LaunchAhead(
      args.bf16_cache ? SplitKernel<__nv_bfloat16> : SplitKernel<float>,
      dim3(static_cast<unsigned>(args.tokens.bound), 2), dim3(kBlock), 0,
      stream, args, rounded);
}

bool HasAbsorbQueries(const LatentRowsArgs& args) {
  return args.tokens.bound >= 1 && args.tokens.bound <= kMaxTokens &&
         args.nope % kRowsAtATime == 0 && args.nope > 0 &&
         args.nope <= kMaxSteps * kRowsAtATime && args.rank % kColumns == 0 &&
         args.rope % 2 == 0;
}

cudaError_t AbsorbQueries(const LatentRowsArgs& args, cudaStream_t stream) {
  if (!HasAbsorbQueries(args)) return cudaErrorInvalidValue;
  const auto blocks = static_cast<unsigned>(
      args.num_heads * (args.rank / kColumns) +
      args.tokens.bound * (1 + TurnBlocks(args.num_heads, args.rope)));
  return args.bf16_cache ? LaunchAbsorb<__nv_bfloat16>(args, blocks, stream)
                         : LaunchAbsorb<float>(args, blocks, stream);
}

}  // namespace strata::gpu
