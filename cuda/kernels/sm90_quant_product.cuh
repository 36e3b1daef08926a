// y^T = w x^T in Hopper's wider products, a block a tile: 128 rows of w by 8 to
// 256 of x. Included where it is instantiated.
//
//   codes   --the copy engine--> stages of 128 bytes of each row
//                                   |  to registers, to BF16 with their scale
//                                   v
//   x BF16  --the copy engine--> blocks of 64 columns --> wgmma, two warpgroups
//                                                         of 64 rows of w each
//
// x is rounded, or what is BF16 put in order, by a launch before, or by the
// blocks, or is taken as it lies (kTakesMemory).
//
// So a weight is unpacked once for all tokens of a tile, into the registers
// that the products read, while the tensor cores are busy with the block
// before. For up to 64 tokens two pairs of warpgroups take every other block
// and join their sums; up to 16 keep weights exact, as integers, and apply
// scales to the sums of 32 columns.
//
// A block works on tile after tile, with the next one's operands on their way.
// Where there are too few tiles blocks of a cluster share what is summed over,
// a tile a cluster, and join sums through shared memory, in the order of the
// blocks (PlanManyRows). Bound by the tensor cores for many tokens, by reading
// w for few.

#ifndef CUDA_KERNELS_SM90_QUANT_PRODUCT_CUH_
#define CUDA_KERNELS_SM90_QUANT_PRODUCT_CUH_

#include <algorithm>
#include <cstdint>

#include "cuda/kernels/active_clusters.h"
#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/many_rows_plan.h"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/quant_round.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_quant_load.cuh"
#include "cuda/kernels/sm90_quant_multiply.cuh"
#include "cuda/kernels/sm90_quant_tile.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda_bf16.h"

namespace strata::gpu {

#if STRATA_SM90A

// The sums of a tile, which lie in each of kSplits blocks, to y: each block has
// a share of the tokens. By all that multiply.
template <int kTokens, int kSplits>
__device__ __forceinline__ void JoinBlocks(const ManyRowsArgs& args,
                                           const Units<kTokens>& unit,
                                           Shared<kTokens>& shared) {
  constexpr int kFours = kTileColumns / 4;
  constexpr int kThreads = Tile<kTokens>::kMultipliers * kWarpgroup;
  constexpr int kLoads = 8 / kSplits;  // From each block at a time: they wait.
  constexpr int kShare = kTokens / kSplits;
  const QuantProductArgs& p = args.product;
  const int rank = static_cast<int>(blockIdx.x);
  const int first = rank / args.pairs * kShare;
  const int used = min(kShare, max(0, unit.tile.num_rows - first)) * kFours;
  const bool by_four =
      p.w.n % 4 == 0 && reinterpret_cast<uintptr_t>(p.y) % 16 == 0;
  for (int i = static_cast<int>(threadIdx.x) - kWarpgroup; i < used;
       i += kThreads * kLoads) {
    float4 v[kLoads][kSplits];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int at = min(i + j * kThreads, used - 1);
      const float* const from =
          shared.sum(first + at / kFours) + at % kFours * 4;
#pragma unroll
      for (int s = 0; s < kSplits; ++s) {
        v[j][s] = LoadFourFrom(
            from, static_cast<uint32_t>(s * args.pairs + rank % args.pairs));
      }
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      float4 sum = v[j][0];
#pragma unroll
      for (int s = 1; s < kSplits; ++s) {
        sum.x += v[j][s].x, sum.y += v[j][s].y;
        sum.z += v[j][s].z, sum.w += v[j][s].w;
      }
      const int at = i + j * kThreads;
      if (at >= used) break;
      const int64_t n = unit.column + at % kFours * 4;
      float* const to = p.y + (unit.tile.row + first + at / kFours) * p.w.n + n;
      if (by_four) {
        if (n < p.w.n) *reinterpret_cast<float4*>(to) = sum;
        continue;
      }
      if (n < p.w.n) to[0] = sum.x;
      if (n + 1 < p.w.n) to[1] = sum.y;
      if (n + 2 < p.w.n) to[2] = sum.z;
      if (n + 3 < p.w.n) to[3] = sum.w;
    }
  }
}

// What a warpgroup has of a tile: the groups' sums joined, to y or to where the
// cluster's blocks find them.
template <int kTokens, typename Multiplier>
__device__ __forceinline__ void StoreTile(const ManyRowsArgs& args,
                                          const Units<kTokens>& unit,
                                          const Multiplier& multiplier,
                                          Shared<kTokens>& shared,
                                          float (&total)[kTokens / 2]) {
  using T = Tile<kTokens>;
  const QuantProductArgs& p = args.product;
  const int t = static_cast<int>(threadIdx.x) % 4;
  const auto each = [&](auto&& f) {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      f(i / 4 * 8 + t * 2 + i % 2, multiplier.row() + i % 4 / 2 * 8, total[i]);
    }
  };
  const auto put = [&](int token, int row, float v) {
    shared.sum(token)[row] = v;
  };
  if constexpr (T::kGroups == 2) {
    if (multiplier.group() == 1) each(put);
    SyncThreads(kAllSums, T::kMultipliers * kWarpgroup);
    if (multiplier.group() == 0) {
      each([&](int token, int row, float& v) { v += shared.sum(token)[row]; });
    }
    if (args.splits == 1) SyncThreads(kAllSums, T::kMultipliers * kWarpgroup);
  } else if (args.splits > 1) {
    SyncThreads(kAllSums, T::kMultipliers * kWarpgroup);  // Stages are read.
  }
  if (multiplier.group() != 0) return;
  if (args.splits > 1) return each(put);
  const int64_t n = p.w.n;
  const int64_t column = unit.column + multiplier.row();
  const bool upper = column < n, lower = column + 8 < n;
  const int there = unit.tile.num_rows - 2 * t;
  float* to = p.y + (unit.tile.row + 2 * t) * n + column;
#pragma unroll
  for (int i = 0; i < kTokens / 8; ++i, to += 8 * n) {
    float* const next = to + n;
    const bool one = 8 * i < there, two = 8 * i + 1 < there;
    if (one && upper) to[0] = total[4 * i];
    if (two && upper) next[0] = total[4 * i + 1];
    if (one && lower) to[8] = total[4 * i + 2];
    if (two && lower) next[8] = total[4 * i + 3];
  }
}

#endif  // STRATA_SM90A

// Grid: blocks of a cluster, clusters.
template <int kBits, int kTokens, WeightsOf kKind, ColumnsOf kColumns>
__global__ void __launch_bounds__(Tile<kTokens>::kThreads, 1)
    ManyRowsKernel(const __grid_constant__ ManyRowsArgs args,
                   const __grid_constant__ CUtensorMap code_map,
                   const __grid_constant__ CUtensorMap group_map,
                   const __grid_constant__ CUtensorMap x_map) {
#if STRATA_SM90A
  using T = Tile<kTokens>;
  extern __shared__ char memory[];
  auto& shared = *reinterpret_cast<Shared<kTokens>*>(
      memory +
      (kSwizzleBytes - SharedAddress(memory) % kSwizzleBytes) % kSwizzleBytes);
  const QuantProductArgs& p = args.product;
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / kWarpgroup, 0);
  const bool in_cluster = args.splits * args.pairs > 1;
  if (threadIdx.x == 0) {
    PrefetchMap(&x_map);
    if (args.copied) {
      PrefetchMap(&code_map);
      PrefetchMap(&group_map);
    }
    for (int i = 0; i < T::kCodeStages; ++i) {
      InitBarrier(&shared.code_full[i],
                  args.copied ? 1 : (kProducerWarps - 1) * 32);
      InitBarrier(&shared.code_empty[i],
                  T::kMultipliers * kWarpgroup / (args.copied ? 32 : 1));
    }
    for (int i = 0; i < T::kXStages; ++i) {
      InitBarrier(&shared.x_full[i], 1);
      InitBarrier(&shared.x_empty[i], 2 * args.pairs);
    }
    FenceBarrierInit();
  }
  if (args.pairs > 1) {
    SyncCluster();  // The other's barriers are known.
  } else {
    __syncthreads();
  }
  if (p.num_experts > 0) {
    WaitForEarlier();
    if (blockIdx.x + blockIdx.y == 0) {
      CheckOffsets(p.offset, p.num_experts, p.rows.Get(), p.fault);
    }
  }
  if (warpgroup == 0) {
    ShrinkRegisters<T::kProducerRegisters>();
    if (threadIdx.x / 32 < kProducerWarps - 1) {
      LoadCodes<kBits, kTokens>(args, {&code_map, &group_map}, shared);
    } else {
      WaitForEarlier();
      LetLaterBegin();
      if (!args.rounds) LoadX<kBits, kTokens>(args, &x_map, shared);
    }
    __syncwarp();
    if (in_cluster) SyncCluster();
    if (args.splits > 1) SyncCluster();
  } else {
    GrowRegisters<T::kMultiplierRegisters>();
    WaitForEarlier();
    const Range<kBits> range(args);
    Multiplier<kBits, kTokens, kKind, kColumns> multiplier(args, shared,
                                                           warpgroup - 1);
    float total[kTokens / 2];
    Units<kTokens> units(args);
    bool any = false;
    while (units.Next()) {
      any = true;
      if constexpr (T::kGroups == 2) {
        if (args.rounds) RoundX<kBits, kTokens>(args, units.tile, shared);
      }
      multiplier.MultiplyTile(range, total);
      StoreTile<kTokens>(args, units, multiplier, shared, total);
      if (args.splits > 1) break;  // A tile a cluster.
    }
    if (in_cluster) SyncCluster();
    if (args.splits > 1) {
      if (any && args.splits == 2) JoinBlocks<kTokens, 2>(args, units, shared);
      if (any && args.splits == 4) JoinBlocks<kTokens, 4>(args, units, shared);
      if (any && args.splits == 8) JoinBlocks<kTokens, 8>(args, units, shared);
      SyncCluster();  // The others may still read here.
    }
  }
#endif
}

// Of the current device: asked for at each launch, as there may be several.
template <int kBits, int kTokens, WeightsOf kKind, ColumnsOf kColumns>
cudaError_t AllowSharedBytes() {
  return cudaFuncSetAttribute(
      reinterpret_cast<const void*>(
          ManyRowsKernel<kBits, kTokens, kKind, kColumns>),
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(kSharedBytes<kTokens>));
}

template <int kBits, int kTokens, WeightsOf kKind, ColumnsOf kColumns>
cudaError_t LaunchTiles(const QuantProductArgs& product,
                        const ManyRowsPlan& plan, const __nv_bfloat16* x,
                        cudaStream_t stream) {
  if (const cudaError_t e = AllowSharedBytes<kBits, kTokens, kKind, kColumns>();
      e) {
    return e;
  }
  const PackedRows& w = product.w;
  ManyRowsArgs args;
  args.product = product;
  args.copied =
      w.row_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(w.data) % 16 == 0;
  args.rounds = plan.rounds;
  args.splits = plan.splits;
  args.pairs = plan.pairs;
  args.token_tiles = static_cast<int>(plan.token_tiles);
  args.column_units = static_cast<int>(plan.column_units);
  BoxedTensor tensor;
  tensor.data = x;
  tensor.columns = tensor.pitch = x == product.x_bf16 ? w.k : RoundedColumns(w);
  tensor.rows = product.rows.bound;
  tensor.box_rows = kTokens / plan.pairs;
  CUtensorMap code_map = {}, group_map = {}, x_map;
  if (const cudaError_t e = MakeTensorMap(tensor, &x_map); e) return e;
  if (args.copied) {
    BoxedBytes bytes;
    bytes.data = w.data;
    bytes.rows = w.n * std::max(1, product.num_experts);
    bytes.row_bytes = w.row_bytes;
    bytes.box_rows = kTileColumns;
    bytes.box_bytes = kCodeBytes;
    if (const cudaError_t e = MakeByteMap(bytes, &code_map); e) return e;
    bytes.box_bytes = kGroupBytes;
    if (const cudaError_t e = MakeByteMap(bytes, &group_map); e) return e;
  }
  const int cluster = plan.splits * plan.pairs;
  return LaunchClustersAhead(
      ManyRowsKernel<kBits, kTokens, kKind, kColumns>, cluster,
      dim3(static_cast<unsigned>(cluster),
           static_cast<unsigned>(plan.clusters)),
      dim3(Tile<kTokens>::kThreads), kSharedBytes<kTokens>, stream, args,
      code_map, group_map, x_map);
}

// Of symmetric rows.
template <int kBits, int kTokens, ColumnsOf kColumns>
cudaError_t LaunchGroups(const QuantProductArgs& product,
                         const ManyRowsPlan& plan, const __nv_bfloat16* x,
                         cudaStream_t stream) {
  return product.w.group_shift == 5
             ? LaunchTiles<kBits, kTokens, WeightsOf::kNarrow, kColumns>(
                   product, plan, x, stream)
             : LaunchTiles<kBits, kTokens, WeightsOf::kWide, kColumns>(
                   product, plan, x, stream);
}

// Whether products take x in BF16 as it lies, which saves the launch that puts
// it in order: of 256 rows, but for INT8, where codes would be the most of what
// shared memory gives, and of 128 where each block has few columns.
template <int kBits, int kTokens>
constexpr bool kTakesMemory = kTokens == 128 || (kTokens == 256 && kBits == 4);
template <int kTokens>
bool TakesMemory(const QuantProductArgs& args, const ManyRowsPlan& plan) {
  return args.x_bf16 != nullptr && args.w.k % 8 == 0 && args.w.symmetric &&
         (kTokens == 256 || plan.splits >= 4);
}

template <int kBits, int kTokens>
cudaError_t LaunchKinds(const QuantProductArgs& product,
                        const ManyRowsPlan& plan, __nv_bfloat16* rounded,
                        cudaStream_t stream) {
  if constexpr (kTakesMemory<kBits, kTokens>) {
    if (TakesMemory<kTokens>(product, plan)) {
      return LaunchGroups<kBits, kTokens, ColumnsOf::kMemory>(
          product, plan, product.x_bf16, stream);
    }
  }
  if (!plan.rounds) {
    const cudaError_t error =
        RoundForProduct(product, RoundedOrder::kBySlot, rounded, stream);
    if (error != cudaSuccess) return error;
  }
  if (!product.w.symmetric) {
    return LaunchTiles<kBits, kTokens, WeightsOf::kAny, ColumnsOf::kSlots>(
        product, plan, rounded, stream);
  }
  return LaunchGroups<kBits, kTokens, ColumnsOf::kSlots>(product, plan, rounded,
                                                         stream);
}

template <int kBits>
cudaError_t LaunchManyRows(const QuantProductArgs& args,
                           const ManyRowsChoice& only, __nv_bfloat16* rounded,
                           cudaStream_t stream) {
  // Blocks of any tile fill a multiprocessor.
  if (const cudaError_t e =
          AllowSharedBytes<kBits, 256, WeightsOf::kWide, ColumnsOf::kSlots>();
      e) {
    return e;
  }
  static const ActiveClusters active(
      reinterpret_cast<const void*>(
          ManyRowsKernel<kBits, 256, WeightsOf::kWide, ColumnsOf::kSlots>),
      Tile<256>::kThreads, kSharedBytes<256>);
  ManyRowsWork work;
  work.n = args.w.n;
  work.k = args.w.k;
  work.rows = args.rows.bound;
  work.experts = args.num_experts;
  work.stage_columns = kStageBlocks<kBits> * kDepth;
  work.only = only;
  ManyRowsPlan plan = PlanManyRows(work, active.of);
  if (plan.clusters == 0) return cudaErrorInvalidValue;
  plan.rounds = plan.rounds && args.x_bf16 == nullptr;
  switch (plan.tokens) {
    case 8:
      return LaunchKinds<kBits, 8>(args, plan, rounded, stream);
    case 16:
      return LaunchKinds<kBits, 16>(args, plan, rounded, stream);
    case 64:
      return LaunchKinds<kBits, 64>(args, plan, rounded, stream);
    case 128:
      return LaunchKinds<kBits, 128>(args, plan, rounded, stream);
    default:
      return LaunchKinds<kBits, 256>(args, plan, rounded, stream);
  }
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_PRODUCT_CUH_
