#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/few_rows_multiply.cuh"
#include "cuda/kernels/few_rows_operands.cuh"
#include "cuda/kernels/few_rows_plan.h"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/batch/expert_products.h"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

// Work is counted in units: eight rows of x, a tile of them, by 32 rows of w.
//
//   tiles of rows    those of the shared expert, then expert by expert
//   a tile's units   32 rows of w one behind the other; of SwiGLU 16 of each
//                    half, so that a warp has both of a column
//   a block          as many units as the others, one behind the other: of a
//                    tile or of two, mostly, whose x lies in shared memory
//   a warp           every eighth of them, all of their columns, by copies that
//                    are two pairs of chunks ahead, whatever unit those are of
//
// Bound by reading w: two blocks of a multiprocessor have up to 147 KB of it on
// their way.

namespace strata::gpu {
namespace {

constexpr int64_t kBlocks = 2 * 132;
constexpr int kMaxTokens = 64, kMaxExperts = 256;
constexpr int kMaxEach = kMaxExperts / kWarp;  // Of a lane.
constexpr int kMaxSegments = 16;
constexpr int kXBytes = kMaxBytesOfXOfTwo;
constexpr int kSharedBytes = kXBytes + kWarps * int{sizeof(OnItsWay)};

struct Args {
  ExpertProductArgs product;
  bool swiglu = false;
  bool ahead = false;  // Offsets are there before earlier kernels have ended.
};

int64_t UnitsOf(const PackedRows& w) { return w.n / kWarpRows; }

// Of a row of x in shared memory.
__host__ __device__ __forceinline__ int PitchOf(const PackedRows& w) {
  return w.k * 2 + kRowPad;
}

// A block's units of a tile of rows.
struct Segment {
  const uint8_t* w;  // The expert's.
  int end;           // Of the block's units, the first that is another's.
  int shift;         // From a unit of the block to one of the tile.
  int row, num_rows;
  int x;  // Where its rows lie in shared memory.
  bool is_shared;
};

struct Segments {
  Segment at[kMaxSegments];
  int count, units;  // Of the block.
};

__device__ __forceinline__ const ExpertRows& RowsOf(const Args& a,
                                                    const Segment& s) {
  return s.is_shared ? a.product.shared : a.product.experts;
}

// By one warp: what the block has to do.
__device__ __forceinline__ void FindSegments(const Args& a, Segments& to) {
  const ExpertProductArgs& p = a.product;
  const int experts = p.num_experts;
  const int each = (experts + kWarp - 1) / kWarp;
  const int first_expert = Lane() * each;
  int offset[kMaxEach + 1];
#pragma unroll
  for (int i = 0; i <= kMaxEach; ++i) {
    if (i <= each)
      offset[i] = __ldcg(p.offset + min(first_expert + i, experts));
  }
  const auto tiles_of = [](int rows) { return (rows + kRows - 1) / kRows; };
  int mine = 0;
#pragma unroll
  for (int i = 0; i < kMaxEach; ++i) {
    if (i < each) mine += tiles_of(offset[i + 1] - offset[i]);
  }
  int before = mine;
#pragma unroll
  for (int d = 1; d < kWarp; d *= 2) {
    const int other = __shfl_up_sync(kWholeWarp, before, d);
    if (Lane() >= d) before += other;
  }
  const int routed = __shfl_sync(kWholeWarp, before, kWarp - 1);
  before -= mine;

  const bool has_shared = p.shared.w.data != nullptr;
  const int tokens = has_shared ? static_cast<int>(p.tokens.Get()) : 0;
  const int shared_tiles = tiles_of(tokens);
  const int of_shared =
      has_shared ? static_cast<int>(p.shared.w.n) / kWarpRows : 1;
  const int of_expert = static_cast<int>(p.experts.w.n) / kWarpRows;
  const int shared_units = shared_tiles * of_shared;
  const int all = shared_units + routed * of_expert;
  const auto block = static_cast<int>(blockIdx.x);
  const auto blocks = static_cast<int>(gridDim.x);
  const int first = all * block / blocks;
  const int last = all * (block + 1) / blocks;
  const auto tile_at = [&](int unit) {
    return unit < shared_units
               ? unit / of_shared
               : shared_tiles + (unit - shared_units) / of_expert;
  };
  const int first_tile = tile_at(first);
  if (Lane() == 0) {
    to.count = last > first ? tile_at(last - 1) - first_tile + 1 : 0;
    to.units = last - first;
  }
  // Of tile `tile`, whose units begin at `begin`.
  const auto note = [&](int tile, int begin, int units, Segment segment) {
    if (begin >= last || begin + units <= first) return;
    segment.end = min(begin + units, last) - first;
    segment.shift = first - begin;
    to.at[tile - first_tile] = segment;
  };
  if (Lane() < shared_tiles) {
    const int row = Lane() * kRows;
    note(Lane(), Lane() * of_shared, of_shared,
         {p.shared.w.data, 0, 0, row, min(kRows, tokens - row), 0, true});
  }
#pragma unroll
  for (int i = 0; i < kMaxEach; ++i) {
    if (i >= each) break;
    const uint8_t* const w = p.experts.w.data + int64_t{first_expert + i} *
                                                    p.experts.w.n *
                                                    p.experts.w.row_bytes;
    for (int row = offset[i]; row < offset[i + 1]; row += kRows) {
      note(shared_tiles + before, shared_units + before * of_expert, of_expert,
           {w, 0, 0, row, min(kRows, offset[i + 1] - row), 0, false});
      ++before;
    }
  }
}

// By a whole warp: a pair of chunks of 32 rows to slot `slot`. Rows from 16 on
// lie `further` bytes further.
__device__ __forceinline__ void AskForPair(const uint8_t* rows, int row_bytes,
                                           int further, int pair, int scale,
                                           int slot, OnItsWay& to) {
  const int of_four = Lane() / 8, place = (Lane() % 8 ^ of_four * 2) * 16;
  const uint8_t* const at =
      rows + of_four * row_bytes + pair * kPairBytes + Lane() % 8 * 16;
#pragma unroll
  for (int i = 0; i < kWarpRows / 4; ++i) {
    const int on = 4 * i * row_bytes + (i < kWarpRows / 8 ? 0 : further);
    CopyAsync(at + on, &to.code[slot][4 * i + of_four][place]);
  }
  CopyAsync(rows + Lane() * row_bytes + (Lane() < kWarpRows / 2 ? 0 : further) +
                scale,
            to.scale[slot][Lane()]);
}

// By all threads: a segment's rows of x to shared memory, in the order of a
// thread's slots.
__device__ __forceinline__ void StageRows(const ExpertRows& from,
                                          const Segment& s, int pitch,
                                          char* to) {
  constexpr int kLoads = 4;
  const int of_row = from.w.k / 8, items = of_row * s.num_rows;
  for (int i = static_cast<int>(threadIdx.x); i < items;
       i += kLoads * kThreads) {
    uint4 v[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int item = i + j * kThreads, row = item / of_row;
      if (item >= items) break;
      const int64_t at = from.index == nullptr
                             ? s.row + row
                             : __ldcg(from.index + s.row + row);
      v[j] = __ldcg(reinterpret_cast<const uint4*>(from.x + at * from.w.k) +
                    item - row * of_row);
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int item = i + j * kThreads, row = item / of_row;
      if (item >= items) break;
      *reinterpret_cast<uint4*>(to + row * pitch + (item - row * of_row) * 16) =
          OrderedEight(v[j]);
    }
  }
}

// Where a warp is among its units.
struct Cursor {
  int unit, segment = 0;

  __device__ __forceinline__ void Find(const Segments& s) {
    while (segment < s.count && unit >= s.at[segment].end) ++segment;
  }
};

// What a warp has of eight rows by 32 of w.
__device__ __forceinline__ void StoreUnit(const Args& a, const Segment& s,
                                          int unit,
                                          const float (&total)[2][1][4]) {
  const ExpertRows& rows = RowsOf(a, s);
  const int n = static_cast<int>(rows.w.n), width = n / 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = Lane() % 4 * 2 + i % 2, column = i / 2 * 8 + Lane() / 4;
    if (row >= s.num_rows) continue;
    const int64_t to = s.row + row;
    if (a.swiglu) {
      const float gate = total[0][0][i];
      rows.hidden[to * width + unit * (kWarpRows / 2) + column] =
          __float2bfloat16_rn(gate * SigmoidOf(gate) * total[1][0][i]);
    } else {
      float* const at = rows.y + to * n + unit * kWarpRows + column;
      at[0] = total[0][0][i];
      at[kWarpRows / 2] = total[1][0][i];
    }
  }
}

template <int kBits, int kGroupShift>
__global__ void __launch_bounds__(kThreads, 2)
    ExpertProductKernel(const __grid_constant__ Args a) {
  constexpr int kVectorsOfChunk = kVectorsOfX<kBits, 1, OfX::kRounded>;
  extern __shared__ __align__(128) char memory[];
  __shared__ Segments segments;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  auto& on_its_way = *(reinterpret_cast<OnItsWay*>(memory + kXBytes) + warp);
  if (!a.ahead) {
    WaitForEarlier();
    LetLaterBegin();
  }
  if (warp == 0) FindSegments(a, segments);
  __syncthreads();

  Cursor asked = {warp};
  int asked_pair = 0;
  asked.Find(segments);
  const auto ask = [&](int slot) {
    if (asked.unit < segments.units) {
      const Segment& s = segments.at[asked.segment];
      const PackedRows& w = RowsOf(a, s).w;
      const auto row_bytes = static_cast<int>(w.row_bytes);
      const int rows = a.swiglu ? kWarpRows / 2 : kWarpRows;
      const int further =
          a.swiglu ? (static_cast<int>(w.n) / 2 - rows) * row_bytes : 0;
      const int scale =
          2 * (asked_pair * 2 * kChunkColumns<kBits> >> kGroupShift);
      AskForPair(s.w + int64_t{asked.unit + s.shift} * rows * row_bytes,
                 row_bytes, further, asked_pair,
                 w.code_bytes + scale / kScaleBytes * kScaleBytes, slot,
                 on_its_way);
      if (++asked_pair == w.code_bytes / kPairBytes) {
        asked_pair = 0;
        asked.unit += kWarps;
        asked.Find(segments);
      }
    }
    CommitCopies();
  };
#pragma unroll
  for (int i = 0; i < kSlots; ++i) ask(i);
  if (a.ahead) {
    WaitForEarlier();
    LetLaterBegin();
  }

  Cursor at = {warp};
  int slot = 0;
  for (int begin = 0, end; begin < segments.count; begin = end) {
    // x of as many segments as there is room for.
    if (begin > 0) __syncthreads();  // Those before have been read.
    int bytes = 0;
    for (end = begin; end < segments.count; ++end) {
      Segment& s = segments.at[end];
      const ExpertRows& rows = RowsOf(a, s);
      const int pitch = PitchOf(rows.w), more = s.num_rows * pitch;
      if (bytes + more > kXBytes) break;
      if (threadIdx.x == 0) s.x = bytes;
      StageRows(rows, s, pitch, memory + bytes);
      bytes += more;
    }
    __syncthreads();
    const int units = segments.at[end - 1].end;
    while (at.unit < units) {
      at.Find(segments);
      const Segment& s = segments.at[at.segment];
      const PackedRows& w = RowsOf(a, s).w;
      const int pairs = w.code_bytes / kPairBytes;
      // Results of rows that are not there are not stored.
      const uint4* const x_row =
          reinterpret_cast<const uint4*>(
              memory + s.x + min(Lane() / 4, s.num_rows - 1) * PitchOf(w)) +
          Lane() % 4;
      float total[2][1][4] = {};
#pragma unroll 1
      for (int pair = 0; pair < pairs; ++pair) {
        WaitForCopies<kSlots - 1>();
        __syncwarp();
#pragma unroll 1
        for (int c = 0; c < 2; ++c) {
          Chunk<kBits> now[4];
          const int t = Lane() % 4 * 8, swap = Lane() / 4 % 4;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int r = 8 * i + Lane() / 4;
            const uint8_t* const codes = on_its_way.code[slot][r] + t;
            now[i].template LoadCopy<kGroupShift>(
                codes + (2 * c ^ swap) * 32, codes + ((2 * c + 1) ^ swap) * 32,
                on_its_way.scale[slot][r], 2 * pair + c);
            now[i].SpreadScales(kGroupShift);
          }
          const int of_chunk = (2 * pair + c) * kVectorsOfChunk;
          AddChunk<kBits, 1, 1>(
              now, kGroupShift,
              [&](int p, int, int) { return x_row[of_chunk + p * 4]; }, total);
        }
        __syncwarp();  // All have read.
        ask(slot);
        slot = (slot + 1) % kSlots;
      }
      StoreUnit(a, s, at.unit + s.shift, total);
      at.unit += kWarps;
    }
  }
}

template <int kBits, int kGroupShift>
cudaError_t Launch(const Args& args, cudaStream_t stream) {
  const auto kernel = ExpertProductKernel<kBits, kGroupShift>;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  return LaunchAhead(kernel, dim3(kBlocks), dim3(kThreads), kSharedBytes,
                     stream, args);
}

template <int kBits>
cudaError_t LaunchGroups(const Args& args, cudaStream_t stream) {
  switch (args.product.experts.w.group_shift) {
    case 5:
      return Launch<kBits, 5>(args, stream);
    case 6:
      return Launch<kBits, 6>(args, stream);
    default:
      return Launch<kBits, 7>(args, stream);
  }
}

cudaError_t Run(const Args& args, cudaStream_t stream) {
  if (!HasExpertProducts(args.product)) return cudaErrorInvalidValue;
  if (args.product.max_rows == 0) return cudaSuccess;
  return args.product.experts.w.bits == 4 ? LaunchGroups<4>(args, stream)
                                          : LaunchGroups<8>(args, stream);
}

bool HasRows(const PackedRows& w) {
  return w.data != nullptr && (w.bits == 4 || w.bits == 8) && IsWhole(w) &&
         w.n > 0 && w.n % kWarpRows == 0 && w.n * w.row_bytes <= INT32_MAX &&
         kRows * PitchOf(w) <= kXBytes;
}

}  // namespace

bool HasExpertProducts(const ExpertProductArgs& args) {
  const PackedRows& w = args.experts.w;
  if (!IsHopper() || args.tokens.bound > kMaxTokens || args.num_experts < 1 ||
      args.num_experts > kMaxExperts || !HasRows(w)) {
    return false;
  }
  int64_t tiles = std::min<int64_t>(args.num_experts, args.max_rows) +
                  args.max_rows / kRows;
  int64_t units = UnitsOf(w);
  if (const PackedRows& s = args.shared.w; s.data != nullptr) {
    if (!HasRows(s) || s.bits != w.bits || s.group_shift != w.group_shift) {
      return false;
    }
    tiles += CeilDiv(args.tokens.bound, kRows);
    units = std::max(units, UnitsOf(s));
  }
  // Segments of a block: as many tiles as its share has, a part of one more at
  // each end, and the shared expert's, which may be smaller.
  return tiles * units * kBlocks <= INT32_MAX &&
         CeilDiv(tiles, kBlocks) + 2 + kMaxTokens / kRows <= kMaxSegments;
}

cudaError_t SwiGluProducts(const ExpertProductArgs& args, cudaStream_t stream) {
  return Run({args, /*swiglu=*/true, /*ahead=*/false}, stream);
}

cudaError_t DownProducts(const ExpertProductArgs& args, cudaStream_t stream) {
  return Run({args, /*swiglu=*/false, /*ahead=*/true}, stream);
}

}  // namespace strata::gpu
