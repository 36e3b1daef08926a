#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/decode/choose_experts.cuh"
#include "cuda/ops/decode/choose_experts.h"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode/expert_stream.cuh"
#include "cuda/ops/decode/few_experts.h"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/decode/packed_tile.cuh"
#include "cuda/ops/decode/sm90_few_experts.h"
#include "cuda/ops/decode/sm90_packed_experts.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

// Memory is to be busy from the choice on to the end: blocks of the first
// kernel take tile after tile, and load the next one's weights as this one's
// are used; one of the second runs beside each, makes the choice too and has
// its first weights there before the first kernel ends. So either takes half of
// a multiprocessor's registers, and what tokens have lies in shared memory.

namespace strata::gpu {
namespace {

constexpr int kHalf = kTileRows / 2;
static_assert(kTileTokens == kMaxChoosers);

constexpr int64_t kMaxRowBytes = 160 << 10;  // Of all of them.

// What a format's kernels do. Packed rows are short: two tiles a block of
// hidden, of which each warp has all of 2048 columns on their way; and twice
// the warps, as taking codes apart keeps them busy.
template <typename Format>
struct Choice {
  static constexpr bool kPacked = !std::is_same_v<Format, Bf16Tile>;
  static constexpr int kWeightTiles = kPacked ? 2 : 1;
  static constexpr int kHiddenUnits = kPacked ? 2 : 8;   // On their way.
  static constexpr int kHiddenBlocks = kPacked ? 2 : 1;  // A multiprocessor.
  static constexpr int kOutputWarps = kPacked ? 16 : 8;
  static constexpr int kOutputBlocks = kPacked ? 1 : 2;
  static constexpr int kOutputUnits = kPacked ? 4 : 8;
};

// Multiprocessors of a Hopper GPU.
constexpr int64_t kProcessors = 132;

// Tiles of (an expert, 8 or 16 columns of hidden), one after another; warps
// share what is summed over.
template <typename Format>
__global__ void __launch_bounds__(kBlock, 2)
    HiddenKernel(const __grid_constant__ FewExpertsArgs a) {
  constexpr int kWeightTiles = Choice<Format>::kWeightTiles;
  constexpr int kUnits = Choice<Format>::kHiddenUnits;
  constexpr int kColumns = kWeightTiles * kHalf;  // Of hidden.
  extern __shared__ uint4 memory[];
  __shared__ float sums_of[2][kWarpsPerBlock][kWeightTiles * kTileRows]
                          [kTileTokens];
  __shared__ ChosenExperts chosen;
  char* const rows = reinterpret_cast<char*>(memory);
  const int width = static_cast<int>(a.width), d_model = static_cast<int>(a.d);
  const int of_expert = width / kColumns;  // Tiles.
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4;
  const int units = d_model / Format::kColumns;
  const int begin = units * warp / kWarpsPerBlock;
  const int end = units * (warp + 1) / kWarpsPerBlock;
  BringBias(a.choice);
  WaitForEarlier();
  LetLaterBegin();
  // Rows are there up to the bound; no expert has those beyond the count.
  StageRows(a.x, static_cast<int>(a.choice.tokens.bound), d_model, rows,
            kBlock);
  Choose(a.choice, chosen);
  if (blockIdx.x == 0) StoreChoice(a.choice, chosen);
  const int tiles = chosen.num_active * of_expert;

  // Of lane's rows of a tile; whatever tile, if there is none.
  const auto rows_of = [&](int tile, int part) {
    const int index = min(tile / of_expert, chosen.num_active - 1);
    const int64_t row = int64_t{chosen.active[index]} * 2 * width +
                        tile % of_expert * kColumns + part * kHalf + g;
    return RowsOfTile(a.gate_up, row, width);
  };
  int tile = static_cast<int>(blockIdx.x);
  typename Format::Unit ahead[kWeightTiles][kUnits];
  if (tile < tiles) {
#pragma unroll
    for (int part = 0; part < kWeightTiles; ++part) {
      LoadBatch<Format>(rows_of(tile, part), begin, end, ahead[part]);
    }
  }
  WaitForCopies16();
  __syncthreads();
  for (int turn = 0; tile < tiles; ++turn) {
    auto& sums = sums_of[turn % 2];
    const int index = tile / of_expert;
    const int next = tile + static_cast<int>(gridDim.x);
    const LaneRows x(rows, RowBytes(d_model),
                     chosen.pick[index][g] >= 0 ? g : -1);
#pragma unroll
    for (int part = 0; part < kWeightTiles; ++part) {
      float d[4] = {};
      const RowsOfTile mine = rows_of(tile, part);
      const RowsOfTile others = rows_of(next, part);
      for (int base = begin; base < end; base += kUnits) {
        const bool is_last = base + kUnits >= end;
        const RowsOfTile from = is_last ? others : mine;
        const int to_load = is_last ? begin : base + kUnits;
#pragma unroll
        for (int i = 0; i < kUnits; ++i) {
          if (base + i < end) {
            MultiplyUnit<Format>(ahead[part][i], base + i, x, d);
          }
          if (to_load + i < end && (!is_last || next < tiles)) {
            Format::Load(from, to_load + i, ahead[part][i]);
          }
        }
      }
      StoreTile(d, sums[warp] + part * kTileRows);
    }
    __syncthreads();
    const int column = static_cast<int>(threadIdx.x) % kColumns;
    const int token = static_cast<int>(threadIdx.x) / kColumns;
    const int slot = token < kTileTokens ? chosen.pick[index][token] : -1;
    if (slot >= 0) {
      const int row = column / kHalf * kTileRows + column % kHalf;
      const float gate = SumOfWarps(sums, row, token);
      const float up = SumOfWarps(sums, row + kHalf, token);
      const int at = token * a.choice.k + slot;
      a.hidden[int64_t{at} * width + tile % of_expert * kColumns + column] =
          __float2bfloat16_rn(chosen.weight[at] * gate * SigmoidOf(gate) * up);
    }
    tile = next;
  }
}

// Where a warp is among the units of all experts, one behind the other, and the
// shared one's behind them.
struct Place {
  int expert, unit;  // The expert as an index of those that are active.

  __device__ __forceinline__ Place(int at, int units, int active)
      : expert(min(at / units, active)), unit(at - expert * units) {}
  // Whether the next unit is another expert's.
  __device__ __forceinline__ bool Next(int units, int active) {
    if (++unit < units || expert == active) return false;
    unit = 0;
    ++expert;
    return true;
  }
};

// Block: 16 columns of y.
template <typename Format>
__global__ void __launch_bounds__(Choice<Format>::kOutputWarps* kWarp,
                                  Choice<Format>::kOutputBlocks)
    OutputKernel(const __grid_constant__ FewExpertsArgs a) {
  constexpr int kWarps = Choice<Format>::kOutputWarps;
  constexpr int kUnits = Choice<Format>::kOutputUnits;
  extern __shared__ uint4 memory[];
  __shared__ float sums[kWarps][kTileRows][kTileTokens];
  __shared__ ChosenExperts chosen;
  char* const rows = reinterpret_cast<char*>(memory);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4;
  const int64_t first = int64_t{blockIdx.x} * kTileRows;
  const int width = static_cast<int>(a.width);
  const int shared_width = static_cast<int>(a.shared_width);
  // Blocks of Hidden have seen the kernel of the gate end before they let this
  // one begin: what it and those before it made is there.
  Choose(a.choice, chosen);
  const int active = chosen.num_active;
  const int tokens = chosen.num_slots / a.choice.k;
  const int units = width / Format::kColumns;
  const int all = active * units + shared_width / Format::kColumns;
  int at = all * warp / kWarps;
  const int last = all * (warp + 1) / kWarps;
  Place next(at, units, active), now(at, units, active);
  const RowsOfTile shared_rows(a.shared_down, first + g, kHalf);
  RowsOfTile weight = shared_rows;
  const auto find_weight = [&] {
    weight =
        next.expert == active
            ? shared_rows
            : RowsOfTile(a.down,
                         int64_t{chosen.active[next.expert]} * a.d + first + g,
                         kHalf);
  };
  int loaded = at;
  const auto load = [&](typename Format::Unit& to) {
    if (loaded == last) return;
    Format::Load(weight, next.unit, to);
    ++loaded;
    if (next.Next(units, active)) find_weight();
  };
  find_weight();
  typename Format::Unit ahead[kUnits];
#pragma unroll
  for (int i = 0; i < kUnits; ++i) load(ahead[i]);
  // What tokens have of the shared expert, behind what they have of others.
  const int slots = chosen.num_slots;
  char* const shared_x = rows + slots * RowBytes(width);
  for (int i = threadIdx.x; i < tokens * (shared_width / 4); i += blockDim.x) {
    const int row = i / (shared_width / 4), chunk = i % (shared_width / 4);
    const float4 v =
        reinterpret_cast<const float4*>(a.shared_hidden)[int64_t{i}];
    const __nv_bfloat162 low = __floats2bfloat162_rn(v.x, v.y);
    const __nv_bfloat162 high = __floats2bfloat162_rn(v.z, v.w);
    *reinterpret_cast<uint2*>(shared_x + row * RowBytes(shared_width) +
                              chunk * 8) = {
        *reinterpret_cast<const uint32_t*>(&low),
        *reinterpret_cast<const uint32_t*>(&high)};
  }
  const int column = static_cast<int>(threadIdx.x) % kTileRows;
  const int token = static_cast<int>(threadIdx.x) / kTileRows;
  const int64_t to = token * a.d + first + column;
  const float h = token < tokens ? a.h[to] : 0.f;
  WaitForEarlier();
  LetLaterBegin();
  StageRows(a.hidden, slots, width, rows, kWarps * kWarp);
  WaitForCopies16();
  __syncthreads();

  float d[4] = {};
  const auto rows_of = [&](int expert) {
    if (expert == active) {
      return LaneRows(shared_x, RowBytes(shared_width), g < tokens ? g : -1);
    }
    const int slot = chosen.pick[expert][g];
    return LaneRows(rows, RowBytes(width),
                    slot >= 0 ? g * a.choice.k + slot : -1);
  };
  LaneRows x = rows_of(now.expert);
  while (at < last) {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      if (at == last) break;
      MultiplyUnit<Format>(ahead[i], now.unit, x, d);
      load(ahead[i]);
      ++at;
      if (now.Next(units, active)) x = rows_of(now.expert);
    }
  }
  StoreTile(d, sums[warp]);
  __syncthreads();
  if (token < tokens) a.y[to] = h + SumOfWarps(sums, column, token);
}

// Of all rows that a block of either kernel has in shared memory.
int64_t HiddenBytes(const FewExpertsArgs& args) {
  return args.choice.tokens.bound * RowBytes(args.d);
}
int64_t OutputBytes(const FewExpertsArgs& args) {
  return args.choice.tokens.bound *
         (args.choice.k * RowBytes(args.width) + RowBytes(args.shared_width));
}

cudaError_t LaunchWith(void (*kernel)(FewExpertsArgs), int64_t blocks,
                       int threads, int64_t bytes, const FewExpertsArgs& args,
                       cudaStream_t stream) {
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxRowBytes);
  if (allowed != cudaSuccess) return allowed;
  return LaunchAhead(kernel, dim3(static_cast<unsigned>(blocks)),
                     dim3(static_cast<unsigned>(threads)),
                     static_cast<size_t>(bytes), stream, args);
}

template <typename Format>
cudaError_t LaunchHidden(const FewExpertsArgs& args, cudaStream_t stream) {
  constexpr int kColumns = Choice<Format>::kWeightTiles * kHalf;
  const int64_t experts = std::min<int64_t>(
      args.choice.num_experts, args.choice.tokens.bound * args.choice.k);
  const int64_t blocks = std::min(args.width / kColumns * experts,
                                  kProcessors * Choice<Format>::kHiddenBlocks);
  return LaunchWith(HiddenKernel<Format>, blocks, kBlock, HiddenBytes(args),
                    args, stream);
}

template <typename Format>
cudaError_t LaunchOutput(const FewExpertsArgs& args, cudaStream_t stream) {
  return LaunchWith(OutputKernel<Format>, args.d / kTileRows,
                    Choice<Format>::kOutputWarps * kWarp, OutputBytes(args),
                    args, stream);
}

}  // namespace

bool HasFewExperts(const FewExpertsArgs& args) {
  return args.choice.tokens.bound >= 1 && HasChooseExperts(args.choice) &&
         HiddenBytes(args) <= kMaxRowBytes &&
         OutputBytes(args) <= kMaxRowBytes && HasTiles(args.gate_up) &&
         HasTiles(args.down) && args.gate_up.k == args.d &&
         args.down.k == args.width && args.d % kTileRows == 0 &&
         args.width % kTileRows == 0 &&
         (args.shared_width == 0 || (HasTiles(args.shared_down) &&
                                     SameFormat(args.shared_down, args.down)));
}

cudaError_t FewExperts(const FewExpertsArgs& args, cudaStream_t stream) {
  if (!HasFewExperts(args)) return cudaErrorInvalidValue;
  if (HasStreamedExperts(args)) return StreamedExperts(args, stream);
  if (HasStreamedPackedExperts(args)) {
    return StreamedPackedExperts(args, stream);
  }
  const cudaError_t error = WithFormat(args.gate_up, [&](auto format) {
    return LaunchHidden<decltype(format)>(args, stream);
  });
  if (error != cudaSuccess) return error;
  return WithFormat(args.down, [&](auto format) {
    return LaunchOutput<decltype(format)>(args, stream);
  });
}

}  // namespace strata::gpu
