// y^T = w x^T of small dense weights by 9 to some hundreds of rows, in Hopper's
// wider products, where launches and waits are most of the time: one kernel,
// for two weights too, nothing of a block's share loaded twice.
//
// A block has 128 or 256 rows of w, 64 of x, or of x in BF16 128 of w by 128,
// in INT4 128, 192 or 256 by 32 too, and a share of the columns, all of which
// lie in its shared memory:
//
//   w   --the copy engine--> codes as they are, from before earlier kernels end
//   x   --loads in F32, rounded--> blocks of 64 columns, of which those behind
//                                  are on their way while the first multiply
//   x   in BF16 --the copy engine--> the same
//   codes --> registers, BF16 with their scale --> wgmma, by all warpgroups
//   sums  --> into shared memory of that block of the cluster which joins them:
//             each, or the first of them, has a share of the tile's rows of x
//
// Where that finds no room, of INT4 by x in BF16, a block has 192 rows of w by
// 64 of x or 128 by 128, and a warp more, which asks for codes and x as places
// have been read (Keeps::kRing).
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
#include <vector>

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

// Threads of a block: those that multiply, and where places are used again a
// warp that asks for what has room.
template <typename Layout, Keeps kKeeps>
constexpr int kResidentThreads = Layout::kThreads +
                                 (kKeeps == Keeps::kRing ? 32 : 0);

// Blocks that add to what they make: those that batches of up to 64 rows have,
// as others' code would be a quarter longer for it.
template <int kTokens, bool kBf16X, Keeps kKeeps>
constexpr bool kAddsTo = kTokens <= 64 && kBf16X&& kKeeps == Keeps::kAll;

// Grid: splits (a cluster), tiles of rows of w, of both, tiles of rows of x.
template <int kBits, int kTiles, int kTokens, WeightsOf kKind, bool kBf16X,
          Keeps kKeeps>
__global__ void __launch_bounds__(
    kResidentThreads<ResidentLayout<kBits, kTiles, kTokens>, kKeeps>,
    ResidentLayout<kBits, kTiles, kTokens>::kAtOnce)
    ResidentKernel(const __grid_constant__ ResidentArgs args,
                   const __grid_constant__ CUtensorMap code_map,
                   const __grid_constant__ CUtensorMap group_map,
                   const __grid_constant__ CUtensorMap second_code_map,
                   const __grid_constant__ CUtensorMap second_group_map,
                   const __grid_constant__ CUtensorMap x_map) {
#if STRATA_SM90A
  constexpr bool kRing = kKeeps == Keeps::kRing;
  using Layout = ResidentLayout<kBits, kTiles, kTokens>;
  using X = XOnItsWay<Layout, kBf16X>;
  using Sums = ClusterSums<Layout::kThreads>;
  constexpr int kOfStage = kStageBlocks<kBits>;
  constexpr int kAsks = kRing ? Layout::kThreads : 0;
  extern __shared__ char memory[];
  __shared__ ResidentBarriers barriers;
  char* const x =
      memory +
      (kSwizzleBytes - SharedAddress(memory) % kSwizzleBytes) % kSwizzleBytes;
  auto* const code =
      reinterpret_cast<uint8_t*>(x + args.blocks * Layout::kBlockBytes);
  uint8_t* const scale = code + args.stages * Layout::kCodesBytes;
  auto* const sums =
      reinterpret_cast<float4*>(scale + args.stages * Layout::kScalesBytes);
  const QuantProductArgs& p = args.product;
  const int splits = args.splits;
  const ResidentShare<kBits, Layout> share(args);
  const CodeMaps maps = share.is_second
                            ? CodeMaps{&second_code_map, &second_group_map}
                            : CodeMaps{&code_map, &group_map};
  ResidentCopies<kBits, Layout> copies(args, share, maps, x, code, scale,
                                       barriers);
  if (threadIdx.x == kAsks) {
    for (int i = 0; i < args.stages; ++i) {
      InitBarrier(&barriers.codes_there[i], 1);
      InitBarrier(&barriers.codes_read[i], Layout::kThreads / 32);
    }
    for (int i = 0; i < args.blocks; ++i) {
      InitBarrier(&barriers.x_there[i], kBf16X ? 1 : Layout::kThreads / 32);
      InitBarrier(&barriers.x_read[i], kTiles);
    }
    InitBarrier(&barriers.joined, 1);
    FenceBarrierInit();
    if (kBf16X) PrefetchMap(&x_map);  // Which is used behind the wait.
    copies.Begin();
    if (splits > 1 && share.split < BlocksThatJoin(splits, kTokens / 8)) {
      ArriveExpecting(
          &barriers.joined,
          static_cast<int>(BytesToJoin(Layout::kSumsBytes, splits, kTokens)));
    }
  }
  __syncthreads();
  if (splits > 1) ArriveAtCluster();
  WaitForEarlier();
  RowTile tile;
  if (!TileOfRows<kTokens>(nullptr, 0, p.rows.Get(),
                           static_cast<int>(blockIdx.z), tile)) {
    // What was asked for comes before the block ends.
    for (int i = 0; i < min(share.stages, args.stages); ++i) {
      Wait(&barriers.codes_there[i], 0);
    }
    if (splits > 1) WaitForCluster();
    return;
  }
  if (kBf16X && threadIdx.x / 32 == kAsks / 32) {
    if (threadIdx.x == kAsks) copies.template Bring<kRing>(tile, &x_map);
    __syncwarp();
  }
  if (kRing && threadIdx.x >= kAsks) {
    LetLaterBegin();
    if (splits > 1) WaitForCluster();
    return;
  }
  X on_its_way(p, tile, share.first_stage * kOfStage * kDepth, share.blocks, x,
               barriers.x_there);
  on_its_way.Begin();
  ResidentMultiplier<kBits, kKind, Layout> multiplier(p.w, share.first_stage, x,
                                                      code, scale);
  const int blocks = share.blocks;
  Turn x_place, stage;
  // Codes of `block` to registers, and that a ring's are read.
  const auto load = [&](int block) {
    const int of_stage = block % kOfStage;
    if (of_stage == 0) {
      if (kRing) stage.Next(args.stages);
      Wait(&barriers.codes_there[kRing ? stage.at : block / kOfStage],
           stage.phase);
    }
    multiplier.Load(block, of_stage, kRing ? stage.at : block / kOfStage);
    if (kRing && of_stage == kOfStage - 1) {
      __syncwarp();
      if (threadIdx.x % 32 == 0) Arrive(&barriers.codes_read[stage.at]);
    }
  };
  Wait(&barriers.codes_there[0], 0);
  multiplier.Load(0, 0, 0);
  multiplier.Unpack(0);
  on_its_way.Bring(0, 0);
  float total[kTokens / 2] = {};
  int before = 0;
#pragma unroll 1
  for (int b = 0; b < blocks; b += X::kAhead) {
#pragma unroll
    for (int i = 0; i < X::kAhead; ++i) {
      const int block = b + i, next = block + 1;
      if (block >= blocks) break;
      const int place = kRing ? x_place.at : block;
      Wait(&barriers.x_there[place], x_place.phase);
      multiplier.Begin(place, i % 2, total);
      if (next == blocks) break;
      on_its_way.Bring(next, (i + 1) % X::kAhead);
      load(next);
      WaitForProducts<1>();  // Those of the place that is unpacked to.
      if constexpr (kRing) {
        if (block > 0 && threadIdx.x % kWarpgroup == 0) {
          Arrive(&barriers.x_read[before]);
        }
        before = place;
        x_place.Next(args.blocks);
      }
      multiplier.Unpack((i + 1) % 2);
    }
  }
  WaitForProducts<0>();
  KeepBehind(total);
#pragma unroll
  for (float& sum : total) sum *= kScaleOfSums;
  constexpr int kEights = kTokens / 8;
  const int64_t column = share.first_row + multiplier.row();
  float* const y = share.is_second ? args.more.y : p.y;
  const int64_t n = share.is_second ? args.more.w.n : p.w.n;
  const float* const add = args.more.add;
  constexpr bool kMayAdd = kAddsTo<kTokens, kBf16X, kKeeps>;
  const auto put = [&](int eight, float4 v, const float4& more) {
    if (kMayAdd) v = {v.x + more.x, v.y + more.y, v.z + more.z, v.w + more.w};
    StoreFour(y, n, tile, RowOfEight(eight), column, v);
  };
  const auto addend = [&](int eight) {
    return !kMayAdd || add == nullptr
               ? float4{0, 0, 0, 0}
               : LoadFour(add, n, tile, RowOfEight(eight), column);
  };
  if (splits == 1) {
#pragma unroll
    for (int i = 0; i < kEights; ++i) put(i, FourOf(total, i), addend(i));
    return;
  }
  const Sums cluster = {sums, &barriers.joined, static_cast<int>(threadIdx.x)};
  WaitForCluster();  // The others have begun.
  const auto join = [&](auto number) {
    constexpr int kSplits = decltype(number)::value;
    constexpr int kJoin = BlocksThatJoin(kSplits, kEights);
    constexpr int kShare = kEights / kJoin;
    cluster.template Send<kSplits>(total, share.split);
    if (kJoin < kSplits && share.split >= kJoin) return;
    float4 more[kShare];  // On their way while others' sums come.
#pragma unroll
    for (int i = 0; i < kShare; ++i) more[i] = addend(share.split * kShare + i);
    cluster.template Join<kSplits>(total, share.split,
                                   [&](int i, const float4& v) {
                                     put(share.split * kShare + i, v, more[i]);
                                   });
  };
  if (splits == 2) join(std::integral_constant<int, 2>());
  if (splits == 4) join(std::integral_constant<int, 4>());
  if (splits == 8) join(std::integral_constant<int, 8>());
#endif
}

// Boxes of a block's codes, and of their scales.
template <typename Layout>
cudaError_t MapWeights(const PackedRows& w, CUtensorMap* codes,
                       CUtensorMap* groups) {
  BoxedBytes bytes;
  bytes.data = w.data;
  bytes.rows = w.n;
  bytes.row_bytes = w.row_bytes;
  bytes.box_rows = Layout::kRowsOfW;
  bytes.box_bytes = kCodeBytes;
  if (const cudaError_t e = MakeByteMap(bytes, codes); e) return e;
  bytes.box_bytes = kGroupBytes;
  return MakeByteMap(bytes, groups);
}

template <int kBits, int kTiles, int kTokens, WeightsOf kKind, bool kBf16X,
          Keeps kKeeps>
cudaError_t LaunchResident(const QuantProductArgs& product,
                           const ResidentMore& more, const ResidentPlan& plan,
                           cudaStream_t stream) {
  using Layout = ResidentLayout<kBits, kTiles, kTokens>;
  const auto kernel =
      ResidentKernel<kBits, kTiles, kTokens, kKind, kBf16X, kKeeps>;
  // As much as there is: with less, the next kernel's block finds no room
  // beside one that needs half.
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxResidentBytes);
  if (allowed != cudaSuccess) return allowed;
  const PackedRows& w = product.w;
  ResidentArgs args;
  args.product = product;
  args.more = more;
  args.first_tiles = static_cast<int>((w.n - 1) / Layout::kRowsOfW + 1);
  args.splits = plan.splits;
  args.stages = plan.code_places;
  args.blocks = plan.x_places;
  CUtensorMap code_map, group_map, x_map = {};
  CUtensorMap second_code_map = {}, second_group_map = {};
  if (kBf16X) {
    BoxedTensor tensor;
    tensor.data = product.x_bf16;
    tensor.columns = tensor.pitch = w.k;
    tensor.rows = product.rows.bound;
    tensor.box_rows = kTokens;
    if (const cudaError_t e = MakeTensorMap(tensor, &x_map); e) return e;
  }
  if (const cudaError_t e = MapWeights<Layout>(w, &code_map, &group_map); e) {
    return e;
  }
  if (more.w.data != nullptr) {
    if (const cudaError_t e =
            MapWeights<Layout>(more.w, &second_code_map, &second_group_map)) {
      return e;
    }
  }
  return LaunchClustersAhead(kernel, plan.splits,
                             dim3(static_cast<unsigned>(plan.splits),
                                  static_cast<unsigned>(plan.column_tiles),
                                  static_cast<unsigned>(plan.token_tiles)),
                             dim3(kResidentThreads<Layout, kKeeps>),
                             static_cast<size_t>(plan.shared_bytes), stream,
                             args, code_map, group_map, second_code_map,
                             second_group_map, x_map);
}

template <int kBits, int kTiles, int kTokens, bool kBf16X,
          Keeps kKeeps = Keeps::kAll>
cudaError_t LaunchResidentKinds(const QuantProductArgs& args,
                                const ResidentMore& more,
                                const ResidentPlan& plan, cudaStream_t stream) {
  return args.w.group_shift == 5
             ? LaunchResident<kBits, kTiles, kTokens, WeightsOf::kNarrow,
                              kBf16X, kKeeps>(args, more, plan, stream)
             : LaunchResident<kBits, kTiles, kTokens, WeightsOf::kWide, kBf16X,
                              kKeeps>(args, more, plan, stream);
}

template <int kBits, bool kBf16X>
cudaError_t LaunchResidentTiles(const QuantProductArgs& args,
                                const ResidentMore& more,
                                const ResidentPlan& plan, cudaStream_t stream) {
  if constexpr (kBf16X) {
    const bool wide = plan.tokens == 128;
    if constexpr (kBits == 4) {
      if (plan.tokens == 32) {
        return plan.tiles == 2 ? LaunchResidentKinds<kBits, 2, 32, true>(
                                     args, more, plan, stream)
               : plan.tiles == 3 ? LaunchResidentKinds<kBits, 3, 32, true>(
                                       args, more, plan, stream)
                                 : LaunchResidentKinds<kBits, 4, 32, true>(
                                       args, more, plan, stream);
      }
      constexpr Keeps kRing = Keeps::kRing;
      if (plan.keeps == kRing) {
        return wide ? LaunchResidentKinds<kBits, 2, 128, true, kRing>(
                          args, more, plan, stream)
                    : LaunchResidentKinds<kBits, 3, 64, true, kRing>(
                          args, more, plan, stream);
      }
    }
    if (wide) {
      return LaunchResidentKinds<kBits, 2, 128, true>(args, more, plan, stream);
    }
  }
  return plan.tiles == 2 ? LaunchResidentKinds<kBits, 2, 64, kBf16X>(
                               args, more, plan, stream)
                         : LaunchResidentKinds<kBits, 4, 64, kBf16X>(
                               args, more, plan, stream);
}

// Clusters at once of blocks that have as much shared memory as they may.
template <int kBits, int kTiles, int kTokens, bool kBf16X,
          Keeps kKeeps = Keeps::kAll>
ResidentBlock DescribeResident() {
  using Layout = ResidentLayout<kBits, kTiles, kTokens>;
  ResidentBlock block;
  block.tiles = kTiles;
  block.tokens = kTokens;
  block.keeps = kKeeps;
  block.x_bytes = Layout::kBlockBytes;
  block.codes_bytes = Layout::kCodesBytes + Layout::kScalesBytes;
  block.sums_bytes = Layout::kSumsBytes;
  block.at_once = Layout::kAtOnce;
  static const ActiveClusters active = [] {
    const auto* const kernel = reinterpret_cast<const void*>(
        ResidentKernel<kBits, kTiles, kTokens, WeightsOf::kWide, kBf16X,
                       kKeeps>);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         kMaxResidentBytes);
    return ActiveClusters(kernel, kResidentThreads<Layout, kKeeps>,
                          kMaxResidentBytes);
  }();
  std::copy(std::begin(active.of), std::end(active.of), block.active);
  return block;
}

template <int kBits>
ResidentPlan PlanOfResident(const QuantProductArgs& args,
                            const ResidentMore& more,
                            const ResidentChoice& only) {
  ResidentWork work;
  work.n = args.w.n;
  work.second_n = more.w.data != nullptr ? more.w.n : 0;
  work.rows = args.rows.bound;
  work.stages = args.w.code_bytes / kCodeBytes;
  work.blocks_of_stage = kStageBlocks<kBits>;
  work.only = only;
  if (args.x_bf16 == nullptr) {
    if (more.add != nullptr) return {};
    return PlanResident(work, {DescribeResident<kBits, 2, 64, false>(),
                               DescribeResident<kBits, 4, 64, false>()});
  }
  work.x_bytes = 2;
  std::vector<ResidentBlock> blocks = {DescribeResident<kBits, 2, 64, true>(),
                                       DescribeResident<kBits, 4, 64, true>()};
  if constexpr (kBits == 4) {  // Of INT8 these and rings were not timed.
    blocks.push_back(DescribeResident<kBits, 2, 32, true>());
    blocks.push_back(DescribeResident<kBits, 3, 32, true>());
    blocks.push_back(DescribeResident<kBits, 4, 32, true>());
  }
  if (more.add != nullptr) return PlanResident(work, blocks);
  blocks.push_back(DescribeResident<kBits, 2, 128, true>());
  if constexpr (kBits == 4) {
    blocks.push_back(DescribeResident<kBits, 3, 64, true, Keeps::kRing>());
    blocks.push_back(DescribeResident<kBits, 2, 128, true, Keeps::kRing>());
  }
  return PlanResident(work, blocks);
}

template <int kBits>
cudaError_t RunResident(const QuantProductArgs& args, const ResidentMore& more,
                        const ResidentChoice& only, cudaStream_t stream) {
  const ResidentPlan plan = PlanOfResident<kBits>(args, more, only);
  if (plan.splits == 0) return cudaErrorInvalidValue;
  return args.x_bf16 != nullptr
             ? LaunchResidentTiles<kBits, true>(args, more, plan, stream)
             : LaunchResidentTiles<kBits, false>(args, more, plan, stream);
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_RESIDENT_CUH_
