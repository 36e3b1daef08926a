#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/decode/choose_experts.cuh"
#include "cuda/ops/decode/expert_stream.cuh"
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
//   warp 9         asks for what tokens have of hidden
//
// Tiles are first those of hidden, which blocks take as they come to them, as
// memory serves multiprocessors unequally; then those of y. Blocks wait for
// each other in between, but only for the tokens' rows: the ring is full of
// weights when the last of hidden is written, and the shared expert comes
// first. That wait wants all blocks resident: one a multiprocessor, behind
// kernels that end by themselves, and no other such grid beside this one.

namespace strata::gpu {
namespace {

constexpr int kHalf = kHalfTile;
constexpr int kWarps = kWarpsPerBlock;  // That multiply.
constexpr int kThreads = (kWarps + 2) * kWarp;
constexpr int kSegment = 1024;  // Columns of a stage.
// Of a row of a stage: 64 more, so that rows begin at other banks.
constexpr int kRowBytes = kSegment * 2 + 64;
constexpr int kMaxStages = 6;
// Of all stages: with what else a block has, next to the first blocks of the
// kernel behind this one.
constexpr int kRingBytes = 180 << 10;
// Barriers of the warps that multiply, and of the others.
constexpr int kMultipliers = 1, kBringers = 2;

#if STRATA_SM90A

struct Shared {
  uint64_t full[kMaxStages], empty[kMaxStages];
  uint64_t hidden_done;  // This block's tiles of hidden are written.
  int tile[kMaxStages];  // Of hidden, that a stage holds; -1: no more.
  Turn first_of_y;       // Where the stages of y begin.
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
  bool is_first, is_last;  // Of its tile.
};

// Calls run(stage) for all stages of a tile of hidden.
template <typename Run>
__device__ __forceinline__ void ForHidden(const FewExpertsArgs& a, int tile,
                                          Run run) {
  const int of_expert = static_cast<int>(a.width) / kHalf;
  const int d = static_cast<int>(a.d);
  for (int c = 0; c < d; c += kSegment) {
    run(Stage{true, tile, tile / of_expert, c, min(kSegment, d - c), c == 0,
              c + kSegment >= d});
  }
}
// The same for all of y that a block makes.
template <typename Run>
__device__ __forceinline__ void ForOutput(const FewExpertsArgs& a, int active,
                                          Run run) {
  const int width = static_cast<int>(a.width);
  const int shared_width = static_cast<int>(a.shared_width);
  const int tiles = static_cast<int>(a.d) / kTileRows;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    for (int c = 0; c < shared_width; c += kSegment) {
      run(Stage{false, tile, -1, c, min(kSegment, shared_width - c), c == 0,
                active == 0 && c + kSegment >= shared_width});
    }
    for (int e = 0; e < active; ++e) {
      for (int c = 0; c < width; c += kSegment) {
        run(Stage{false, tile, e, c, min(kSegment, width - c),
                  shared_width == 0 && e == 0 && c == 0,
                  e == active - 1 && c + kSegment >= width});
      }
    }
  }
}

// A row of a weight that a stage holds.
__device__ __forceinline__ const uint8_t* RowOf(const FewExpertsArgs& a,
                                                const Stage& stage, int row,
                                                const Shared& shared) {
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
  return w->data + at * w->row_bytes + stage.column * 2;
}

// What a token has for a stage, null if nothing. The shared expert's rows are
// F32, and come by themselves.
__device__ __forceinline__ const __nv_bfloat16* TokensRow(
    const FewExpertsArgs& a, const Stage& stage, int token,
    const Shared& shared) {
  if (stage.expert < 0 || token < 0 || token >= kTileTokens) return nullptr;
  const int slot = shared.chosen.pick[stage.expert][token];
  if (slot < 0) return nullptr;
  return (stage.is_hidden ? a.x + token * a.d
                          : a.hidden + (token * a.choice.k + slot) * a.width) +
         stage.column;
}

// By a warp: lanes below kTileRows ask for a row of the weight, if kWeights,
// those behind them for what a token has, if kTokens. `full` is told of both.
template <bool kWeights, bool kTokens>
__device__ __forceinline__ void Bring(const FewExpertsArgs& a,
                                      const Stage& stage, const Shared& shared,
                                      char* to, uint64_t* full) {
  const int row = Lane();
  const auto* const token =
      kTokens ? TokensRow(a, stage, row - kTileRows, shared) : nullptr;
  const int bytes = stage.columns * 2;
  const int rows = __popc(__ballot_sync(kWholeWarp, token != nullptr)) +
                   (kWeights ? kTileRows : 0);
  if (row == 0) ArriveExpecting(full, rows * bytes);
  __syncwarp();
  if (kWeights && row < kTileRows) {
    LoadBytes(RowOf(a, stage, row, shared), to + row * kRowBytes, bytes, full);
  } else if (token != nullptr) {
    LoadBytes(token, to + row * kRowBytes, bytes, full);
  }
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
      InitBarrier(&shared.empty[i], kWarps * kWarp);
    }
    InitBarrier(&shared.hidden_done, kWarps);
    FenceBarrierInit();
  }
  BringBias(a.choice);
  WaitForEarlier();
  LetLaterBegin();
  Choose(a.choice, shared.chosen);
  if (blockIdx.x == 0) StoreChoice(a.choice, shared.chosen);
  const int active = shared.chosen.num_active;
  const int tokens = shared.chosen.num_slots / a.choice.k;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const auto stage_at = [&](int at) { return ring + at * stage_bytes; };
  Turn turn = {stages, 0, 0};
  if (warp == kWarps) {
    // Of both kinds, as only this warp knows which tiles they are.
    const int all = active * (static_cast<int>(a.width) / kHalf);
    const auto bring_hidden = [&](const Stage& stage) {
      uint64_t* const full = &shared.full[turn.at];
      Wait(&shared.empty[turn.at], turn.round % 2 ^ 1);
      if (Lane() == 0) {
        shared.tile[turn.at] = stage.tile;
        Arrive(full);
      }
      if (stage.tile >= 0) {
        Bring<true, true>(a, stage, shared, stage_at(turn.at), full);
      } else if (Lane() == 0) {
        Arrive(full);
      }
      turn.Next();
    };
    int tile = static_cast<int>(blockIdx.x);
    while (tile < all) {
      int next = 0;
      if (Lane() == 0) {
        next =
            static_cast<int>(gridDim.x) + atomicAdd(&a.counters->next_tile, 1);
      }
      ForHidden(a, tile, bring_hidden);
      tile = __shfl_sync(kWholeWarp, next, 0);
    }
    Stage none = {};
    none.tile = -1;
    bring_hidden(none);
    if (Lane() == 0) shared.first_of_y = turn;
    SyncThreads(kBringers, 2 * kWarp);
    ForOutput(a, active, [&](const Stage& stage) {
      Wait(&shared.empty[turn.at], turn.round % 2 ^ 1);
      Bring<true, false>(a, stage, shared, stage_at(turn.at),
                         &shared.full[turn.at]);
      turn.Next();
    });
    return;
  }
  if (warp == kWarps + 1) {
    SyncThreads(kBringers, 2 * kWarp);
    turn = shared.first_of_y;
    bool waited = false;
    const auto wait = [&] {
      if (waited) return;
      Wait(&shared.hidden_done, 0);
      if (Lane() == 0) WaitForBlocks(a.counters);
      __syncwarp();
      waited = true;
    };
    ForOutput(a, active, [&](const Stage& stage) {
      if (stage.expert >= 0) wait();
      Wait(&shared.empty[turn.at], turn.round % 2 ^ 1);
      Bring<false, true>(a, stage, shared, stage_at(turn.at),
                         &shared.full[turn.at]);
      turn.Next();
    });
    wait();  // Others wait for a block without tiles of y too.
    return;
  }
  float d[4] = {};
  int parity = 0;
  float h = 0;  // Of the thread's element of y.
  const auto done = [&] {
    // Thread by thread, as racecheck follows it.
    Arrive(&shared.empty[turn.at]);
    turn.Next();
  };
  const auto multiply = [&](const Stage& stage) {
    const int token = static_cast<int>(threadIdx.x) / kTileRows;
    if (!stage.is_hidden && stage.is_first && token < tokens) {
      h = a.h[token * a.d + stage.tile * kTileRows + threadIdx.x % kTileRows];
    }
    Wait(&shared.full[turn.at], turn.round % 2);
    MultiplyStage(a, stage, tokens, shared, stage_at(turn.at), d);
    done();
    if (!stage.is_last) return;
    auto& sums = shared.sums[parity];
    parity ^= 1;
    StoreTile(d, sums[warp]);
    for (float& x : d) x = 0;
    SyncThreads(kMultipliers, kWarps * kWarp);
    const int of_token = stage.is_hidden ? kHalf : kTileRows;  // Columns.
    const int column = static_cast<int>(threadIdx.x) % of_token;
    const int of = static_cast<int>(threadIdx.x) / of_token;
    if (of >= tokens) return;
    if (stage.is_hidden) {
      StoreHidden(a, shared.chosen, stage.tile, stage.expert, of, column, sums);
    } else {
      StoreOutput(a, stage.tile, of, column, h, sums);
    }
  };
  while (true) {
    Wait(&shared.full[turn.at], turn.round % 2);
    const int tile = shared.tile[turn.at];
    if (tile < 0) break;
    ForHidden(a, tile, multiply);
  }
  done();
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

}  // namespace

bool HasStreamedExperts(const FewExpertsArgs& args) {
  return args.counters != nullptr && args.gate_up.bits == kBf16Bits &&
         args.down.bits == kBf16Bits &&
         (args.shared_width == 0 || args.shared_down.bits == kBf16Bits) &&
         IsHopper();
}

cudaError_t StreamedExperts(const FewExpertsArgs& args, cudaStream_t stream) {
  const cudaError_t allowed = cudaFuncSetAttribute(
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
