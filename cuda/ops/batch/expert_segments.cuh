// What a block of the experts of a batch has to do (expert_products.cu), and
// the rows of x that it needs for that, in shared memory.
//
//   tiles of rows    eight rows of x each: those of the shared expert, then
//                    expert by expert
//   a tile's units   32 rows of w each, one behind the other
//   a block          as many units as the others, one behind the other: of a
//                    tile or of two, mostly. Of each it is a segment.
//   a group          segments whose rows of x lie in shared memory at a time

#ifndef CUDA_OPS_BATCH_EXPERT_SEGMENTS_CUH_
#define CUDA_OPS_BATCH_EXPERT_SEGMENTS_CUH_

#include <cstdint>

#include "cuda/kernels/bare_codes.cuh"
#include "cuda/kernels/few_rows_operands.cuh"
#include "cuda/kernels/few_rows_plan.h"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/ops/batch/expert_products.h"
#include "cuda/ops/device.cuh"

namespace strata::gpu::batch {

constexpr int kBlockWarps = 16, kBlockThreads = kBlockWarps * kWarp;
constexpr int kMaxTokens = 64, kMaxExperts = 256;
constexpr int kMaxSegments = 16;
// Of x, with what its sums begin from: with the ring it is all of a
// multiprocessor's shared memory.
constexpr int kXBytes = 77 << 10;

// Of a row of x in shared memory.
__host__ __device__ __forceinline__ int PitchOf(const PackedRows& w) {
  return w.k * 2 + kRowPad;
}
// Of what a tile's sums begin from, behind its rows.
template <int kBits, int kGroupShift>
__host__ __device__ __forceinline__ int OffsetBytes(const PackedRows& w) {
  return w.k / kChunkColumns<kBits> * kOffsetsOfChunk<kBits, 1, kGroupShift> *
         int{sizeof(float2)};
}

// A block's units of a tile of rows.
struct Segment {
  int expert;             // 0 of what is shared.
  int units, first_unit;  // How many, and of the tile's which.
  int pairs;              // Of chunks, a unit.
  int row, num_rows;
  int x;       // Where its rows lie in shared memory.
  int before;  // Pairs of segments before it in its group.
  bool is_shared;
};
struct Group {
  int begin, end;  // Segments.
  int pairs;
};

struct Segments {
  Segment at[kMaxSegments];
  Group group[kMaxSegments];
  int count, groups;             // Of the block.
  int32_t index[kBlockThreads];  // The first of the experts' rows'.
};

__device__ __forceinline__ const ExpertRows& RowsOf(const ExpertProductArgs& p,
                                                    const Segment& s) {
  return s.is_shared ? p.shared : p.experts;
}

// Into as few groups as there is room for, by a thread.
template <int kBits, int kGroupShift>
__device__ __forceinline__ void GroupSegments(const ExpertProductArgs& p,
                                              Segments& to) {
  int groups = 0, bytes = 0;
  Group group = {0, 0, 0};
#pragma unroll 1
  for (int i = 0; i < to.count; ++i) {
    Segment& s = to.at[i];
    const PackedRows& w = RowsOf(p, s).w;
    const int more =
        s.num_rows * PitchOf(w) + OffsetBytes<kBits, kGroupShift>(w);
    if (i > group.begin && bytes + more > kXBytes) {
      to.group[groups++] = group;
      group = {i, i, 0};
      bytes = 0;
    }
    s.x = bytes;
    s.before = group.pairs;
    s.pairs = w.code_bytes / kPairBytes;
    bytes += more;
    group.end = i + 1;
    group.pairs += s.units * s.pairs;
  }
  if (to.count > 0) to.group[groups++] = group;
  to.groups = groups;
}

// By a block, a thread an expert: what it has to do.
template <int kBits, int kGroupShift>
__device__ __forceinline__ void FindSegments(const ExpertProductArgs& p,
                                             Segments& to) {
  constexpr int kExpertWarps = kMaxExperts / kWarp;
  static_assert(kMaxExperts <= kBlockThreads, "a thread an expert");
  __shared__ int tiles_of_warp[kExpertWarps];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  const auto tiles_of = [](int rows) { return (rows + kRows - 1) / kRows; };
  int row = 0, end = 0;
  if (thread < p.num_experts) {
    row = __ldcg(p.offset + thread);
    end = __ldcg(p.offset + thread + 1);
  }
  // Now, as weights are not yet asked for, which it would come behind.
  if (p.experts.index != nullptr && thread < p.max_rows) {
    to.index[thread] = __ldcg(p.experts.index + thread);
  }
  const bool has_shared = p.shared.w.data != nullptr;
  const int tokens = has_shared ? static_cast<int>(p.tokens.Get()) : 0;
  const int mine = tiles_of(end - row);
  int before = mine;
#pragma unroll
  for (int d = 1; d < kWarp; d *= 2) {
    const int other = __shfl_up_sync(kWholeWarp, before, d);
    if (Lane() >= d) before += other;
  }
  if (Lane() == kWarp - 1 && warp < kExpertWarps) tiles_of_warp[warp] = before;
  before -= mine;
  __syncthreads();
  int routed = 0;
#pragma unroll
  for (int w = 0; w < kExpertWarps; ++w) {
    if (w == warp) before += routed;
    routed += tiles_of_warp[w];
  }

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
  if (thread == 0) {
    to.count = last > first ? tile_at(last - 1) - first_tile + 1 : 0;
  }
  // Of tile `tile`, whose units begin at `begin`.
  const auto note = [&](int tile, int begin, int units, int expert,
                        int first_row, int num_rows, bool is_shared) {
    if (begin >= last || begin + units <= first) return;
    Segment& s = to.at[tile - first_tile];
    s.expert = expert;
    s.first_unit = max(first - begin, 0);
    s.units = min(begin + units, last) - begin - s.first_unit;
    s.row = first_row;
    s.num_rows = min(kRows, num_rows);
    s.is_shared = is_shared;
  };
  if (thread < shared_tiles) {
    const int from = thread * kRows;
    note(thread, thread * of_shared, of_shared, 0, from, tokens - from, true);
  }
#pragma unroll 1
  for (; row < end; row += kRows, ++before) {
    note(shared_tiles + before, shared_units + before * of_expert, of_expert,
         thread, row, end - row, false);
  }
  __syncthreads();
  if (thread == 0) GroupSegments<kBits, kGroupShift>(p, to);
  __syncthreads();
}

// A thread's part of a segment's rows of x on its way to shared memory: eight
// columns, from 8 `eight` on, of some rows from `begin` on. Of narrow rows
// threads have several, of wide ones a thread has more eights than this.
class RowsOnTheirWay {
 public:
  RowsOnTheirWay() = default;
  __device__ __forceinline__ RowsOnTheirWay(const ExpertRows& from, int eight,
                                            int begin)
      : eight_(eight), first_(begin), step_(1) {
    const int of_row = from.w.k / 8;
    if (of_row > kBlockThreads) return;
    step_ = kBlockThreads / of_row;
    const int which = eight / of_row;
    eight_ -= which * of_row;
    first_ = which < step_ ? begin + which : kRows;
  }
  __device__ __forceinline__ void Ask(const ExpertRows& from, const Segment& s,
                                      const int32_t* index) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int row = first_ + j * step_;
      if (row >= s.num_rows) break;
      int at = s.row + row;
      if (from.index != nullptr) {
        at = at < kBlockThreads ? index[at] : __ldcg(from.index + at);
      }
      v_[j] = __ldcg(
          reinterpret_cast<const uint4*>(from.x + int64_t{at} * from.w.k) +
          eight_);
    }
  }
  // Scaled, and in the order of a thread's slots.
  template <int kBits>
  __device__ __forceinline__ void Store(const ExpertRows& from,
                                        const Segment& s, char* to) const {
    const float scale = ScaleOfX<kBits>(eight_ / (kPieceColumns / 8));
    const int pitch = PitchOf(from.w);
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int row = first_ + j * step_;
      if (row >= s.num_rows) break;
      *reinterpret_cast<uint4*>(to + row * pitch + eight_ * 16) =
          ScaledEight(v_[j], scale);
    }
  }
  __device__ __forceinline__ int NumRows() const { return kLoads * step_; }

 private:
  static constexpr int kLoads = 4;

  int eight_, first_, step_;
  uint4 v_[kLoads];
};

// By all threads: a segment's rows of x to shared memory; but for the first of
// a thread's, if they are on their way.
template <int kBits>
__device__ __forceinline__ void StageRows(const ExpertRows& from,
                                          const Segment& s,
                                          const int32_t* index, bool but_first,
                                          char* to) {
  const int thread = static_cast<int>(threadIdx.x);
  int eight = thread;
  do {
    int begin = 0;
    while (begin < s.num_rows) {
      RowsOnTheirWay rows(from, eight, begin);
      if (!but_first || eight != thread || begin != 0) {
        rows.Ask(from, s, index);
        rows.Store<kBits>(from, s, to);
      }
      begin += rows.NumRows();
    }
    eight += kBlockThreads;
  } while (eight < from.w.k / 8);
}

}  // namespace strata::gpu::batch

#endif  // CUDA_OPS_BATCH_EXPERT_SEGMENTS_CUH_
