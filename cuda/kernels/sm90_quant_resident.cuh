// y^T = w x^T of small dense weights by 17 to some hundreds of rows, in
// Hopper's wider products, where launches and waits are most of the time: one
// kernel, nothing of a block's share loaded twice, nor waiting for room.
//
// A block has 128 or 256 rows of w, 64 of x, or 128 of w by 128 of x in BF16,
// and a share of the columns, all of which lie in its shared memory:
//
//   w   --the copy engine--> codes as they are, from before earlier kernels end
//   x   --loads in F32, rounded--> blocks of 64 columns, of which those behind
//                                  are on their way while the first multiply
//   x   in BF16 --the copy engine--> the same
//   codes --> registers, BF16 with their scale --> wgmma, by all warpgroups
//   sums  --> into shared memory of that block of the cluster which joins them:
//             each has a share of the tile's rows of x
//
// Bound by what shared memory of other multiprocessors takes, some 12 bytes a
// cycle, by L2, which gives x in F32 once for each tile of w, and by the chain
// from codes to products of each warpgroup.

#ifndef CUDA_KERNELS_SM90_QUANT_RESIDENT_CUH_
#define CUDA_KERNELS_SM90_QUANT_RESIDENT_CUH_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <type_traits>

#include "cuda/kernels/active_clusters.h"
#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/resident_plan.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product_registers.cuh"
#include "cuda/kernels/sm90_quant_resident_parts.cuh"
#include "cuda/kernels/sm90_quant_sums.cuh"
#include "cuda/kernels/sm90_quant_tile.cuh"
#include "cuda/kernels/tensor_map.h"

namespace strata::gpu {

// Grid: splits (a cluster), tiles of rows of w, tiles of rows of x.
template <int kBits, int kTiles, int kTokens, WeightsOf kKind, bool kBf16X>
__global__ void __launch_bounds__(
    ResidentLayout<kBits, kTiles, kTokens>::kThreads,
    ResidentLayout<kBits, kTiles, kTokens>::kAtOnce)
    ResidentKernel(const __grid_constant__ ResidentArgs args,
                   const __grid_constant__ CUtensorMap code_map,
                   const __grid_constant__ CUtensorMap group_map,
                   const __grid_constant__ CUtensorMap x_map) {
#if STRATA_SM90A
  using Layout = ResidentLayout<kBits, kTiles, kTokens>;
  using X = XOnItsWay<Layout, kBf16X>;
  using Sums = ClusterSums<Layout::kThreads>;
  constexpr int kOfStage = kStageBlocks<kBits>;
  extern __shared__ char memory[];
  __shared__ uint64_t came[kMaxResidentStages], joined;
  __shared__ uint64_t x_there[kMaxResidentStages * kOfStage];
  char* const x =
      memory +
      (kSwizzleBytes - SharedAddress(memory) % kSwizzleBytes) % kSwizzleBytes;
  auto* const code =
      reinterpret_cast<uint8_t*>(x + args.stages * Layout::kXBytes);
  uint8_t* const scale = code + args.stages * Layout::kCodesBytes;
  auto* const sums =
      reinterpret_cast<float4*>(scale + args.stages * Layout::kScalesBytes);
  const QuantProductArgs& p = args.product;
  const PackedRows& w = p.w;
  const int splits = args.splits;
  const auto split = static_cast<int>(blockIdx.x);
  const int all = w.code_bytes / kCodeBytes;
  const int first_stage = all * split / splits;
  const int stages = all * (split + 1) / splits - first_stage;
  const int blocks = stages * kOfStage;
  const auto first_row = static_cast<int>(blockIdx.y) * Layout::kRowsOfW;
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) InitBarrier(&came[i], 1);
    for (int i = 0; i < blocks; ++i) {
      InitBarrier(&x_there[i], kBf16X ? 1 : Layout::kThreads / 32);
    }
    InitBarrier(&joined, 1);
    FenceBarrierInit();
    for (int i = 0; i < stages; ++i) {
      const int stage = first_stage + i;
      ArriveExpecting(&came[i], Layout::kCodesBytes + Layout::kScalesBytes);
      LoadBox(&code_map, code + i * Layout::kCodesBytes, &came[i],
              stage * kCodeBytes, first_row, 0);
      LoadBox(&group_map, scale + i * Layout::kScalesBytes, &came[i],
              w.code_bytes +
                  2 * FirstGroup<kBits>(w, stage) / kGroupBytes * kGroupBytes,
              first_row, 0);
    }
    if (splits > 1) {
      ArriveExpecting(&joined, Sums::BytesOf(Layout::kSumsBytes, splits));
    }
  }
  __syncthreads();
  if (splits > 1) ArriveAtCluster();
  WaitForEarlier();
  RowTile tile;
  if (!TileOfRows<kTokens>(nullptr, 0, p.rows.Get(),
                           static_cast<int>(blockIdx.z), tile)) {
    // What was asked for comes before the block ends.
    for (int i = 0; i < stages; ++i) Wait(&came[i], 0);
    if (splits > 1) WaitForCluster();
    return;
  }
  X on_its_way(p, tile, first_stage * kOfStage * kDepth, blocks, x, x_there);
  on_its_way.Begin(&x_map);
  ResidentMultiplier<kBits, kKind, Layout> multiplier(w, first_stage, x, code,
                                                      scale);
  Wait(&came[0], 0);
  multiplier.Load(0);
  multiplier.Unpack(0);
  on_its_way.Bring(0, 0);
  float total[kTokens / 2] = {};
#pragma unroll 1
  for (int b = 0; b < blocks; b += X::kAhead) {
#pragma unroll
    for (int i = 0; i < X::kAhead; ++i) {
      const int block = b + i, next = block + 1;
      if (block >= blocks) break;
      Wait(&x_there[block], 0);
      multiplier.Begin(block, i % 2, total);
      if (next == blocks) break;
      on_its_way.Bring(next, (i + 1) % X::kAhead);
      if (next % kOfStage == 0) Wait(&came[next / kOfStage], 0);
      multiplier.Load(next);
      WaitForProducts<1>();  // Those of the place that is unpacked to.
      multiplier.Unpack((i + 1) % 2);
    }
  }
  WaitForProducts<0>();
  KeepBehind(total);
#pragma unroll
  for (float& sum : total) sum *= kScaleOfSums;
  constexpr int kEights = kTokens / 8;
  const int64_t column = first_row + multiplier.row();
  const auto put = [&](int eight, float4 v) {
    StoreEight(p, tile, eight, column, v);
  };
  if (splits == 1) {
#pragma unroll
    for (int i = 0; i < kEights; ++i) put(i, FourOf(total, i));
    return;
  }
  const Sums cluster = {sums, &joined, static_cast<int>(threadIdx.x)};
  WaitForCluster();  // The others have begun.
  const auto join = [&](auto number) {
    constexpr int kSplits = decltype(number)::value;
    cluster.template Send<kSplits>(total, split);
    cluster.template Join<kSplits>(total, split, put);
  };
  if (splits == 2) join(std::integral_constant<int, 2>());
  if (splits == 4) join(std::integral_constant<int, 4>());
  if (splits == 8) join(std::integral_constant<int, 8>());
#endif
}

template <int kBits, int kTiles, int kTokens, WeightsOf kKind, bool kBf16X>
cudaError_t LaunchResident(const QuantProductArgs& product,
                           const ResidentPlan& plan, cudaStream_t stream) {
  using Layout = ResidentLayout<kBits, kTiles, kTokens>;
  const auto kernel = ResidentKernel<kBits, kTiles, kTokens, kKind, kBf16X>;
  // As much as there is: with less, the next kernel's block finds no room
  // beside one that needs half.
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxResidentBytes);
  if (allowed != cudaSuccess) return allowed;
  const PackedRows& w = product.w;
  ResidentArgs args;
  args.product = product;
  args.splits = plan.splits;
  args.stages = static_cast<int>(plan.stages);
  CUtensorMap code_map, group_map, x_map = {};
  if (kBf16X) {
    BoxedTensor tensor;
    tensor.data = product.x_bf16;
    tensor.columns = tensor.pitch = w.k;
    tensor.rows = product.rows.bound;
    tensor.box_rows = kTokens;
    if (const cudaError_t e = MakeTensorMap(tensor, &x_map); e) return e;
  }
  BoxedBytes bytes;
  bytes.data = w.data;
  bytes.rows = w.n;
  bytes.row_bytes = w.row_bytes;
  bytes.box_rows = Layout::kRowsOfW;
  bytes.box_bytes = kCodeBytes;
  if (const cudaError_t e = MakeByteMap(bytes, &code_map); e) return e;
  bytes.box_bytes = kGroupBytes;
  if (const cudaError_t e = MakeByteMap(bytes, &group_map); e) return e;
  return LaunchClustersAhead(kernel, plan.splits,
                             dim3(static_cast<unsigned>(plan.splits),
                                  static_cast<unsigned>(plan.column_tiles),
                                  static_cast<unsigned>(plan.token_tiles)),
                             dim3(Layout::kThreads),
                             static_cast<size_t>(plan.shared_bytes), stream,
                             args, code_map, group_map, x_map);
}

template <int kBits, int kTiles, int kTokens, bool kBf16X>
cudaError_t LaunchResidentKinds(const QuantProductArgs& args,
                                const ResidentPlan& plan, cudaStream_t stream) {
  return args.w.group_shift == 5
             ? LaunchResident<kBits, kTiles, kTokens, WeightsOf::kNarrow,
                              kBf16X>(args, plan, stream)
             : LaunchResident<kBits, kTiles, kTokens, WeightsOf::kWide, kBf16X>(
                   args, plan, stream);
}

template <int kBits, bool kBf16X>
cudaError_t LaunchResidentTiles(const QuantProductArgs& args,
                                const ResidentPlan& plan, cudaStream_t stream) {
  if constexpr (kBf16X) {
    if (plan.tokens == 128) {
      return LaunchResidentKinds<kBits, 2, 128, true>(args, plan, stream);
    }
  }
  return plan.tiles == 2
             ? LaunchResidentKinds<kBits, 2, 64, kBf16X>(args, plan, stream)
             : LaunchResidentKinds<kBits, 4, 64, kBf16X>(args, plan, stream);
}

// Clusters at once of blocks that have as much shared memory as they may.
template <int kBits, int kTiles, int kTokens, bool kBf16X>
ResidentBlock DescribeResident() {
  using Layout = ResidentLayout<kBits, kTiles, kTokens>;
  ResidentBlock block;
  block.tiles = kTiles;
  block.tokens = kTokens;
  block.stage_bytes =
      Layout::kXBytes + Layout::kCodesBytes + Layout::kScalesBytes;
  block.sums_bytes = Layout::kSumsBytes;
  block.at_once = Layout::kAtOnce;
  static const ActiveClusters active = [] {
    const auto* const kernel = reinterpret_cast<const void*>(
        ResidentKernel<kBits, kTiles, kTokens, WeightsOf::kWide, kBf16X>);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         kMaxResidentBytes);
    return ActiveClusters(kernel, Layout::kThreads, kMaxResidentBytes);
  }();
  std::copy(std::begin(active.of), std::end(active.of), block.active);
  return block;
}

template <int kBits>
ResidentPlan PlanOfResident(const QuantProductArgs& args,
                            const ResidentChoice& only) {
  ResidentWork work;
  work.n = args.w.n;
  work.rows = args.rows.bound;
  work.stages = args.w.code_bytes / kCodeBytes;
  work.blocks_of_stage = kStageBlocks<kBits>;
  work.only = only;
  const bool bf16_x = args.x_bf16 != nullptr;
  work.x_bytes = bf16_x ? 2 : 4;
  // Only x in BF16 comes in wider tiles.
  const ResidentBlock blocks[] = {
      DescribeResident<kBits, 2, 64, false>(),
      DescribeResident<kBits, 4, 64, false>(),
      bf16_x ? DescribeResident<kBits, 2, 128, true>() : ResidentBlock()};
  return PlanResident(work, blocks);
}

template <int kBits>
cudaError_t RunResident(const QuantProductArgs& args,
                        const ResidentChoice& only, cudaStream_t stream) {
  const ResidentPlan plan = PlanOfResident<kBits>(args, only);
  if (plan.splits == 0) return cudaErrorInvalidValue;
  return args.x_bf16 != nullptr
             ? LaunchResidentTiles<kBits, true>(args, plan, stream)
             : LaunchResidentTiles<kBits, false>(args, plan, stream);
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_RESIDENT_CUH_
