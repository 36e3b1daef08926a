#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/decode/few_rows.h"
#include "cuda/ops/decode/few_rows_pieces.cuh"
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

// The tokens' rows of x to shared memory, rounded, by kOfToken warps each;
// where there is a gain, times that: what a row's root mean square divides is
// then the product, so that x is read once. Rows are there up to the bound; of
// those beyond the count nothing is kept. Of each warp the sum of its squares.
// kAtATime loads are on their way to a thread.
template <int kAtATime, int kOfToken>
__device__ __forceinline__ void StageRows(const FewRowsArgs& a, int head,
                                          char* rows,
                                          float (&squares)[kWarps]) {
  constexpr int kStride = kOfToken * kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int token = warp / kOfToken;
  if (token >= a.tokens.bound) return;
  const auto* const x =
      reinterpret_cast<const float4*>(a.x + token * a.pitch + head * a.k);
  const auto* const gain = reinterpret_cast<const float4*>(a.gain);
  const int n = static_cast<int>(a.k) / 4;
  char* const row = rows + token * RowBytes(a.k);
  float sum = 0;
  for (int base = warp % kOfToken * kWarp + Lane(); base < n;
       base += kAtATime * kStride) {
    float4 v[kAtATime], by[kAtATime];
#pragma unroll
    for (int j = 0; j < kAtATime; ++j) {
      const int i = base + j * kStride;
      if (i < n) v[j] = x[i];
    }
    if (gain != nullptr) {
#pragma unroll
      for (int j = 0; j < kAtATime; ++j) {
        const int i = base + j * kStride;
        if (i < n) by[j] = __ldg(gain + i);
      }
    }
#pragma unroll
    for (int j = 0; j < kAtATime; ++j) {
      const int i = base + j * kStride;
      if (i >= n) break;
      if (gain != nullptr) {
        sum += v[j].x * v[j].x + v[j].y * v[j].y + v[j].z * v[j].z +
               v[j].w * v[j].w;
        v[j] = {v[j].x * by[j].x, v[j].y * by[j].y, v[j].z * by[j].z,
                v[j].w * by[j].w};
      }
      *reinterpret_cast<uint2*>(row + i * 8) = Round(v[j]);
    }
  }
  if (gain == nullptr) return;
  sum = WarpSum(sum);
  if (Lane() == 0) squares[warp] = sum;
}

template <int kAtATime>
__device__ __forceinline__ void StageTokens(const FewRowsArgs& a, int of_token,
                                            int head, char* rows,
                                            float (&squares)[kWarps]) {
  switch (of_token) {
    case 1:
      return StageRows<kAtATime, 1>(a, head, rows, squares);
    case 2:
      return StageRows<kAtATime, 2>(a, head, rows, squares);
    case 4:
      return StageRows<4, 4>(a, head, rows, squares);
    default:
      return StageRows<4, 8>(a, head, rows, squares);
  }
}

// Warps that stage a row of x.
__device__ __forceinline__ int WarpsOfToken(int tokens) {
  return tokens <= 1 ? 8 : tokens <= 2 ? 4 : tokens <= 4 ? 2 : 1;
}

// What a row is multiplied by so that its root mean square is 1.
__device__ __forceinline__ float ScaleOf(const FewRowsArgs& a, float squares) {
  return rsqrtf(squares / static_cast<float>(a.k) + a.eps);
}
// The same of a token whose squares so many warps have.
__device__ __forceinline__ float ScaleOf(const FewRowsArgs& a,
                                         const float (&squares)[kWarps],
                                         int token, int of_token) {
  float sum = 0;
  for (int i = 0; i < of_token; ++i) sum += squares[token * of_token + i];
  return ScaleOf(a, sum);
}

// The token's row, normalised, by a block.
__device__ void StoreNormed(const FewRowsArgs& a, int token) {
  constexpr int kLoads = kMaxDepth / 4 / kBlock;
  const int n = static_cast<int>(a.k) / 4;
  WaitForEarlier();
  LetLaterBegin();
  const auto* const x = reinterpret_cast<const float4*>(a.x + token * a.pitch);
  const auto* const gain = reinterpret_cast<const float4*>(a.gain);
  float4 v[kLoads];
  float sum = 0;
#pragma unroll
  for (int j = 0; j < kLoads; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kBlock;
    v[j] = i < n ? x[i] : float4{0, 0, 0, 0};
  }
#pragma unroll
  for (const float4& of : v) {
    sum += of.x * of.x + of.y * of.y + of.z * of.z + of.w * of.w;
  }
  const float scale = ScaleOf(a, BlockSum(sum));
#pragma unroll
  for (int j = 0; j < kLoads; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kBlock;
    if (i >= n) break;
    const float4 g = gain[i];
    reinterpret_cast<uint2*>(a.normed + token * a.k)[i] =
        Round({v[j].x * scale * g.x, v[j].y * scale * g.y, v[j].z * scale * g.z,
               v[j].w * scale * g.w});
  }
}

struct Sums {
  float of_tile[kWarps][kRows][kTileTokens];
  float squares[kWarps];  // Of what each warp has of x.
};

// How a block comes by its tiles of 16 rows of a weight, and by x.
enum class Way {
  kTile,           // One of several products' tiles.
  kTiles,          // Of one product's every so many.
  kJoin,           // One; x in pieces of attention.
  kJoinInCluster,  // The same, eight blocks together.
};

// What a block does of a product whose weights are of a Format: a tile, and of
// kTiles every step-th from it on, of which the next one's weights are loaded
// as this one's are used.
template <typename Format, Way kWay>
__device__ __forceinline__ void MultiplyRows(const FewRowsArgs& a,
                                             const FewRowsProduct& p, int tile,
                                             int step, char* rows, Sums& sums) {
  constexpr bool kJoins = kWay == Way::kJoin || kWay == Way::kJoinInCluster;
  constexpr bool kPacked = !std::is_same_v<Format, Bf16Tile>;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4, c = Lane() % 4;
  // Of SwiGLU, eight rows of the one half and the same of the other.
  const int columns = p.swiglu ? kRows / 2 : kRows;
  const int below = static_cast<int>(p.swiglu ? p.w.n / 2 : kRows / 2);
  RowsOfTile w(p.w, tile * columns + g, below);
  const int units = static_cast<int>(a.k) / Format::kColumns;
  const int begin = units * warp / kWarps, end = units * (warp + 1) / kWarps;
  // Rows that are joined are short, and their pieces want registers.
  typename Format::Unit ahead[kJoins ? 1 : kPacked ? 3 : 4][kPacked ? 1 : 2];
  LoadUnits<Format>(w, begin, end, ahead);
  const int column = static_cast<int>(threadIdx.x) & (columns - 1);
  const int token = static_cast<int>(threadIdx.x) >> (p.swiglu ? 3 : 4);
  const int64_t n = p.swiglu ? p.w.n / 2 : p.w.n;
  int64_t at = token * n + tile * columns + column;
  const float* const add = token < a.tokens.bound ? p.add : nullptr;
  float* const y = p.y;
  const int bound = static_cast<int>(a.tokens.bound);
  const int of_token = WarpsOfToken(bound);
  const int head =
      a.rows_of_x > 0 ? tile * columns / static_cast<int>(a.rows_of_x) : 0;
  const int heads =
      kJoins ? static_cast<int>(a.pitch) / static_cast<int>(a.k) : 1;
  for (int i = threadIdx.x * 8; a.gain != nullptr && i < a.k; i += kBlock * 8) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(a.gain + i));
  }
#if STRATA_SM90A
  if constexpr (kWay == Way::kJoinInCluster) ArriveAtCluster();
#endif
  WaitForEarlier();
  LetLaterBegin();
  const int64_t tokens = a.tokens.Get();
  float before = add != nullptr ? add[at] : 0.f;
  if constexpr (kWay == Way::kJoin) {
    StageJoined(a, of_token, head, heads, rows);
  } else if constexpr (kWay == Way::kTile || kWay == Way::kTiles) {
    StageTokens<kPacked ? 8 : 4>(a, of_token, head, rows, sums.squares);
  }
#if STRATA_SM90A
  if constexpr (kWay == Way::kJoinInCluster) {
    WaitForCluster();  // All blocks are there.
    StageJoinedInCluster(a, of_token, head, heads, rows);
    __syncwarp();
    SyncCluster();
  }
#endif
  if constexpr (kWay != Way::kJoinInCluster) __syncthreads();

  const char* const x = rows + g * RowBytes(a.k) + c * 16;
  const auto row_of_x = [&](int i) {
    return g < bound ? *reinterpret_cast<const uint4*>(x + i * kStepColumns * 2)
                     : uint4{0, 0, 0, 0};
  };
  const auto store = [&] {
    if (token >= tokens) return;
    float sum = SumOfWarps(sums.of_tile, column, token);
    float scale = 1;
    if (!kJoins && a.gain != nullptr) {
      scale = ScaleOf(a, sums.squares, token, of_token);
      sum *= scale;
    }
    if (p.swiglu) {
      sum *= SigmoidOf(sum) * scale *
             SumOfWarps(sums.of_tile, column + kRows / 2, token);
    }
    y[at] = before + sum;
  };
  if constexpr (kWay != Way::kTiles) {
    float d[4] = {};
    MultiplyUnits<Format>(w, begin, end, ahead, row_of_x, d);
    StoreTile(d, sums.of_tile[warp]);
    __syncthreads();
    store();
  }
  for (bool is_last = kWay != Way::kTiles; !is_last;) {
    tile += step;
    is_last = tile * columns >= n;
    const RowsOfTile next(p.w, (is_last ? 0 : tile * columns) + g, below);
    float d[4] = {};
    MultiplyUnits<Format>(w, begin, end, next, is_last, ahead, row_of_x, d);
    StoreTile(d, sums.of_tile[warp]);
    __syncthreads();
    store();
    __syncthreads();
    w = next;
    at += step * columns;
    before = add != nullptr && !is_last ? add[at] : 0.f;
  }
}

// Blocks of a tile or more each, then those of each token's normalised row.
template <typename Format, Way kWay>
__global__ void __launch_bounds__(kBlock, 2)
    FewRowsKernel(const __grid_constant__ FewRowsArgs a, int blocks) {
  extern __shared__ uint4 memory[];
  __shared__ Sums sums;
  char* const rows = reinterpret_cast<char*>(memory);
  int tile = static_cast<int>(blockIdx.x), which = 0;
  if (tile >= blocks) {
    StoreNormed(a, tile - blocks);
    return;
  }
  while (which + 1 < a.num_products && tile >= a.product[which].w.n / kRows) {
    tile -= static_cast<int>(a.product[which].w.n / kRows);
    ++which;
  }
  const FewRowsProduct& p = a.product[which];
  if (p.w.bits == kBf16Bits) {
    MultiplyRows<Bf16Tile, kWay>(a, p, tile, blocks, rows, sums);
  } else if constexpr (!std::is_same_v<Format, Bf16Tile>) {
    MultiplyRows<Format, kWay>(a, p, tile, blocks, rows, sums);
  }
}

// Tiles of 16 rows of all products.
int64_t NumTiles(const FewRowsArgs& args) {
  int64_t tiles = 0;
  for (int i = 0; i < args.num_products; ++i) {
    tiles += args.product[i].w.n / kRows;
  }
  return tiles;
}

// Blocks of a Hopper GPU that run at once.
constexpr int64_t kResidentBlocks = 2 * 132;

// One product's many tiles go to blocks that run at once, as many each, so that
// x is staged by few of them.
template <typename Format, Way kWay>
cudaError_t Launch(const FewRowsArgs& args, cudaStream_t stream) {
  auto* const kernel = FewRowsKernel<Format, kWay>;
  const auto shared = static_cast<size_t>(args.tokens.bound * RowBytes(args.k));
  const cudaError_t allowed =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kMaxFewRows * RowBytes(kMaxDepth)));
  if (allowed != cudaSuccess) return allowed;
  int64_t blocks = NumTiles(args);
  if (kWay == Way::kTiles) {
    const int64_t of_block = (blocks + kResidentBlocks - 1) / kResidentBlocks;
    blocks = (blocks + of_block - 1) / of_block;
  }
  const int64_t normed = args.normed != nullptr ? args.tokens.bound : 0;
  return LaunchClustersAhead(kernel, kWay == Way::kJoinInCluster ? kJoiners : 1,
                             dim3(static_cast<unsigned>(blocks + normed)),
                             dim3(kBlock), shared, stream, args,
                             static_cast<int>(blocks));
}

// Whether eight blocks, of a head's rows of a weight, want the same rows of x.
bool JoinsInCluster(const FewRowsArgs& args) {
  return args.k == kJoinedColumns && args.rows_of_x == kJoiners * kRows &&
         args.num_products == 1 && args.product[0].w.n % args.rows_of_x == 0 &&
         IsHopper();
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
  if (args.splits > 1) {
    return JoinsInCluster(args)
               ? Launch<Bf16Tile, Way::kJoinInCluster>(args, stream)
               : Launch<Bf16Tile, Way::kJoin>(args, stream);
  }
  const FewRowsProduct* const packed = FirstPacked(args);
  const FewRowsProduct& any = packed != nullptr ? *packed : args.product[0];
  const bool is_many = args.num_products == 1 && args.rows_of_x == 0 &&
                       NumTiles(args) > kResidentBlocks;
  return WithFormat(any.w, [&](auto format) {
    return is_many ? Launch<decltype(format), Way::kTiles>(args, stream)
                   : Launch<decltype(format), Way::kTile>(args, stream);
  });
}

}  // namespace strata::gpu
