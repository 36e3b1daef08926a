#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/decode/choose_experts.cuh"
#include "cuda/ops/decode/few_experts.h"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/decode/sm90_few_experts.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

// A block a multiprocessor, whose memory is never idle from the choice to the
// end: weights come by the copy engine into a ring of stages, 16 rows of up to
// 1024 columns each, with the tokens' rows that they meet.
//
//   warps 0 to 7   multiply: each its columns of a stage; sums of the warps are
//                  added up behind a tile's last stage
//   warp 8         asks for weights, as far ahead as the ring goes
//   warp 9         asks for tokens' rows
//
// Tiles are first those of hidden, then those of y. Blocks wait for each other
// in between, but only for the tokens' rows: the ring is full of weights when
// the last hidden one is written, and the shared expert comes first.

namespace strata::gpu {
namespace {

constexpr int kHalf = kTileRows / 2;
constexpr int kWarps = kWarpsPerBlock;  // That multiply.
constexpr int kThreads = (kWarps + 2) * kWarp;
constexpr int kSegment = 1024;  // Columns of a stage.
// Of a row of a stage: 64 more, so that rows begin at other banks.
constexpr int kRowBytes = kSegment * 2 + 64;
constexpr int kMaxStages = 6;
// Of all stages: with what else a block has, next to the first blocks of the
// kernel behind this one.
constexpr int kRingBytes = 180 << 10;
constexpr int kMultipliers = 1;  // Barrier of the warps that multiply.

#if STRATA_SM90A

struct Shared {
  uint64_t full[kMaxStages], empty[kMaxStages];
  uint64_t hidden_done;  // This block's tiles of hidden are written.
  ChosenExperts chosen;
  float sums[2][kWarps][kTileRows][kTileTokens];
};

// What a stage holds: rows of a weight from a column on, those of `expert`, an
// index of the active ones, or of the shared one.
struct Stage {
  bool is_hidden;
  int tile;    // Of its kind.
  int expert;  // -1: the shared one.
  int column, columns;
  bool is_last;  // Of its tile.
};

// Calls run(stage) for all stages of a block, in the order of all its warps.
template <typename Run>
__device__ __forceinline__ void ForHidden(const FewExpertsArgs& a, int active,
                                          Run run) {
  const int of_expert = static_cast<int>(a.width) / kHalf;
  const int d = static_cast<int>(a.d);
  for (int tile = blockIdx.x; tile < active * of_expert; tile += gridDim.x) {
    for (int c = 0; c < d; c += kSegment) {
      run(Stage{true, tile, tile / of_expert, c, min(kSegment, d - c),
                c + kSegment >= d});
    }
  }
}
template <typename Run>
__device__ __forceinline__ void ForOutput(const FewExpertsArgs& a, int active,
                                          Run run) {
  const int width = static_cast<int>(a.width);
  const int shared_width = static_cast<int>(a.shared_width);
  const int tiles = static_cast<int>(a.d) / kTileRows;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    for (int c = 0; c < shared_width; c += kSegment) {
      run(Stage{false, tile, -1, c, min(kSegment, shared_width - c),
                active == 0 && c + kSegment >= shared_width});
    }
    for (int e = 0; e < active; ++e) {
      for (int c = 0; c < width; c += kSegment) {
        run(Stage{false, tile, e, c, min(kSegment, width - c),
                  e == active - 1 && c + kSegment >= width});
      }
    }
  }
}

// Which stage of the ring is next, and in which round.
struct Turn {
  int stages, at = 0;
  uint32_t round = 0;
  __device__ __forceinline__ void Next() {
    if (++at == stages) {
      at = 0;
      ++round;
    }
  }
};

// By warp 8: a lane a row.
__device__ __forceinline__ void BringWeights(const FewExpertsArgs& a,
                                             const Stage& stage, int row,
                                             Shared& shared, char* to,
                                             uint64_t* full) {
  if (Lane() == 0) ArriveExpecting(full, kTileRows * stage.columns * 2);
  __syncwarp();
  if (row >= kTileRows) return;
  const PackedRows* w = &a.shared_down;
  int64_t at = int64_t{stage.tile} * kTileRows + row;
  if (stage.is_hidden) {
    const int of_expert = static_cast<int>(a.width) / kHalf;
    w = &a.gate_up;
    at = int64_t{shared.chosen.active[stage.expert]} * 2 * a.width +
         (stage.tile - stage.expert * of_expert) * kHalf + row % kHalf +
         (row < kHalf ? 0 : a.width);
  } else if (stage.expert >= 0) {
    w = &a.down;
    at += int64_t{shared.chosen.active[stage.expert]} * a.d;
  }
  LoadBytes(w->data + at * w->row_bytes + stage.column * 2,
            to + row * kRowBytes, stage.columns * 2, full);
}

// By warp 9: a lane a token. The shared expert's rows are F32, and come by
// themselves.
__device__ __forceinline__ void BringRows(const FewExpertsArgs& a,
                                          const Stage& stage, Shared& shared,
                                          char* to, uint64_t* full) {
  const int token = Lane();
  const int slot = stage.expert >= 0 && token < kTileTokens
                       ? shared.chosen.pick[stage.expert][token]
                       : -1;
  const int rows = __popc(__ballot_sync(kWholeWarp, slot >= 0));
  if (token == 0) ArriveExpecting(full, rows * stage.columns * 2);
  __syncwarp();
  if (slot < 0) return;
  const __nv_bfloat16* const from =
      stage.is_hidden ? a.x + token * a.d
                      : a.hidden + (token * a.choice.k + slot) * a.width;
  LoadBytes(from + stage.column, to + (kTileRows + token) * kRowBytes,
            stage.columns * 2, full);
}

// Waits for all blocks' hidden. By a thread.
__device__ __forceinline__ void WaitForBlocks(uint64_t* arrived) {
  __threadfence();
  auto* const counter = reinterpret_cast<unsigned long long*>(arrived);
  const unsigned long long ticket = atomicAdd(counter, 1);
  const unsigned long long all = (ticket / gridDim.x + 1) * gridDim.x;
  unsigned long long now;
  do {
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];"
                 : "=l"(now)
                 : "l"(counter)
                 : "memory");
  } while (now < all);
  asm volatile("fence.proxy.async;" ::: "memory");
}

// A warp's columns of a stage: d += of 16 rows by the tokens'.
__device__ __forceinline__ void MultiplyStage(const FewExpertsArgs& a,
                                              const Stage& stage, int tokens,
                                              const Shared& shared,
                                              const char* from, float (&d)[4]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4, c = Lane() % 4;
  const int units = stage.columns / Bf16Tile::kColumns;
  const int begin = units * warp / kWarps, end = units * (warp + 1) / kWarps;
  const auto* const upper =
      reinterpret_cast<const uint4*>(from + g * kRowBytes) + c;
  const auto* const lower =
      reinterpret_cast<const uint4*>(from + (g + kHalf) * kRowBytes) + c;
  const auto* const x =
      reinterpret_cast<const uint4*>(from + (kTileRows + g) * kRowBytes) + c;
  const bool there =
      stage.expert >= 0 ? shared.chosen.pick[stage.expert][g] >= 0 : g < tokens;
  const auto* const wide = reinterpret_cast<const float4*>(
      a.shared_hidden + g * a.shared_width + stage.column + c * 8);
#pragma unroll 4
  for (int u = begin; u < end; ++u) {
    uint4 b[1] = {{0, 0, 0, 0}};
    if (there && stage.expert >= 0) {
      b[0] = x[u * 4];
    } else if (there) {
      const float4 low = wide[u * 8], high = wide[u * 8 + 1];
      const float element[8] = {low.x,  low.y,  low.z,  low.w,
                                high.x, high.y, high.z, high.w};
      b[0] = Pack(element);
    }
    const Bf16Tile::Unit unit = {upper[u * 4], lower[u * 4]};
    Bf16Tile::Multiply(unit, b, d);
  }
}

// A thread's element of a tile, where the sums of all warps lie.
__device__ __forceinline__ void StoreResult(
    const FewExpertsArgs& a, const Stage& stage, int tokens,
    const Shared& shared, const float (&sums)[kWarps][kTileRows][kTileTokens]) {
  const int columns = stage.is_hidden ? kHalf : kTileRows;
  const int column = static_cast<int>(threadIdx.x) % columns;
  const int token = static_cast<int>(threadIdx.x) / columns;
  if (token >= tokens) return;
  if (!stage.is_hidden) {
    const int64_t at = token * a.d + stage.tile * kTileRows + column;
    a.y[at] = a.h[at] + SumOfWarps(sums, column, token);
    return;
  }
  const int slot = shared.chosen.pick[stage.expert][token];
  if (slot < 0) return;
  const int of_expert = static_cast<int>(a.width) / kHalf;
  const float gate = SumOfWarps(sums, column, token);
  const float up = SumOfWarps(sums, column + kHalf, token);
  const int at = token * a.choice.k + slot;
  a.hidden[at * a.width + (stage.tile - stage.expert * of_expert) * kHalf +
           column] = __float2bfloat16_rn(shared.chosen.weight[at] * gate *
                                         SigmoidOf(gate) * up);
}

#endif  // STRATA_SM90A

__global__ void __launch_bounds__(kThreads, 1)
    StreamKernel(const __grid_constant__ FewExpertsArgs a, int stages) {
#if STRATA_SM90A
  extern __shared__ uint4 memory[];
  __shared__ Shared shared;
  char* const ring = reinterpret_cast<char*>(memory);
  const int stage_bytes =
      (kTileRows + static_cast<int>(a.choice.tokens.bound)) * kRowBytes;
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) {
      InitBarrier(&shared.full[i], 2);
      InitBarrier(&shared.empty[i], kWarps);
    }
    InitBarrier(&shared.hidden_done, kWarps);
    FenceBarrierInit();
  }
  WaitForEarlier();
  LetLaterBegin();
  Choose(a.choice, shared.chosen);
  if (blockIdx.x == 0) StoreChoice(a.choice, shared.chosen);
  const int active = shared.chosen.num_active;
  const int tokens = shared.chosen.num_slots / a.choice.k;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  Turn turn{stages};
  if (warp >= kWarps) {
    const auto bring = [&](const Stage& stage) {
      char* const to = ring + turn.at * stage_bytes;
      uint64_t* const full = &shared.full[turn.at];
      Wait(&shared.empty[turn.at], turn.round % 2 ^ 1);
      if (warp == kWarps) {
        BringWeights(a, stage, Lane(), shared, to, full);
      } else {
        BringRows(a, stage, shared, to, full);
      }
      turn.Next();
    };
    ForHidden(a, active, bring);
    bool waited = warp == kWarps;
    ForOutput(a, active, [&](const Stage& stage) {
      if (!waited && stage.expert >= 0) {
        Wait(&shared.hidden_done, 0);
        if (Lane() == 0) WaitForBlocks(a.arrived);
        __syncwarp();
        waited = true;
      }
      bring(stage);
    });
    // A block without tiles of y, or without experts, is waited for too.
    if (!waited) {
      Wait(&shared.hidden_done, 0);
      if (Lane() == 0) WaitForBlocks(a.arrived);
    }
    return;
  }
  float d[4] = {};
  int parity = 0;
  const auto multiply = [&](const Stage& stage) {
    Wait(&shared.full[turn.at], turn.round % 2);
    MultiplyStage(a, stage, tokens, shared, ring + turn.at * stage_bytes, d);
    __syncwarp();
    if (Lane() == 0) Arrive(&shared.empty[turn.at]);
    turn.Next();
    if (!stage.is_last) return;
    auto& sums = shared.sums[parity];
    parity ^= 1;
    StoreTile(d, sums[warp]);
    for (float& x : d) x = 0;
    SyncThreads(kMultipliers, kWarps * kWarp);
    StoreResult(a, stage, tokens, shared, sums);
  };
  ForHidden(a, active, multiply);
  // What is written here, copy engines elsewhere read.
  asm volatile("fence.proxy.async;" ::: "memory");
  __threadfence();
  __syncwarp();
  if (Lane() == 0) Arrive(&shared.hidden_done);
  ForOutput(a, active, multiply);
#endif
}

int NumStages(const FewExpertsArgs& args) {
  const int64_t bytes = (kTileRows + args.choice.tokens.bound) * kRowBytes;
  return static_cast<int>(std::min<int64_t>(kMaxStages, kRingBytes / bytes));
}

// Blocks that run at once.
int NumProcessors() {
  static const int count = [] {
    int device = 0, processors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    return processors;
  }();
  return count;
}

}  // namespace

bool HasStreamedExperts(const FewExpertsArgs& args) {
  return args.arrived != nullptr && args.gate_up.bits == kBf16Bits &&
         args.down.bits == kBf16Bits &&
         (args.shared_width == 0 || args.shared_down.bits == kBf16Bits) &&
         IsHopper();
}

cudaError_t StreamedExperts(const FewExpertsArgs& args, cudaStream_t stream) {
  static const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(StreamKernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kRingBytes);
  if (allowed != cudaSuccess) return allowed;
  const int stages = NumStages(args);
  const auto bytes = static_cast<size_t>(
      stages * (kTileRows + args.choice.tokens.bound) * kRowBytes);
  return LaunchAhead(StreamKernel, dim3(static_cast<unsigned>(NumProcessors())),
                     dim3(kThreads), bytes, stream, args, stages);
}

}  // namespace strata::gpu
