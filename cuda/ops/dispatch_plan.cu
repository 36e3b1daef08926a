#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/dispatch_plan.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// --- From counts of tiles ---

__device__ __forceinline__ void CountSlot(int64_t slot, int32_t e,
                                          int num_experts, int32_t* total,
                                          const FaultSink& fault) {
  if (e >= 0 && e < num_experts) {
    atomicAdd(&total[e], 1);
  } else if (e != -1) {
    fault.Report(FaultKind::kExpert, slot, e, num_experts);
  }
}

__global__ void __launch_bounds__(kBlock)
    CountTilesKernel(const DispatchPlanArgs a, int tile_slots,
                     uint16_t* count) {
  __shared__ int32_t total[kMaxPlannedExperts];
  for (int e = threadIdx.x; e < a.num_experts; e += kBlock) total[e] = 0;
  WaitForEarlier();
  LetLaterBegin();
  __syncthreads();
  const int64_t first = int64_t{blockIdx.x} * tile_slots;
  const int64_t end = min(a.tokens.Get() * a.k, first + tile_slots);
  for (int64_t s = first + threadIdx.x; s < end; s += kBlock) {
    CountSlot(s, a.expert[s], a.num_experts, total, a.fault);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < a.num_experts; e += kBlock) {
    count[int64_t{blockIdx.x} * a.num_experts + e] =
        static_cast<uint16_t>(total[e]);
  }
}

// total [E] -> start += the first row of each expert, by a warp; `writes` those
// rows as well, and their number.
__device__ __forceinline__ void StartRows(const DispatchPlanArgs& a,
                                          bool writes, const int32_t* total,
                                          int32_t* start) {
  // Each lane has as many experts that lie together.
  const int experts = a.num_experts, each = (experts + kWarp - 1) / kWarp;
  int32_t sum = 0;
#pragma unroll 1
  for (int j = 0; j < each; ++j) {
    const int e = Lane() * each + j;
    if (e < experts) sum += total[e];
  }
  int32_t up_to = sum;
#pragma unroll
  for (int d = 1; d < kWarp; d *= 2) {
    const int32_t other = __shfl_up_sync(kWholeWarp, up_to, d);
    if (Lane() >= d) up_to += other;
  }
  int32_t before = up_to - sum;
#pragma unroll 1
  for (int j = 0; j < each; ++j) {
    const int e = Lane() * each + j;
    if (e >= experts) break;
    if (writes) a.offset[e] = before;
    start[e] += before;
    before += total[e];
    if (writes && e == experts - 1) a.offset[experts] = *a.rows = before;
  }
}

// total += the counts of all tiles, start += those of the tiles before `tile`.
// Integers: their sum does not depend on the order. A thread reads kVector
// pairs of experts at a time, of up to kTilesAtOnce tiles: sums of so many are
// below 2^16, and two of them lie in a register.
constexpr int kTilesAtOnce = 8;

template <int kVector>
struct alignas(kVector * sizeof(uint32_t)) CountPairs {
  uint32_t at[kVector];
};

template <int kVector>
__device__ __forceinline__ void AddCounts(const uint16_t* count, int tiles,
                                          int experts, int tile, int32_t* total,
                                          int32_t* start) {
  using Pairs = CountPairs<kVector>;
  const auto* const pairs = reinterpret_cast<const Pairs*>(count);
  const int columns = experts / (2 * kVector);
  const int parts = max(1, kBlock / columns);
#pragma unroll 1
  for (int i = threadIdx.x; i < columns * parts; i += kBlock) {
    const int column = i % columns;
#pragma unroll 1
    for (int other = i / columns; other < tiles;
         other += parts * kTilesAtOnce) {
      Pairs all = {}, before = {}, read[kTilesAtOnce];
#pragma unroll
      for (int k = 0; k < kTilesAtOnce; ++k) {
        const int from = other + k * parts;
        read[k] = from < tiles ? pairs[from * columns + column] : Pairs{};
      }
#pragma unroll
      for (int k = 0; k < kTilesAtOnce; ++k) {
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          all.at[j] += read[k].at[j];
          before.at[j] += other + k * parts < tile ? read[k].at[j] : 0;
        }
      }
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        const int e = (column * kVector + j) * 2;
        atomicAdd(&total[e], all.at[j] & 0xffff);
        atomicAdd(&total[e + 1], all.at[j] >> 16);
        atomicAdd(&start[e], before.at[j] & 0xffff);
        atomicAdd(&start[e + 1], before.at[j] >> 16);
      }
    }
  }
}

// The same for any number of experts.
__device__ __forceinline__ void AddOddCounts(const uint16_t* count, int tiles,
                                             int experts, int tile,
                                             int32_t* total, int32_t* start) {
#pragma unroll 1
  for (int i = threadIdx.x; i < tiles * experts; i += kBlock) {
    const int32_t n = count[i];
    atomicAdd(&total[i % experts], n);
    if (i / experts < tile) atomicAdd(&start[i % experts], n);
  }
}

// The same from the experts of all slots, of which the tile has first to end.
// Experts out of range are said by the block whose they are.
__device__ __forceinline__ void CountSlots(const DispatchPlanArgs& a,
                                           int64_t slots, int64_t first,
                                           int64_t end, int32_t* total,
                                           int32_t* start) {
#pragma unroll 4
  for (int64_t s = threadIdx.x; s < slots; s += kBlock) {
    const int32_t e = a.expert[s];
    if (e >= 0 && e < a.num_experts) {
      atomicAdd(&total[e], 1);
      if (s < first) atomicAdd(&start[e], 1);
    } else if (e != -1 && s >= first && s < end) {
      a.fault.Report(FaultKind::kExpert, s, e, a.num_experts);
    }
  }
}

// A block a tile: where its slots of each expert begin, then their rows. Counts
// are there, or made by each block from all slots.
template <bool kIsCounted>
__global__ void __launch_bounds__(kBlock)
    PlaceKernel(const DispatchPlanArgs a, const SlotCounts counts) {
  __shared__ int32_t total[kMaxPlannedExperts];
  __shared__ int32_t start[kMaxPlannedExperts];
  __shared__ uint16_t of_warp[kWarpsPerBlock][kMaxPlannedExperts];
  const int experts = a.num_experts, warp = threadIdx.x / kWarp;
#pragma unroll 1
  for (int e = threadIdx.x; e < experts; e += kBlock) {
    total[e] = start[e] = 0;
#pragma unroll
    for (int w = 0; w < kWarpsPerBlock; ++w) of_warp[w][e] = 0;
  }
  WaitForEarlier();
  LetLaterBegin();
  const int64_t slots = a.tokens.Get() * a.k;
  const auto tiles =
      static_cast<int>((slots + counts.tile_slots - 1) / counts.tile_slots);
  const auto tile = static_cast<int>(blockIdx.x);
  if (tile >= tiles && tile > 0) return;
  const int64_t first = int64_t{tile} * counts.tile_slots;
  const int64_t end = min(slots, first + counts.tile_slots);
  const auto expert_of = [&](int64_t s) {
    const int32_t e = s < end ? a.expert[s] : -1;
    return e < experts ? e : -1;
  };
  int32_t e = expert_of(first + threadIdx.x);
  __syncthreads();
  if constexpr (!kIsCounted) {
    CountSlots(a, slots, first, end, total, start);
  } else if (experts % 4 == 0) {
    AddCounts<2>(counts.count, tiles, experts, tile, total, start);
  } else {
    AddOddCounts(counts.count, tiles, experts, tile, total, start);
  }
#pragma unroll 1
  for (int64_t begin = first;; begin += kBlock) {
    const int64_t s = begin + threadIdx.x;
    const unsigned same = __match_any_sync(kWholeWarp, e);
    const int before = __popc(same & ((1u << Lane()) - 1));
    if (e >= 0 && before == 0) {
      of_warp[warp][e] = static_cast<uint16_t>(__popc(same));
    }
    __syncthreads();
    if (begin == first) {
      if (warp == 0) StartRows(a, tile == 0, total, start);
      __syncthreads();
    }
    if (e >= 0) {
      int32_t row = start[e] + before;
#pragma unroll
      for (int w = 0; w < kWarpsPerBlock - 1; ++w) {
        row += w < warp ? of_warp[w][e] : 0;
      }
      a.slot_row[s] = row;
      a.row_slot[row] = static_cast<int32_t>(s);
    } else if (s < end) {
      a.slot_row[s] = -1;
    }
    if (begin + kBlock >= end) break;
    e = expert_of(s + kBlock);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < experts; i += kBlock) {
#pragma unroll 1
      for (int w = 0; w < kWarpsPerBlock; ++w) {
        start[i] += of_warp[w][i];
        of_warp[w][i] = 0;
      }
    }
    __syncthreads();
  }
}

// --- Many slots: a counting sort in three launches ---
//
//   count   [chunks, E]   slots of each expert in a chunk of 1024
//   start   [chunks, E]   the first row of a chunk's slots of an expert
//   place                 each chunk gives its slots their rows, in order

constexpr int kChunk = 1024;  // Slots, and threads.
constexpr int kChunkWarps = kChunk / kWarp;

__global__ void __launch_bounds__(kChunk)
    CountKernel(Extent tokens, int64_t k, int num_experts,
                const int32_t* expert, int32_t* count, FaultSink fault) {
  __shared__ int32_t total[kMaxPlannedExperts];
  const int64_t slots = tokens.Get() * k;
  for (int e = threadIdx.x; e < num_experts; e += kChunk) total[e] = 0;
  __syncthreads();
  const int64_t s = int64_t{blockIdx.x} * kChunk + threadIdx.x;
  if (s < slots) {
    CountSlot(s, expert[s], num_experts, total, fault);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < num_experts; e += kChunk) {
    count[int64_t{blockIdx.x} * num_experts + e] = total[e];
  }
}

// By one block, a thread an expert: counts become starts.
__global__ void __launch_bounds__(kMaxPlannedExperts)
    StartKernel(int chunks, int num_experts, int32_t* count, int32_t* offset,
                int32_t* rows) {
  __shared__ int32_t up_to[kMaxPlannedExperts];
  const int e = threadIdx.x;
  int32_t total = 0;
  if (e < num_experts) {
    for (int c = 0; c < chunks; ++c) total += count[c * num_experts + e];
  }
  up_to[e] = total;
  __syncthreads();
  for (int d = 1; d < kMaxPlannedExperts; d *= 2) {
    const int32_t before = e >= d ? up_to[e - d] : 0;
    __syncthreads();
    up_to[e] += before;
    __syncthreads();
  }
  if (e == 0) offset[0] = 0;
  if (e >= num_experts) return;
  offset[e + 1] = up_to[e];
  if (e == num_experts - 1) *rows = up_to[e];
  int32_t row = up_to[e] - total;
  for (int c = 0; c < chunks; ++c) {
    const int32_t here = count[c * num_experts + e];
    count[c * num_experts + e] = row;
    row += here;
  }
}

// A slot's row is its expert's start in this chunk, plus the slots of that
// expert before it: in earlier warps, and in earlier lanes of its own.
__global__ void __launch_bounds__(kChunk)
    PlaceChunkKernel(Extent tokens, int64_t k, int num_experts,
                     const int32_t* expert, const int32_t* start,
                     int32_t* row_slot, int32_t* slot_row) {
  // [kChunkWarps, num_experts]; a warp's counts are at most 32.
  extern __shared__ uint8_t of_warp[];
  const int64_t slots = tokens.Get() * k;
  const int warp = threadIdx.x / kWarp;
  for (int i = threadIdx.x; i < kChunkWarps * num_experts; i += kChunk) {
    of_warp[i] = 0;
  }
  __syncthreads();
  const int64_t s = int64_t{blockIdx.x} * kChunk + threadIdx.x;
  int32_t e = s < slots ? expert[s] : -1;
  if (e >= num_experts) e = -1;
  const unsigned same = __match_any_sync(kWholeWarp, e);
  const int before = __popc(same & ((1u << Lane()) - 1));
  if (e >= 0 && before == 0) {
    of_warp[warp * num_experts + e] = static_cast<uint8_t>(__popc(same));
  }
  __syncthreads();
  if (s >= slots) return;
  if (e < 0) {
    slot_row[s] = -1;
    return;
  }
  int32_t row = start[int64_t{blockIdx.x} * num_experts + e] + before;
  for (int w = 0; w < warp; ++w) row += of_warp[w * num_experts + e];
  slot_row[s] = row;
  row_slot[row] = static_cast<int32_t>(s);
}

// So few that each block counts them all.
constexpr int64_t kMaxFewSlots = 4096;

int64_t MaxSlots(const DispatchPlanArgs& args) {
  return args.tokens.bound * args.k;
}
// A tile a multiprocessor, as each block reads all counts, of up to 1024 slots,
// which it places kBlock at a time.
SlotCounts OwnCounts(const DispatchPlanArgs& args) {
  constexpr int64_t kTiles = 132, kMaxTimes = 4;
  const int64_t times = std::clamp<int64_t>(
      CeilDiv(MaxSlots(args), kTiles * kBlock), 1, kMaxTimes);
  SlotCounts counts;
  counts.tile_slots = static_cast<int>(times) * kBlock;
  counts.tiles =
      std::max<int64_t>(1, CeilDiv(MaxSlots(args), counts.tile_slots));
  counts.count = reinterpret_cast<const uint16_t*>(args.scratch);
  return counts;
}
int64_t Chunks(const DispatchPlanArgs& args) {
  return std::max<int64_t>(1, CeilDiv(MaxSlots(args), kChunk));
}

}  // namespace

int64_t DispatchPlanScratch(const DispatchPlanArgs& args) {
  const SlotCounts counts = OwnCounts(args);
  return HasPlanFromCounts(counts) ? CeilDiv(counts.tiles * args.num_experts, 2)
                                   : Chunks(args) * args.num_experts;
}

cudaError_t PlanDispatchFrom(const SlotCounts& counts,
                             const DispatchPlanArgs& args,
                             cudaStream_t stream) {
  // Blocks that begin ahead all go to the few processors that are free then,
  // and get into each other's way: only as many as have one each.
  constexpr int64_t kMaxAhead = 16;
  const auto blocks = static_cast<unsigned>(counts.tiles);
  if (counts.tiles > kMaxAhead) {
    PlaceKernel<true><<<blocks, kBlock, 0, stream>>>(args, counts);
    return cudaGetLastError();
  }
  return LaunchAhead(PlaceKernel<true>, blocks, kBlock, /*shared=*/0, stream,
                     args, counts);
}

cudaError_t PlanDispatch(const DispatchPlanArgs& args, cudaStream_t stream) {
  const SlotCounts counts = OwnCounts(args);
  if (MaxSlots(args) <= kMaxFewSlots) {
    return LaunchAhead(PlaceKernel<false>, static_cast<unsigned>(counts.tiles),
                       kBlock, /*shared=*/0, stream, args, counts);
  }
  if (HasPlanFromCounts(counts)) {
    const cudaError_t e = LaunchAhead(
        CountTilesKernel, static_cast<unsigned>(counts.tiles), kBlock,
        /*shared=*/0, stream, args, counts.tile_slots,
        reinterpret_cast<uint16_t*>(args.scratch));
    if (e != cudaSuccess) return e;
    return PlanDispatchFrom(counts, args, stream);
  }
  const auto chunks = static_cast<unsigned>(Chunks(args));
  CountKernel<<<chunks, kChunk, 0, stream>>>(args.tokens, args.k,
                                             args.num_experts, args.expert,
                                             args.scratch, args.fault);
  StartKernel<<<1, kMaxPlannedExperts, 0, stream>>>(
      static_cast<int>(chunks), args.num_experts, args.scratch, args.offset,
      args.rows);
  PlaceChunkKernel<<<chunks, kChunk, kChunkWarps * args.num_experts, stream>>>(
      args.tokens, args.k, args.num_experts, args.expert, args.scratch,
      args.row_slot, args.slot_row);
  return cudaGetLastError();
}

}  // namespace strata::gpu
