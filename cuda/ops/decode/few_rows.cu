#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/quant_product.h"
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
constexpr int kPadBytes = 64;  // Rows of x begin at other banks.
constexpr int64_t kMaxDepth = 8192;

__device__ __forceinline__ uint2 Round(float4 x) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(x.x, x.y);
  const __nv_bfloat162 high = __floats2bfloat162_rn(x.z, x.w);
  return {*reinterpret_cast<const uint32_t*>(&low),
          *reinterpret_cast<const uint32_t*>(&high)};
}

constexpr int kMaxSplits = 64;

// share[s] = by what piece s of the token's head counts; by a warp.
__device__ void ShareOfPieces(const FewRowsArgs& a, int64_t first,
                              float* share) {
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

// The tokens' rows of x to shared memory, rounded; warps share a token if there
// are fewer tokens than warps.
template <bool kJoin>
__device__ void StageRows(const FewRowsArgs& a, int tokens, int64_t first_row,
                          char* rows) {
  __shared__ float squares[kWarps];
  __shared__ float share[kJoin ? kWarps : 1][kJoin ? kMaxSplits : 1];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int of_token = tokens <= 1 ? 8 : tokens <= 2 ? 4 : tokens <= 4 ? 2 : 1;
  const int token = warp / of_token;
  const int64_t head = a.rows_of_x > 0 ? first_row / a.rows_of_x : 0;
  const auto* const x =
      reinterpret_cast<const float4*>(a.x + token * a.pitch + head * a.k);
  const int64_t n = a.k / 4;
  const int begin = warp % of_token * kWarp + Lane();
  const int stride = of_token * kWarp;
  float scale = 1;
  if (a.gain != nullptr) {
    float sum = 0;
    if (token < tokens) {
#pragma unroll 4
      for (int64_t i = begin; i < n; i += stride) {
        const float4 v = x[i];
        sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      }
    }
    sum = WarpSum(sum);
    if (Lane() == 0) squares[warp] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < of_token; ++w) sum += squares[token * of_token + w];
    scale = rsqrtf(sum / static_cast<float>(a.k) + a.eps);
  }
  if (token >= tokens) return;
  const int64_t piece = (token * (a.pitch / a.k) + head) * a.splits;
  if constexpr (kJoin) ShareOfPieces(a, piece, share[warp]);
  const int64_t pitch = a.k * 2 + kPadBytes;
  const auto* const gain = reinterpret_cast<const float4*>(a.gain);
#pragma unroll 4
  for (int64_t i = begin; i < n; i += stride) {
    float4 v = {0, 0, 0, 0};
    if constexpr (kJoin) {
#pragma unroll 4
      for (int s = 0; s < a.splits; ++s) {
        const float w = share[warp][s];
        const float4 part =
            reinterpret_cast<const float4*>(a.x + (piece + s) * a.k)[i];
        v = {fmaf(w, part.x, v.x), fmaf(w, part.y, v.y), fmaf(w, part.z, v.z),
             fmaf(w, part.w, v.w)};
      }
    } else {
      v = x[i];
    }
    if (gain != nullptr) {
      const float4 g = gain[i];
      v = {v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z,
           v.w * scale * g.w};
    }
    const uint2 rounded = Round(v);
    *reinterpret_cast<uint2*>(rows + token * pitch + i * 8) = rounded;
    if (a.normed != nullptr && blockIdx.x == 0) {
      reinterpret_cast<uint2*>(a.normed + token * a.k)[i] = rounded;
    }
  }
}

// What a block does for 16 rows of a product, whose weights are of a Format.
template <typename Format, bool kJoin>
__device__ __forceinline__ void MultiplyRows(
    const FewRowsArgs& a, const FewRowsProduct& p, int64_t tile, char* rows,
    float (&sums)[kWarps][kRows][kTileTokens]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4, c = Lane() % 4;
  // Of SwiGLU, eight rows of the one half and the same of the other.
  const int64_t first = tile * (p.swiglu ? kRows / 2 : kRows);
  const RowsOfTile w(p.w, first + g, p.swiglu ? p.w.n / 2 : kRows / 2);
  const int units = static_cast<int>(a.k) / Format::kColumns;
  const int begin = units * warp / kWarps, end = units * (warp + 1) / kWarps;
  constexpr bool kPacked = !std::is_same_v<Format, Bf16Tile>;
  typename Format::Unit ahead[kPacked ? 4 : 1][kPacked ? 1 : 8];
  LoadUnits<Format>(w, begin, end, ahead);
  if (a.gain != nullptr) {
    for (int64_t i = threadIdx.x * 32; i < a.k; i += kBlock * 32) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(a.gain + i));
    }
  }
  WaitForEarlier();
  LetLaterBegin();
  const int tokens = static_cast<int>(a.tokens.Get());
  StageRows<kJoin>(a, tokens, first, rows);
  __syncthreads();

  float d[4] = {};
  const char* const x = rows + g * (a.k * 2 + kPadBytes) + c * 16;
  MultiplyUnits<Format>(
      w, begin, end, ahead,
      [&](int step) {
        return g < tokens ? *reinterpret_cast<const uint4*>(
                                x + step * kStepColumns * 2)
                          : uint4{0, 0, 0, 0};
      },
      d);
  StoreTile(d, sums[warp]);
}

template <typename Format, bool kJoin>
__global__ void __launch_bounds__(kBlock, 2)
    FewRowsKernel(const __grid_constant__ FewRowsArgs a) {
  extern __shared__ uint4 memory[];
  __shared__ float sums[kWarps][kRows][kTileTokens];
  char* const rows = reinterpret_cast<char*>(memory);
  int64_t tile = blockIdx.x;
  int which = 0;
  while (which + 1 < a.num_products && tile >= a.product[which].w.n / kRows) {
    tile -= a.product[which].w.n / kRows;
    ++which;
  }
  const FewRowsProduct& p = a.product[which];
  if (p.w.bits == kBf16Bits) {
    MultiplyRows<Bf16Tile, kJoin>(a, p, tile, rows, sums);
  } else if constexpr (!std::is_same_v<Format, Bf16Tile>) {
    MultiplyRows<Format, kJoin>(a, p, tile, rows, sums);
  }
  __syncthreads();
  const int tokens = static_cast<int>(a.tokens.Get());
  const int columns = p.swiglu ? kRows / 2 : kRows;
  const int64_t first = tile * columns;
  const int column = static_cast<int>(threadIdx.x) % columns;
  const int token = static_cast<int>(threadIdx.x) / columns;
  if (token >= tokens) return;
  float value = SumOfWarps(sums, column, token);
  if (p.swiglu) {
    value *= SigmoidOf(value) * SumOfWarps(sums, column + kRows / 2, token);
  }
  const int64_t at = token * (p.swiglu ? p.w.n / 2 : p.w.n) + first + column;
  p.y[at] = p.add != nullptr ? p.add[at] + value : value;
}

template <typename Format, bool kJoin>
cudaError_t Launch(const FewRowsArgs& args, cudaStream_t stream) {
  auto* const kernel = FewRowsKernel<Format, kJoin>;
  const auto shared =
      static_cast<size_t>(args.tokens.bound * (args.k * 2 + kPadBytes));
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(kMaxFewRows * (kMaxDepth * 2 + kPadBytes)));
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
