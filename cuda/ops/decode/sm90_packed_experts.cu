#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda.h"
#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/decode/choose_experts.cuh"
#include "cuda/ops/decode/choose_experts.h"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode/expert_stream.cuh"
#include "cuda/ops/decode/few_experts.h"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/decode/packed_tile.cuh"
#include "cuda/ops/decode/sm90_packed_experts.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

// A block a multiprocessor, as in sm90_few_experts.cu, but rows are short: a
// stage is a whole tile of hidden, or one of y of as many experts as fit, and
// what tokens have of all experts lies beside the ring.
//
//   warps 0 to 7   multiply: each its units of a stage, of y turn about over
//                  all stages
//   warp 8         asks for weights, as far ahead as the ring goes
//   warp 9         adds up what the warps have of a tile and stores it, while
//                  they go on; waits for all blocks' hidden
//
// One token has no more weights than all rings hold: then every byte is asked
// for at once, behind the choice. So the first tiles of a block, which its ring
// has room for, are its own; only those beyond are taken as blocks come to
// them. The wait for all blocks wants them all resident, as there.

namespace strata::gpu {
namespace {

constexpr int kWarps = kWarpsPerBlock;  // That multiply.
constexpr int kThreads = (kWarps + 2) * kWarp;
constexpr int kMinStages = 3, kMaxStages = 9;
constexpr int kResults = 3;  // Tiles whose sums wait to be stored.
// Of shared memory: what else a block has, and some for the next kernel's.
constexpr int kDynamicBytes = 180 << 10;
constexpr int kMultipliers = 1;  // The barrier of the warps that multiply.

// Where rows lie in shared memory.
struct Layout {
  int stages, stage_bytes;
  int gate_up, down, shared_down;  // From row to row of a stage, bytes.
  int experts_of_stage;            // Of y.
  int x_bytes;                     // Of all rows of x, and later of hidden.
};

// In boxes of half a tile's rows, and of a tile's.
struct Maps {
  CUtensorMap gate_up, down, shared_down;
};

#if STRATA_SM90A

// What a stage holds: pieces of 16 rows, an expert's each. Of hidden it says
// which; those of y follow each other as they must.
struct alignas(16) Stage {
  int tile, expert;  // The expert as an index of those that are active.
  uint32_t tokens;   // That have it, a bit each.
  int is_last;       // Of the block's tiles of hidden.
};

struct Shared {
  uint64_t full[kMaxStages], empty[kMaxStages];
  uint64_t summed[kResults], stored[kResults];
  uint64_t x_there, hidden_there;
  Stage stage[kMaxStages], result[kResults];
  ChosenExperts chosen;
  float sums[kResults][kWarps][kTileRows][kTileTokens];
};

// By the warp that brings weights: all stages of the block, in turn.
__device__ __forceinline__ void BringStages(const FewExpertsArgs& a,
                                            const Layout& layout,
                                            const Maps& maps, char* ring,
                                            Shared& shared) {
  const ChosenExperts& chosen = shared.chosen;
  const int width = static_cast<int>(a.width);
  const auto first = static_cast<int>(blockIdx.x);
  const auto blocks = static_cast<int>(gridDim.x);
  const int active = chosen.num_active, of_expert = width / kHalfTile;
  const int all = active * of_expert;
  Turn turn = {layout.stages, 0, 0};
  // Boxes of so many bytes, box i from row_of(i) on.
  const auto bring = [&](const CUtensorMap& map, int boxes, int box_bytes,
                         auto row_of) {
    char* const to = ring + turn.at * layout.stage_bytes;
    uint64_t* const full = &shared.full[turn.at];
    ArriveExpecting(full, boxes * box_bytes);
    for (int i = 0; i < boxes; ++i) {
      LoadBox(&map, to + i * box_bytes, full, 0, row_of(i), 0);
    }
  };
  const auto wait = [&] {
    Wait(&shared.empty[turn.at], turn.round % 2 ^ 1);
    return Lane() == 0;
  };
  // Tiles that are this block's own, before others come as they may.
  const int own = max(1, min(layout.stages, (all + blocks - 1) / blocks));
  int taken = 0;
  const auto take = [&] {  // Lane 0 knows it.
    if (taken < own) return first + blocks * taken++;
    return Lane() != 0 ? 0
                       : own * blocks + atomicAdd(&a.counters->next_tile, 1);
  };
  int tile = take(), next = tile < all ? take() : all;
  next = __shfl_sync(kWholeWarp, next, 0);
  while (tile < all) {
    const int after = next < all ? take() : all;
    const int index = tile / of_expert;
    const int row = chosen.active[index] * 2 * width +
                    (tile - index * of_expert) * kHalfTile;
    if (wait()) {
      uint32_t mask = 0;
      for (int t = 0; t < kTileTokens; ++t) {
        mask |= (chosen.pick[index][t] >= 0 ? 1u : 0u) << t;
      }
      shared.stage[turn.at] = {tile, index, mask, next >= all};
      bring(maps.gate_up, 2, kHalfTile * layout.gate_up,
            [&](int half) { return row + half * width; });
    }
    turn.Next();
    __syncwarp();
    tile = next;
    next = __shfl_sync(kWholeWarp, after, 0);
  }
  const int tiles = static_cast<int>(a.d) / kTileRows;
  const int step = layout.experts_of_stage;
  for (tile = first; tile < tiles && active > 0; tile += blocks) {
    const int row = tile * kTileRows;
    if (a.shared_width > 0) {
      if (wait()) {
        bring(maps.shared_down, 1, kTileRows * layout.shared_down,
              [&](int) { return row; });
      }
      turn.Next();
    }
    for (int e = 0; e < active; e += step) {
      if (wait()) {
        bring(maps.down, min(step, active - e), kTileRows * layout.down,
              [&](int i) {
                return chosen.active[e + i] * static_cast<int>(a.d) + row;
              });
      }
      turn.Next();
    }
  }
}

// By a warp: `rows` rows of `columns` BF16.
__device__ __forceinline__ void BringTokens(const __nv_bfloat16* from, int rows,
                                            int columns, char* to,
                                            uint64_t* there) {
  if (Lane() == 0) ArriveExpecting(there, rows * columns * 2);
  __syncwarp();
  for (int row = Lane(); row < rows; row += kWarp) {
    LoadBytes(from + int64_t{row} * columns, to + row * RowBytes(columns),
              columns * 2, there);
  }
}

// The shared expert's rows, rounded, by so many threads.
__device__ __forceinline__ void StageShared(const FewExpertsArgs& a, int tokens,
                                            int threads, char* to) {
  const int chunks = static_cast<int>(a.shared_width) / 8;
  for (int i = threadIdx.x; i < tokens * chunks; i += threads) {
    const auto* const from =
        reinterpret_cast<const float4*>(a.shared_hidden) + 2 * i;
    const float4 low = from[0], high = from[1];
    const float element[8] = {low.x,  low.y,  low.z,  low.w,
                              high.x, high.y, high.z, high.w};
    const int row = i / chunks;
    *reinterpret_cast<uint4*>(to + row * RowBytes(a.shared_width) +
                              (i - row * chunks) * 16) = Pack(element);
  }
}

// What `arrived` is when all blocks of this launch have come; before this one
// has.
__device__ __forceinline__ unsigned long long GoalOfBlocks(
    const ExpertCounters* counters) {
  const unsigned long long before = __ldcg(&counters->arrived);
  return (before / gridDim.x + 1) * gridDim.x;
}
// Says that this block's hidden is written, as far as the thread knows.
__device__ __forceinline__ void ArriveAtBlocks(ExpertCounters* counters) {
  asm volatile(
      "red.release.gpu.global.add.u64 [%0], 1;" ::"l"(&counters->arrived)
      : "memory");
}
__device__ __forceinline__ void WaitForGoal(const ExpertCounters* counters,
                                            unsigned long long goal) {
  unsigned long long now;
  do {
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];"
                 : "=l"(now)
                 : "l"(&counters->arrived)
                 : "memory");
  } while (now < goal);
}

// By the warp that stores: all tiles of the block.
__device__ __forceinline__ void StoreResults(const FewExpertsArgs& a,
                                             unsigned long long goal,
                                             Shared& shared) {
  const ChosenExperts& chosen = shared.chosen;
  const int tokens = chosen.num_slots / a.choice.k;
  const auto first = static_cast<int>(blockIdx.x);
  const int of_expert = static_cast<int>(a.width) / kHalfTile;
  const int tiles = static_cast<int>(a.d) / kTileRows;
  constexpr int kElements = kTileRows * kTileTokens / kWarp;  // Of a lane.
  float h[kElements];
  const auto load = [&](int tile) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const int at = i * kWarp + Lane(), token = at / kTileRows;
      h[i] = tile < tiles && token < tokens
                 ? a.h[token * a.d + tile * kTileRows + at % kTileRows]
                 : 0.f;
    }
  };
  load(first);
  Wait(&shared.x_there, 0);  // It comes before the block ends.
  Turn turn = {kResults, 0, 0};
  const auto done = [&] {
    Arrive(&shared.stored[turn.at]);
    turn.Next();
  };
  for (bool more = first < chosen.num_active * of_expert; more;) {
    Wait(&shared.summed[turn.at], turn.round % 2);
    const Stage of = shared.result[turn.at];
    more = of.is_last == 0;
    for (int i = Lane(); i < tokens * kHalfTile; i += kWarp) {
      StoreHidden(a, chosen, of.tile, of.expert, i / kHalfTile, i % kHalfTile,
                  shared.sums[turn.at]);
    }
    done();
  }
  __syncwarp();
  if (Lane() == 0) {
    ArriveAtBlocks(a.counters);
    if (first < tiles) WaitForGoal(a.counters, goal);
    if (first == 0) a.counters->next_tile = 0;  // Nobody takes any more.
    Arrive(&shared.hidden_there);
  }
  __syncwarp();
  if (tokens == 0) return;
  for (int tile = first; tile < tiles; tile += static_cast<int>(gridDim.x)) {
    Wait(&shared.summed[turn.at], turn.round % 2);
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const int at = i * kWarp + Lane(), token = at / kTileRows;
      if (token < tokens) {
        StoreOutput(a, tile, token, at % kTileRows, h[i], shared.sums[turn.at]);
      }
    }
    done();
    load(tile + static_cast<int>(gridDim.x));
  }
}

#endif  // STRATA_SM90A

template <typename Format>
__global__ void __launch_bounds__(kThreads, 1)
    StreamPackedKernel(const __grid_constant__ FewExpertsArgs a,
                       const __grid_constant__ Layout layout,
                       const __grid_constant__ Maps maps) {
#if STRATA_SM90A
  extern __shared__ __align__(128) char memory[];
  __shared__ Shared shared;
  char* const ring = memory;
  char* const rows = ring + layout.stages * layout.stage_bytes;
  char* const shared_rows = rows + layout.x_bytes;
  const int warp = Uniform(static_cast<int>(threadIdx.x) / kWarp);
  const int width = static_cast<int>(a.width), d_model = static_cast<int>(a.d);
  const int shared_width = static_cast<int>(a.shared_width);
  const ChosenExperts& chosen = shared.chosen;
  if (threadIdx.x == 0) {
    for (int i = 0; i < layout.stages; ++i) {
      InitBarrier(&shared.full[i], 1);
      InitBarrier(&shared.empty[i], kWarps);
    }
    // Each thread says it, as racecheck does not follow a warp's barrier.
    for (int i = 0; i < kResults; ++i) {
      InitBarrier(&shared.summed[i], kWarps * kWarp);
      InitBarrier(&shared.stored[i], kWarp);
    }
    InitBarrier(&shared.x_there, 1);
    InitBarrier(&shared.hidden_there, 1);
    FenceBarrierInit();
  }
  if (threadIdx.x == kWarps * kWarp) {
    PrefetchMap(&maps.gate_up);
    PrefetchMap(&maps.down);
    if (a.shared_width > 0) PrefetchMap(&maps.shared_down);
  }
  BringBias(a.choice);

  __syncthreads();
  WaitForEarlier();
  LetLaterBegin();
  unsigned long long goal = 0;
  if (warp == kWarps + 1) {
    BringTokens(a.x, static_cast<int>(a.choice.tokens.bound), d_model, rows,
                &shared.x_there);
    goal = GoalOfBlocks(a.counters);
  }
  Choose(a.choice, shared.chosen);
  if (blockIdx.x == 0) StoreChoice(a.choice, shared.chosen);
  const int tokens = chosen.num_slots / a.choice.k;
  if (warp == kWarps) {
    BringStages(a, layout, maps, ring, shared);
    return;
  }
  if (warp == kWarps + 1) {
    StoreResults(a, goal, shared);
    return;
  }
  if (tokens == 0) return;
  StageShared(a, tokens, kWarps * kWarp, shared_rows);
  SyncThreads(kMultipliers, kWarps * kWarp);
  Wait(&shared.x_there, 0);

  const int g = Lane() / 4;
  float d[4] = {};
  Turn turn = {layout.stages, 0, 0}, result = {kResults, 0, 0};
  const auto from = [&] { return ring + turn.at * layout.stage_bytes; };
  const auto wait = [&] { Wait(&shared.full[turn.at], turn.round % 2); };
  const auto done = [&] {
    __syncwarp();
    if (Lane() == 0) Arrive(&shared.empty[turn.at]);
    turn.Next();
  };
  const auto multiply = [&](const RowsOfTile& tile, const LaneRows& x, int u) {
    typename Format::Unit unit;
    Format::Load(tile, u, unit);
    MultiplyUnit<Format>(unit, u, x, d);
  };
  const auto give = [&](const Stage& stage) {
    Wait(&shared.stored[result.at], result.round % 2 ^ 1);
    StoreTile(d, shared.sums[result.at][warp]);
    for (float& v : d) v = 0;
    if (threadIdx.x == 0) shared.result[result.at] = stage;
    Arrive(&shared.summed[result.at]);
    result.Next();
  };
  {
    const int units = d_model / Format::kColumns;
    LaneRows x(rows, RowBytes(d_model), g);
    for (bool more = static_cast<int>(blockIdx.x) <
                     chosen.num_active * width / kHalfTile;
         more;) {
      wait();
      // By the lane that says when it has been read.
      Stage stage = {};
      if (Lane() == 0) stage = shared.stage[turn.at];
      stage.tile = __shfl_sync(kWholeWarp, stage.tile, 0);
      stage.tokens = __shfl_sync(kWholeWarp, stage.tokens, 0);
      stage.is_last = __shfl_sync(kWholeWarp, stage.is_last, 0);
      x.there = (stage.tokens >> g & 1) != 0;
      const RowsOfTile tile(from(), layout.gate_up, a.gate_up.code_bytes, g,
                            kHalfTile);
      for (int u = warp; u < units; u += kWarps) multiply(tile, x, u);
      done();
      give(stage);
      more = stage.is_last == 0;
    }
  }
  const int units = width / Format::kColumns;
  const int step = layout.experts_of_stage;
  bool has_hidden = false;  // All of it.
  int first = warp;         // Unit of what comes, as warps take turns.
  for (int t = blockIdx.x; t < d_model / kTileRows;
       t += static_cast<int>(gridDim.x)) {
    if (shared_width > 0) {
      const int shared_units = shared_width / Format::kColumns;
      const LaneRows x(shared_rows, RowBytes(shared_width),
                       g < tokens ? g : -1);
      wait();
      const RowsOfTile tile(from(), layout.shared_down,
                            a.shared_down.code_bytes, g, kHalfTile);
      for (int u = first; u < shared_units; u += kWarps) multiply(tile, x, u);
      first = (first - shared_units) & (kWarps - 1);
      done();
    }
    if (!has_hidden) {
      Wait(&shared.hidden_there, 0);
      StageRows(a.hidden, chosen.num_slots, width, rows, kWarps * kWarp);
      WaitForCopies16();
      SyncThreads(kMultipliers, kWarps * kWarp);
      has_hidden = true;
    }
    for (int e = 0; e < chosen.num_active; e += step) {
      wait();
      const int all = min(step, chosen.num_active - e) * units;
      int piece = 0, before = 0;  // Units of pieces before it.
      for (int u = first; u < all; u += kWarps) {
        while (u - before >= units) {
          ++piece;
          before += units;
        }
        const int slot = chosen.pick[e + piece][g];
        const LaneRows x(rows, RowBytes(width),
                         slot >= 0 ? g * a.choice.k + slot : -1);
        const RowsOfTile tile(from() + piece * kTileRows * layout.down,
                              layout.down, a.down.code_bytes, g, kHalfTile);
        multiply(tile, x, u - before);
      }
      first = (first - all) & (kWarps - 1);
      done();
    }
    give({});
  }
#endif
}

// From row to row in a stage: eight bytes of a lane of four rows lie in other
// banks.
int Pitch(const PackedRows& w) {
  const auto bytes = static_cast<int>(w.row_bytes);
  return (bytes + 31) / 64 * 64 + 32;
}

constexpr int kElementBytes = 8, kMaxPitch = 256 * kElementBytes;

cudaError_t MakeMap(const PackedRows& w, int64_t matrices, int pitch, int rows,
                    CUtensorMap* map) {
  BoxedBytes bytes;
  bytes.data = w.data;
  bytes.rows = w.n * matrices;
  bytes.row_bytes = w.row_bytes;
  bytes.box_rows = rows;
  bytes.box_bytes = pitch;
  bytes.element_bytes = kElementBytes;
  return MakeByteMap(bytes, map);
}

// Of all that tokens have.
int64_t TokensBytes(const FewExpertsArgs& args, const Layout& layout) {
  return layout.x_bytes +
         args.choice.tokens.bound * RowBytes(args.shared_width);
}

Layout LayOut(const FewExpertsArgs& args) {
  Layout to = {};
  to.gate_up = Pitch(args.gate_up);
  to.down = Pitch(args.down);
  to.shared_down = args.shared_width > 0 ? Pitch(args.shared_down) : 0;
  const int pitch = std::max({to.gate_up, to.down, to.shared_down});
  if (pitch > kMaxPitch) return to;
  to.stage_bytes = kTileRows * pitch;
  to.experts_of_stage = pitch / to.down;
  const int64_t tokens = args.choice.tokens.bound;
  to.x_bytes =
      static_cast<int>(tokens * std::max(RowBytes(args.d),
                                         args.choice.k * RowBytes(args.width)));
  const int64_t left = kDynamicBytes - TokensBytes(args, to);
  to.stages = static_cast<int>(
      std::clamp<int64_t>(left / to.stage_bytes, 0, kMaxStages));
  return to;
}

template <typename Format>
cudaError_t Launch(const FewExpertsArgs& args, cudaStream_t stream) {
  const auto kernel = StreamPackedKernel<Format>;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kDynamicBytes);
  if (allowed != cudaSuccess) return allowed;
  const Layout layout = LayOut(args);
  const int64_t experts = args.choice.num_experts;
  Maps maps = {};
  cudaError_t e =
      MakeMap(args.gate_up, experts, layout.gate_up, kHalfTile, &maps.gate_up);
  if (e == cudaSuccess) {
    e = MakeMap(args.down, experts, layout.down, kTileRows, &maps.down);
  }
  if (e == cudaSuccess && args.shared_width > 0) {
    e = MakeMap(args.shared_down, 1, layout.shared_down, kTileRows,
                &maps.shared_down);
  }
  if (e != cudaSuccess) return e;
  return LaunchAhead(kernel, dim3(static_cast<unsigned>(NumProcessors())),
                     dim3(kThreads),
                     static_cast<size_t>(layout.stages * layout.stage_bytes +
                                         TokensBytes(args, layout)),
                     stream, args, layout, maps);
}

}  // namespace

bool HasStreamedPackedExperts(const FewExpertsArgs& args) {
  return args.counters != nullptr && args.gate_up.bits != kBf16Bits &&
         SameFormat(args.gate_up, args.down) &&
         LayOut(args).stages >= kMinStages && IsHopper();
}

cudaError_t StreamedPackedExperts(const FewExpertsArgs& args,
                                  cudaStream_t stream) {
  return WithFormat(args.gate_up, [&](auto format) {
    using Format = decltype(format);
    if constexpr (std::is_same_v<Format, Bf16Tile>) {
      return cudaErrorInvalidValue;
    } else {
      return Launch<typename Format::Staged>(args, stream);
    }
  });
}

}  // namespace strata::gpu
