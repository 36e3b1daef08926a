#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/sm90_product_narrow.cuh"
#include "cuda/kernels/sm90_send.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/batch/skinny_product.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A cluster of blocks has 64 rows of a weight at a time, each block a share of
// the columns:
//
//   warp 4          64 columns at a time of both operands into a ring of
//                   stages, by the copy engine: of weights before earlier
//                   kernels have ended, of x behind them
//   warps 0 to 3    sums [64 rows, t] in the tensor cores: weights are the
//                   operand of 64 rows, x that of few columns
//   cluster         each block sends its sums to the one that stores them:
//                   pairs of tokens, to the blocks in turn
//
// A ring holds half of a multiprocessor's shared memory, so that the next
// product's weights come while this one multiplies.

namespace strata::gpu {
namespace {

constexpr int kTile = 64;  // Rows of a weight.
constexpr int kTileBytes = kTile * kSwizzleColumns * 2;
constexpr int kMaxSplits = 8;
constexpr int64_t kProcessors = 132;
constexpr int kMaxStages = 9;
constexpr int kRingBytes = 96 << 10;
constexpr int kThreads = kWarpgroup + kWarp;
constexpr int kMultiplied = 1;  // A barrier of the warps that multiply.

__host__ __device__ constexpr int StageBytes(int tokens) {
  return kTileBytes + tokens * kSwizzleColumns * 2;
}
// That a ring has at most.
constexpr int MaxStages(int tokens) {
  return std::min(kMaxStages, kRingBytes / StageBytes(tokens));
}
// Sums of a tile that a block stores, of all blocks of the cluster.
constexpr int kRowPairs = kTile / 2;
__host__ __device__ constexpr int SumBytes(int tokens) {
  return tokens / 2 * kRowPairs * int{sizeof(float4)};
}

struct Product {
  int64_t columns = 0;  // Of y.
  int half = 0;         // Of SwiGLU, where the second half's rows begin.
  int tiles = 0;
  float* y = nullptr;
  __nv_bfloat16* rounded = nullptr;
  const float* add = nullptr;
  int64_t pitch = 0;
};

struct Args {
  Extent tokens;
  int chunks = 0;  // Of 64 columns.
  int rows_of_x = 0, x_step = 0, y_step = 0;
  int splits = 1, stages = 1;
  bool x_ahead = false;
  Product product[2];
};

#if STRATA_SM90A

// Which 64 rows of which product.
struct Tile {
  int product = 0, row = 0;  // Of SwiGLU 32 of each half from `row` on.
};
__device__ __forceinline__ Tile TileOf(const Args& a, int number) {
  Tile tile;
  tile.product = number >= a.product[0].tiles ? 1 : 0;
  if (tile.product == 1) number -= a.product[0].tiles;
  const bool swiglu = a.product[tile.product].half > 0;
  tile.row = number * (swiglu ? kTile / 2 : kTile);
  return tile;
}

__device__ __forceinline__ float SwiGlu(float gate, float up) {
  return gate * SigmoidOf(gate) * up;
}

// A tile's sums, as threads of a product have them: of two tokens by two rows
// of the weight, eight apart, {token, next; token, next by the other row}. In
// shared memory of the block that stores them: [from block][its pair of
// tokens][pair of rows].
template <int kTokens>
struct Sums {
  __device__ Sums(float4* at, uint64_t* joined, int splits, int rank)
      : at(at),
        joined(joined),
        splits(splits),
        shift(__ffs(splits) - 1),
        rank(rank) {}

  // Pairs of tokens that a block stores.
  __device__ __forceinline__ int Pairs() const { return kTokens / 2 >> shift; }

  __device__ __forceinline__ void Send(const float (&sum)[kTokens / 2]) const {
    const int row_pair = static_cast<int>(threadIdx.x) / kWarp * 8 + Lane() / 4;
#pragma unroll
    for (int g = 0; g < kTokens / 8; ++g) {
      const int pair = 4 * g + Lane() % 4;
      float4* const to =
          at + (rank * Pairs() + (pair >> shift)) * kRowPairs + row_pair;
      const float4 four = {sum[4 * g], sum[4 * g + 1], sum[4 * g + 2],
                           sum[4 * g + 3]};
      if (splits == 1) {
        *to = four;
      } else {
        StoreFourTo(to, joined, static_cast<uint32_t>(pair & (splits - 1)),
                    four);
      }
    }
  }

  // Until those of all blocks are there, which is once if there are several.
  __device__ __forceinline__ void WaitForAll() const {
    if (splits == 1) {
      SyncThreads(kMultiplied, kWarpgroup);
    } else {
      Wait(joined, 0);
    }
  }

  // The block's i-th four, of all blocks.
  __device__ __forceinline__ float4 Join(int i) const {
    float4 sum = at[i], v[kMaxSplits - 1];
    if (splits == 1) return sum;
#pragma unroll
    for (int j = 0; j < kMaxSplits - 1; ++j) {
      v[j] = j + 1 < splits ? at[(j + 1) * Pairs() * kRowPairs + i]
                            : float4{0, 0, 0, 0};
    }
#pragma unroll
    for (const float4& x : v) {
      sum = {sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w};
    }
    return sum;
  }

  float4* const at;
  uint64_t* const joined;
  const int splits, shift, rank;
};

__device__ __forceinline__ void Store(const Product& p, int64_t at, float v) {
  if (p.y != nullptr) p.y[at] = v;
  if (p.rounded != nullptr) p.rounded[at] = __float2bfloat16_rn(v);
}

// What a thread stores of a tile.
struct Results {
  __device__ Results(const Args& a, const Tile& tile, int rank, int tokens)
      : product(a.product[tile.product]),
        splits(a.splits),
        rank(rank),
        tokens(tokens),
        shift(product.half > 0 ? 4 : 5),
        columns(static_cast<int>(product.columns) - tile.row),
        first(a.rows_of_x > 0
                  ? tile.row / a.rows_of_x * a.y_step + tile.row % a.rows_of_x
                  : tile.row) {}

  // Its i-th four's, from threadIdx.x on, a warpgroup's threads apart: where it
  // lies among sums, the first token and the first column.
  __device__ __forceinline__ int PlaceOf(int i) const {
    return (i >> shift) * kRowPairs + (i & ((1 << shift) - 1));
  }
  __device__ __forceinline__ int TokenOf(int i) const {
    return 2 * ((i >> shift) * splits + rank);
  }
  __device__ __forceinline__ int ColumnOf(int i) const {
    const int row_pair = i & ((1 << shift) - 1);
    return row_pair / 8 * 16 + row_pair % 8;
  }
  // Calls run(j, place) for those of its four numbers that y has.
  template <typename Run>
  __device__ __forceinline__ void ForEach(int i, Run run) const {
    const int token = TokenOf(i), column = ColumnOf(i);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int t = token + j % 2, c = column + j / 2 * 8;
      if (t < tokens && c < columns) run(j, t * product.pitch + first + c);
    }
  }
  __device__ __forceinline__ void Addend(int i, float (&add)[4]) const {
#pragma unroll
    for (float& x : add) x = 0;
    if (product.add == nullptr) return;
    ForEach(i, [&](int j, int64_t at) { add[j] = product.add[at]; });
  }

  const Product& product;
  int splits, rank, tokens;
  int shift;    // 2 to the power of it: pairs of rows of a tile of y.
  int columns;  // Of y from the tile on.
  int first;    // Column of y.
};

// `add` is the addend of the first.
template <int kTokens>
__device__ __forceinline__ void StoreTile(const Results& to,
                                          const Sums<kTokens>& sums,
                                          float (&add)[4]) {
#pragma unroll 1
  for (int i = threadIdx.x; to.TokenOf(i) < to.tokens; i += kWarpgroup) {
    float4 v = sums.Join(to.PlaceOf(i));
    if (to.product.half > 0) {
      const float4 up = sums.Join(to.PlaceOf(i) + kRowPairs / 2);
      v = {SwiGlu(v.x, up.x), SwiGlu(v.y, up.y), SwiGlu(v.z, up.z),
           SwiGlu(v.w, up.w)};
    }
    if (i >= kWarpgroup) to.Addend(i, add);
    const float sum[4] = {v.x, v.y, v.z, v.w};
    to.ForEach(i, [&](int j, int64_t place) {
      Store(to.product, place, sum[j] + add[j]);
    });
  }
}

#endif  // STRATA_SM90A

template <int kTokens>
__global__ void __launch_bounds__(kThreads)
    SkinnyKernel(const Args a, const __grid_constant__ CUtensorMap map_x,
                 const __grid_constant__ CUtensorMap map_first,
                 const __grid_constant__ CUtensorMap map_second) {
#if STRATA_SM90A
  constexpr int kBytes = StageBytes(kTokens);
  extern __shared__ char memory[];
  char* const ring = reinterpret_cast<char*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  __shared__ uint64_t full[kMaxStages], empty[kMaxStages], joined;

  const int rank = a.splits > 1 ? static_cast<int>(ClusterRank()) : 0;
  const int cluster = static_cast<int>(blockIdx.x) / a.splits;
  const int clusters = static_cast<int>(gridDim.x) / a.splits;
  const Sums<kTokens> sums(reinterpret_cast<float4*>(ring + a.stages * kBytes),
                           &joined, a.splits, rank);
  const int tiles = a.product[0].tiles + a.product[1].tiles;
  const int first = a.chunks * rank / a.splits;
  const int mine = a.chunks * (rank + 1) / a.splits - first;
  const int lane = Lane();
  const bool loads = threadIdx.x >= kWarpgroup;
  if (loads) {
    if (lane < a.stages) {
      InitBarrier(&full[lane], 1);
      InitBarrier(&empty[lane], kWarpgroup / kWarp);
    }
    if (lane == 0) {
      PrefetchMap(&map_x);  // Which is used behind the wait.
      InitBarrier(&joined, 1);
      FenceBarrierInit();
      if (a.splits > 1) ArriveExpecting(&joined, SumBytes(kTokens));
    } else {
      FenceBarrierInit();
    }
  }
  __syncthreads();
  if (a.splits > 1) ArriveAtCluster();

  if (loads) {
    const int steps = mine * ((tiles - cluster + clusters - 1) / clusters);
    const auto load_weights = [&](int step, int stage) {
      const Tile tile = TileOf(a, cluster + step / mine * clusters);
      const CUtensorMap* const map =
          tile.product == 0 ? &map_first : &map_second;
      char* const to = ring + stage * kBytes;
      const int column = (first + step % mine) * kSwizzleColumns;
      ArriveExpecting(&full[stage], kBytes);
      LoadBox(map, to, &full[stage], column, tile.row, 0);
      if (const int half = a.product[tile.product].half; half > 0) {
        LoadBox(map, to + kTileBytes / 2, &full[stage], column, half + tile.row,
                0);
      }
    };
    const auto load_x = [&](int step, int stage) {
      const Tile tile = TileOf(a, cluster + step / mine * clusters);
      int column = (first + step % mine) * kSwizzleColumns;
      if (a.rows_of_x > 0) column += tile.row / a.rows_of_x * a.x_step;
      LoadBox(&map_x, ring + stage * kBytes + kTileBytes, &full[stage], column,
              0, 0);
    };
    // A lane a stage, then a lane for all.
    const bool begins = lane < min(a.stages, steps);
    if (begins) load_weights(lane, lane);
    if (!a.x_ahead) {
      LetLaterBegin();
      WaitForEarlier();
    }
    if (begins) load_x(lane, lane);
    if (lane == 0) {
      int stage = 0;
      uint32_t phase = 0;
      for (int step = a.stages; step < steps; ++step) {
        Wait(&empty[stage], phase);
        load_weights(step, stage);
        load_x(step, stage);
        if (++stage == a.stages) {
          stage = 0;
          phase ^= 1;
        }
      }
    }
    __syncwarp();
    if (a.x_ahead) WaitForEarlier();
    if (a.splits > 1) WaitForCluster();
    return;
  }

  if (!a.x_ahead) {
    LetLaterBegin();
    WaitForEarlier();
  }
  const int tokens = static_cast<int>(a.tokens.Get());
  int stage = 0;
  uint32_t phase = 0;
  for (int number = cluster; number < tiles; number += clusters) {
    const Results results(a, TileOf(a, number), rank, tokens);
    float add[4];
    results.Addend(threadIdx.x, add);
    float sum[kTokens / 2];
#pragma unroll
    for (float& x : sum) x = 0;
    int before = -1;  // The stage before.
    for (int c = 0; c < mine; ++c) {
      Wait(&full[stage], phase);
      MultiplyTiles(sum, ring + stage * kBytes,
                    ring + stage * kBytes + kTileBytes);
      WaitForProducts<1>();
      if (before >= 0 && lane == 0) Arrive(&empty[before]);
      before = stage;
      if (++stage == a.stages) {
        stage = 0;
        phase ^= 1;
      }
    }
    WaitForProducts<0>();
    if (lane == 0) Arrive(&empty[before]);
    if (a.splits > 1) WaitForCluster();  // The others have begun.
    sums.Send(sum);
    sums.WaitForAll();
    if (a.x_ahead && number == cluster) {
      WaitForEarlier();
      LetLaterBegin();
    }
    StoreTile(results, sums, add);
    // Of one block; clusters have a tile each.
    if (number + clusters < tiles) SyncThreads(kMultiplied, kWarpgroup);
  }
#endif
}

int64_t ColumnsOf(const SkinnyWeights& p) { return p.swiglu ? p.n / 2 : p.n; }

// Blocks that share the columns of a tile, each 64 of them at least: as many as
// keep a block a multiprocessor; or two, where a share would not find room in a
// ring of so many stages.
int SplitsOf(int64_t tiles, int64_t chunks, int64_t stages) {
  int splits = 1;
  while (2 * splits <= std::min<int64_t>(chunks, kMaxSplits)) {
    const int blocks = CeilDiv(chunks, splits) > stages ? 2 : 1;
    if (2 * splits * tiles > blocks * kProcessors) break;
    splits *= 2;
  }
  return splits;
}

template <int kTokens>
cudaError_t Launch(Args a, const CUtensorMap& x, const CUtensorMap (&w)[2],
                   cudaStream_t stream) {
  const int64_t tiles = a.product[0].tiles + a.product[1].tiles;
  const int64_t share = CeilDiv(a.chunks, a.splits);
  // Two blocks a multiprocessor at most.
  const int64_t clusters = std::min(tiles, 2 * kProcessors / a.splits);
  const int64_t steps = share * CeilDiv(tiles, clusters);
  a.stages = static_cast<int>(std::min<int64_t>(steps, MaxStages(kTokens)));
  constexpr size_t kSums = SumBytes(kTokens);
  const size_t shared = kSwizzleBytes + a.stages * StageBytes(kTokens) + kSums;
  auto* const kernel = SkinnyKernel<kTokens>;
  // Of any launch: a captured one that wants more than the last was allowed
  // would never find room.
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(kSwizzleBytes + kRingBytes + kSums));
  if (allowed != cudaSuccess) return allowed;
  return LaunchClustersAhead(kernel, a.splits,
                             dim3(static_cast<unsigned>(clusters * a.splits)),
                             dim3(kThreads), shared, stream, a, x, w[0], w[1]);
}

}  // namespace

bool HasSkinnyProduct(const SkinnyProductArgs& args) {
  if (args.tokens.bound < 1 || args.tokens.bound > kMaxSkinnyRows ||
      args.k < 8 || args.k % 8 != 0 || args.pitch % 8 != 0 ||
      args.k > INT32_MAX / 2 || !IsHopper()) {
    return false;
  }
  if (args.rows_of_x > 0 &&
      (args.rows_of_x % kTile != 0 || args.k % kSwizzleColumns != 0 ||
       args.x_step % 8 != 0 || args.y_step % 8 != 0)) {
    return false;
  }
  for (int i = 0; i < args.num_products; ++i) {
    const SkinnyWeights& p = args.product[i];
    if (p.n < 8 || ColumnsOf(p) % 8 != 0 || p.y_pitch % 8 != 0 ||
        p.n > INT32_MAX / 2 || !IsAligned(p.w) || !IsAligned(p.y) ||
        !IsAligned(p.rounded) || !IsAligned(p.add)) {
      return false;
    }
  }
  return IsAligned(args.x);
}

cudaError_t SkinnyProduct(const SkinnyProductArgs& args, cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (!HasSkinnyProduct(args)) return cudaErrorInvalidValue;
  const int tokens = NarrowColumns(args.tokens.bound);
  Args a;
  a.tokens = args.tokens;
  a.chunks = static_cast<int>(CeilDiv(args.k, kSwizzleColumns));
  a.rows_of_x = static_cast<int>(args.rows_of_x);
  a.x_step = static_cast<int>(args.x_step);
  a.y_step = static_cast<int>(args.y_step);
  a.x_ahead = args.x_ahead;
  CUtensorMap x = {}, w[2] = {};
  int64_t tiles = 0;
  for (int i = 0; i < args.num_products; ++i) {
    const SkinnyWeights& from = args.product[i];
    Product& p = a.product[i];
    p.columns = ColumnsOf(from);
    p.half = static_cast<int>(from.swiglu ? p.columns : 0);
    p.tiles =
        static_cast<int>(CeilDiv(p.columns, from.swiglu ? kTile / 2 : kTile));
    p.y = from.y;
    p.rounded = from.rounded;
    p.add = from.add;
    p.pitch = from.y_pitch > 0 ? from.y_pitch : p.columns;
    tiles += p.tiles;
    BoxedTensor box;
    box.data = from.w;
    box.columns = box.pitch = args.k;
    box.rows = from.n;
    box.box_rows = from.swiglu ? kTile / 2 : kTile;
    if (const cudaError_t e = MakeTensorMap(box, &w[i]); e) return e;
  }
  BoxedTensor rows;
  rows.data = args.x;
  rows.columns = args.rows_of_x > 0 ? args.pitch : args.k;
  rows.pitch = args.pitch;
  rows.rows = args.tokens.bound;
  rows.box_rows = tokens;
  if (const cudaError_t e = MakeTensorMap(rows, &x); e) return e;
  a.splits = SplitsOf(tiles, a.chunks, MaxStages(tokens));
  return tokens == 16   ? Launch<16>(a, x, w, stream)
         : tokens == 32 ? Launch<32>(a, x, w, stream)
                        : Launch<64>(a, x, w, stream);
}

}  // namespace strata::gpu
