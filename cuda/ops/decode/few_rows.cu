#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode/few_rows.h"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/decode/packed_tile.cuh"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kRows = kTileRows;  // Of a weight, a block.
constexpr int kWarps = kWarpsPerBlock;
constexpr int64_t kMaxDepth = 8192;

__device__ __forceinline__ uint2 Round(float4 x) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(x.x, x.y);
  const __nv_bfloat162 high = __floats2bfloat162_rn(x.z, x.w);
  return {*reinterpret_cast<const uint32_t*>(&low),
          *reinterpret_cast<const uint32_t*>(&high)};
}

constexpr int kMaxSplits = 64;

// share[s] = by what piece s of the token's head counts; by a warp.
__device__ void ShareOfPieces(const FewRowsArgs& a, int first, float* share) {
  float largest = -INFINITY, total = 0;
  float weight[kMaxSplits / kWarp];
#pragma unroll
  for (int j = 0; j < kMaxSplits / kWarp; ++j) {
    const int s = j * kWarp + Lane();
    weight[j] = s < a.splits ? a.max[first + s] : -INFINITY;
    largest = fmaxf(largest, weight[j]);
  }
  largest = WarpMax(largest);
#pragma unroll
  for (int j = 0; j < kMaxSplits / kWarp; ++j) {
    const int s = j * kWarp + Lane();
    weight[j] = weight[j] > -INFINITY ? exp2f(weight[j] - largest) : 0.f;
    if (s < a.splits) total = fmaf(a.sum[first + s], weight[j], total);
  }
  total = WarpSum(total);
#pragma unroll
  for (int j = 0; j < kMaxSplits / kWarp; ++j) {
    share[j * kWarp + Lane()] = total > 0 ? weight[j] / total : 0.f;
  }
  __syncwarp();
}

// Rows of x from pieces of attention, rounded, by of_token warps each. A row
// with fewer columns than that has threads is made in parts, of every so many
// pieces. k is a multiple of 256, so that warps do the same.
__device__ void StageJoined(const FewRowsArgs& a, int of_token, int head,
                            int heads, char* rows) {
  constexpr int kAtATime = 10;  // Pieces on their way to a thread.
  __shared__ float share_of[kWarps][kMaxSplits];
  __shared__ float4 part_of[kBlock];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int token = warp / of_token, threads = of_token * kWarp;
  const int thread = warp % of_token * kWarp + Lane();
  const int n = static_cast<int>(a.k) / 4;
  const int parts = max(1, threads / n), of_part = threads / parts;
  const int part = thread / of_part;
  const bool there = token < a.tokens.bound;
  const int piece = (token * heads + head) * a.splits;
  const auto* const x =
      reinterpret_cast<const float4*>(a.x + int64_t{piece} * a.k);
  float* const share = share_of[warp];
  bool has_share = false;
  const auto join = [&](int i) {
    float4 v = {0, 0, 0, 0};
    for (int base = part; base < a.splits; base += parts * kAtATime) {
      float4 of_piece[kAtATime];
#pragma unroll
      for (int j = 0; j < kAtATime; ++j) {
        const int s = base + j * parts;
        of_piece[j] = s < a.splits ? x[int64_t{s} * n + i] : float4{0, 0, 0, 0};
      }
      if (!has_share) ShareOfPieces(a, piece, share);
      has_share = true;
#pragma unroll
      for (int j = 0; j < kAtATime; ++j) {
        const int s = base + j * parts;
        const float w = s < a.splits ? share[s] : 0.f;
        v = {fmaf(w, of_piece[j].x, v.x), fmaf(w, of_piece[j].y, v.y),
             fmaf(w, of_piece[j].z, v.z), fmaf(w, of_piece[j].w, v.w)};
      }
    }
    return v;
  };
  char* const row = rows + token * RowBytes(a.k);
  if (parts == 1) {
    for (int i = thread; there && i < n; i += threads) {
      *reinterpret_cast<uint2*>(row + i * 8) = Round(join(i));
    }
    return;
  }
  const int i = thread % of_part;
  const bool works = there && i < n;
  if (works) part_of[threadIdx.x] = join(i);
  __syncthreads();
  if (!works || part > 0) return;
  float4 v = part_of[threadIdx.x];
  for (int p = 1; p < parts; ++p) {
    const float4 other = part_of[threadIdx.x + p * of_part];
    v = {v.x + other.x, v.y + other.y, v.z + other.z, v.w + other.w};
  }
  *reinterpret_cast<uint2*>(row + i * 8) = Round(v);
}

// The tokens' rows of x to shared memory, rounded, by of_token warps each.
// Rows are there up to the bound; of those beyond the count nothing is kept.
__device__ void StageRows(const FewRowsArgs& a, int of_token, int head,
                          const float* gain_of, char* rows) {
  __shared__ float squares[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int token = warp / of_token;
  const bool there = token < a.tokens.bound;
  const auto* const x =
      reinterpret_cast<const float4*>(a.x + token * a.pitch + head * a.k);
  const int n = static_cast<int>(a.k) / 4;
  const int begin = warp % of_token * kWarp + Lane();
  const int stride = of_token * kWarp;
  float scale = 1;
  if (a.gain != nullptr) {
    float sum = 0;
    if (there) {
#pragma unroll 4
      for (int i = begin; i < n; i += stride) {
        const float4 v = x[i];
        sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      }
    }
    sum = WarpSum(sum);
    if (Lane() == 0) squares[warp] = sum;
    WaitForCopies16();
    __syncthreads();
    sum = 0;
    for (int w = 0; w < of_token; ++w) sum += squares[token * of_token + w];
    scale = rsqrtf(sum / static_cast<float>(a.k) + a.eps);
  }
  if (!there) return;
  char* const row = rows + token * RowBytes(a.k);
  const auto* const gain = reinterpret_cast<const float4*>(gain_of);
#pragma unroll 4
  for (int i = begin; i < n; i += stride) {
    float4 v = x[i];
    if (a.gain != nullptr) {
      const float4 g = gain[i];
      v = {v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z,
           v.w * scale * g.w};
    }
    const uint2 rounded = Round(v);
    *reinterpret_cast<uint2*>(row + i * 8) = rounded;
    if (a.normed != nullptr && blockIdx.x == 0) {
      reinterpret_cast<uint2*>(a.normed + token * a.k)[i] = rounded;
    }
  }
}

// What a block does for 16 rows of a product, whose weights are of a Format.
// Returns what the thread's result is added to, `add` if there is one.
template <typename Format, bool kJoin>
__device__ __forceinline__ float MultiplyRows(
    const FewRowsArgs& a, const FewRowsProduct& p, int tile, const float* add,
    char* rows, float (&sums)[kWarps][kRows][kTileTokens], int64_t& tokens) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4, c = Lane() % 4;
  // Of SwiGLU, eight rows of the one half and the same of the other.
  const int first = tile * (p.swiglu ? kRows / 2 : kRows);
  const RowsOfTile w(p.w, first + g, p.swiglu ? p.w.n / 2 : kRows / 2);
  const int units = static_cast<int>(a.k) / Format::kColumns;
  const int begin = units * warp / kWarps, end = units * (warp + 1) / kWarps;
  constexpr bool kPacked = !std::is_same_v<Format, Bf16Tile>;
  // Rows that are joined are short, and their pieces want registers.
  typename Format::Unit ahead[kJoin ? 1 : 4][kPacked ? 1 : 2];
  LoadUnits<Format>(w, begin, end, ahead);
  const int bound = static_cast<int>(a.tokens.bound);
  const int of_token = bound <= 1 ? 8 : bound <= 2 ? 4 : bound <= 4 ? 2 : 1;
  auto* const gain = reinterpret_cast<float*>(rows + RowBytes(a.k) * bound);
  const int head = a.rows_of_x > 0 ? first / static_cast<int>(a.rows_of_x) : 0;
  const int heads =
      kJoin ? static_cast<int>(a.pitch) / static_cast<int>(a.k) : 1;
  for (int i = threadIdx.x * 4; a.gain != nullptr && i < a.k; i += kBlock * 4) {
    CopyAsync16(gain + i, a.gain + i);
  }
  WaitForEarlier();
  LetLaterBegin();
  tokens = a.tokens.Get();
  const float before = add != nullptr ? *add : 0.f;
  if constexpr (kJoin) {
    StageJoined(a, of_token, head, heads, rows);
  } else {
    StageRows(a, of_token, head, gain, rows);
  }
  __syncthreads();

  float d[4] = {};
  const char* const x = rows + g * RowBytes(a.k) + c * 16;
  MultiplyUnits<Format>(
      w, begin, end, ahead,
      [&](int step) {
        return g < bound ? *reinterpret_cast<const uint4*>(
                               x + step * kStepColumns * 2)
                         : uint4{0, 0, 0, 0};
      },
      d);
  StoreTile(d, sums[warp]);
  return before;
}

template <typename Format, bool kJoin>
__global__ void __launch_bounds__(kBlock, 2)
    FewRowsKernel(const __grid_constant__ FewRowsArgs a) {
  extern __shared__ uint4 memory[];
  __shared__ float sums[kWarps][kRows][kTileTokens];
  char* const rows = reinterpret_cast<char*>(memory);
  int tile = static_cast<int>(blockIdx.x), which = 0;
  while (which + 1 < a.num_products && tile >= a.product[which].w.n / kRows) {
    tile -= static_cast<int>(a.product[which].w.n / kRows);
    ++which;
  }
  const FewRowsProduct& p = a.product[which];
  const int columns = p.swiglu ? kRows / 2 : kRows;
  const int first = tile * columns;
  const int column = static_cast<int>(threadIdx.x) % columns;
  const int token = static_cast<int>(threadIdx.x) / columns;
  const int64_t at = token * (p.swiglu ? p.w.n / 2 : p.w.n) + first + column;
  const float* const add =
      p.add != nullptr && token < a.tokens.bound ? p.add + at : nullptr;
  float value = 0;
  int64_t tokens = 0;
  if (p.w.bits == kBf16Bits) {
    value = MultiplyRows<Bf16Tile, kJoin>(a, p, tile, add, rows, sums, tokens);
  } else if constexpr (!std::is_same_v<Format, Bf16Tile>) {
    value = MultiplyRows<Format, kJoin>(a, p, tile, add, rows, sums, tokens);
  }
  __syncthreads();
  if (token >= tokens) return;
  float sum = SumOfWarps(sums, column, token);
  if (p.swiglu) {
    sum *= SigmoidOf(sum) * SumOfWarps(sums, column + kRows / 2, token);
  }
  p.y[at] = value + sum;
}

template <typename Format, bool kJoin>
cudaError_t Launch(const FewRowsArgs& args, cudaStream_t stream) {
  auto* const kernel = FewRowsKernel<Format, kJoin>;
  const auto shared =
      static_cast<size_t>(args.tokens.bound * RowBytes(args.k) +
                          (args.gain != nullptr ? args.k * 4 : 0));
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(kMaxFewRows * RowBytes(kMaxDepth) + kMaxDepth * 4));
  if (allowed != cudaSuccess) return allowed;
  int64_t blocks = 0;
  for (int i = 0; i < args.num_products; ++i) {
    blocks += args.product[i].w.n / kRows;
  }
  return LaunchAhead(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kBlock),
                     shared, stream, args);
}

// The packed product of the first that is; null if none is.
const FewRowsProduct* FirstPacked(const FewRowsArgs& args) {
  for (int i = 0; i < args.num_products; ++i) {
    if (args.product[i].w.bits != kBf16Bits) return &args.product[i];
  }
  return nullptr;
}

}  // namespace

bool HasFewRows(int64_t rows, const PackedRows& w) {
  return rows >= 1 && rows <= kMaxFewRows && w.k <= kMaxDepth && HasTiles(w) &&
         w.n % kRows == 0 &&
         (w.bits != kBf16Bits || w.k % (kWarps * kStepColumns) == 0);
}

bool HasFewRowsProducts(const FewRowsArgs& args) {
  const FewRowsProduct* const packed = FirstPacked(args);
  if (packed != nullptr && args.splits > 1) return false;
  for (int i = 0; i < args.num_products; ++i) {
    const PackedRows& w = args.product[i].w;
    if (!HasFewRows(args.tokens.bound, w) || w.k != args.k) return false;
    if (w.bits != kBf16Bits && !SameFormat(w, packed->w)) return false;
  }
  return true;
}

cudaError_t FewRowsProducts(const FewRowsArgs& args, cudaStream_t stream) {
  if (!HasFewRowsProducts(args)) return cudaErrorInvalidValue;
  if (args.splits > 1) return Launch<Bf16Tile, true>(args, stream);
  const FewRowsProduct* const packed = FirstPacked(args);
  const FewRowsProduct& any = packed != nullptr ? *packed : args.product[0];
  return WithFormat(any.w, [&](auto format) {
    return Launch<decltype(format), false>(args, stream);
  });
}

}  // namespace strata::gpu
