#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/bare_codes.cuh"
#include "cuda/kernels/few_rows_operands.cuh"
#include "cuda/kernels/few_rows_plan.h"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/batch/expert_products.h"
#include "cuda/ops/batch/expert_segments.cuh"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

// A block has segments (expert_segments.cuh): units of eight rows of x by 32
// rows of w, of SwiGLU 16 of each half, so that a warp has both of a column. A
// warp has as many pairs of chunks of them as the others, one behind the other,
// which the copy engine brings two ahead; of its first and last unit mostly a
// part, whose sums go from warp to warp, backwards, to the one that has the
// unit's first.
//
// Codes are operands as they lie (bare_codes.cuh). Bound by reading w, of which
// a multiprocessor has up to 147 KB on their way, if warps are quick: a pair is
// some 460 instructions, and at the memory's rate the four warps that share a
// scheduler have 1,000 cycles for one.

namespace strata::gpu {
namespace {

using batch::FindSegments;
using batch::Group;
using batch::kBlockThreads;
using batch::kBlockWarps;
using batch::kMaxExperts;
using batch::kMaxSegments;
using batch::kMaxTokens;
using batch::kXBytes;
using batch::OffsetBytes;
using batch::PitchOf;
using batch::RowsOf;
using batch::RowsOnTheirWay;
using batch::Segment;
using batch::Segments;
using batch::StageRows;

constexpr int64_t kBlocks = 132;
constexpr int kSharedBytes =
    kSwizzleBytes + int{sizeof(StreamRing<kBlockWarps>)} + kXBytes;

struct Args {
  ExpertProductArgs product;
  bool swiglu = false;
  bool ahead = false;  // Offsets are there before earlier kernels have ended.
};

int64_t UnitsOf(const PackedRows& w) { return w.n / kWarpRows; }

// Where a warp is among its pairs of a group.
struct Share {
  int segment, unit, pair;
  int left;  // Pairs.

  static __device__ __forceinline__ int First(const Group& group, int warp) {
    return group.pairs * warp / kBlockWarps;
  }
  static __device__ __forceinline__ Share Of(const Segments& s, int group,
                                             int warp) {
    const Group& g = s.group[group];
    const int first = First(g, warp);
    Share share = {g.begin, 0, 0, First(g, warp + 1) - first};
    if (share.left == 0) return share;
    const auto end_of = [&](const Segment& of) {
      return of.before + of.units * of.pairs;
    };
    while (first >= end_of(s.at[share.segment])) ++share.segment;
    const Segment& of = s.at[share.segment];
    share.unit = (first - of.before) / of.pairs;
    share.pair = first - of.before - share.unit * of.pairs;
    return share;
  }
  // `pairs` on, at most to the unit's end.
  __device__ __forceinline__ void Advance(const Segments& s, int pairs) {
    left -= pairs;
    pair += pairs;
    if (pair < s.at[segment].pairs) return;
    pair = 0;
    if (++unit == s.at[segment].units) {
      unit = 0;
      ++segment;
    }
  }
};

#if STRATA_SM90A

// What a warp asks for next: of a unit's rows a pair of chunks, codes from the
// copy engine, as a box, and scales by asynchronous copies of a lane a row.
// What is not a lane's own is the same in all lanes (and known to be: else
// asking is a loop over lanes).
template <int kBits, int kGroupShift>
class Asking {
 public:
  // Arrivals at a barrier.
  static constexpr int kArrivals = 1 + kWarp;

  __device__ __forceinline__ Asking(const ExpertProductArgs& p,
                                    const Segments& segments, int warp,
                                    bool swiglu)
      : p_(p),
        segments_(segments),
        warp_(warp),
        depth_(swiglu ? 2 : 1),
        rows_(kWarpRows / depth_) {}

  // To slot `slot` of the warp's, if anything is left.
  __device__ __forceinline__ void Ask(const CUtensorMap& of_experts,
                                      const CUtensorMap& of_shared,
                                      uint8_t* code, uint8_t* scale,
                                      uint64_t* came, int slot) {
    while (left_ == 0) {
      if (next_group_ >= segments_.groups) return;
      const Share share = Share::Of(segments_, next_group_++, warp_);
      left_ = Uniform(share.left);
      segment_ = Uniform(share.segment);
      if (left_ > 0) Enter(Uniform(share.unit), Uniform(share.pair));
    }
    uint64_t* const barrier = came + slot;
    if (Lane() == 0) {
      ArriveExpecting(barrier, kWarpRows * kPairBytes);
      LoadBox(is_shared_ ? &of_shared : &of_experts,
              code + slot * (kWarpRows * kPairBytes), barrier,
              pair_ * kPairBytes, row_, matrix_);
    }
    CopyAsync(scales_ + pair_ * kScalesOfPair / kScaleBytes * kScaleBytes,
              scale + (slot * kWarpRows + Lane()) * kScaleBytes);
    ArriveWhenCopied(barrier);
    --left_;
    if (++pair_ < pairs_) return;
    pair_ = 0;
    row_ += rows_;
    scales_ += rows_ * row_bytes_;
    if (++unit_ < units_ || left_ == 0) return;
    ++segment_;
    Enter(0, 0);
  }

 private:
  // Bytes, of a row.
  static constexpr int kScalesOfPair =
      2 * (2 * kChunkColumns<kBits> >> kGroupShift);

  __device__ __forceinline__ void Enter(int unit, int pair) {
    const Segment& s = segments_.at[segment_];
    unit_ = unit;
    units_ = Uniform(s.units);
    pair_ = pair;
    pairs_ = Uniform(s.pairs);
    row_ = (Uniform(s.first_unit) + unit) * rows_;
    matrix_ = Uniform(s.expert) * depth_;
    is_shared_ = Uniform(s.is_shared) != 0;
    const PackedRows& w = RowsOf(p_, s).w;
    row_bytes_ = static_cast<int>(w.row_bytes);
    const int matrix = matrix_ + Lane() / rows_;
    const int row =
        matrix * (static_cast<int>(w.n) / depth_) + row_ + Lane() % rows_;
    scales_ = w.data + int64_t{row} * row_bytes_ + w.code_bytes;
  }

  const ExpertProductArgs& p_;
  const Segments& segments_;
  const int warp_, depth_, rows_;
  int next_group_ = 0, left_ = 0;
  int segment_ = 0, unit_ = 0, units_ = 0, pair_ = 0, pairs_ = 0;
  int row_ = 0, matrix_ = 0, row_bytes_ = 0;
  bool is_shared_ = false;
  const uint8_t* scales_ = nullptr;  // Of the lane's row.
};

#endif  // STRATA_SM90A

// What a warp has of eight rows by 32 of w.
__device__ __forceinline__ void StoreUnit(const Args& a, const Segment& s,
                                          int unit, float (&total)[2][1][4]) {
  const ExpertRows& rows = RowsOf(a.product, s);
  const int n = static_cast<int>(rows.w.n), width = n / 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = Lane() % 4 * 2 + i % 2;
    const int column = i / 2 * 8 + RowOfLane(Lane());
    if (row >= s.num_rows) continue;
    total[0][0][i] *= kScaleOfSums;
    total[1][0][i] *= kScaleOfSums;
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

// Of a part, in memory.
__device__ __forceinline__ void StorePart(const float (&total)[2][1][4],
                                          float4* to) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const float(&v)[4] = total[m][0];
    __stcg(to + m * kWarp, float4{v[0], v[1], v[2], v[3]});
  }
}
__device__ __forceinline__ void AddPart(const float4* from,
                                        float (&total)[2][1][4]) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const float4 v = __ldcg(from + m * kWarp);
    float(&to)[4] = total[m][0];
    to[0] += v.x, to[1] += v.y, to[2] += v.z, to[3] += v.w;
  }
}

template <int kBits, int kGroupShift>
__global__ void __launch_bounds__(kBlockThreads, 1)
    ExpertProductKernel(const __grid_constant__ Args a,
                        const __grid_constant__ CUtensorMap of_experts,
                        const __grid_constant__ CUtensorMap of_shared) {
#if STRATA_SM90A
  constexpr int kVectorsOfChunk = kVectorsOfX<kBits, 1, OfX::kRounded>;
  constexpr int kOffsets = kOffsetsOfChunk<kBits, 1, kGroupShift>;
  constexpr int kEarly = 2;
  extern __shared__ char memory[];
  __shared__ Segments segments;
  __shared__ uint64_t came_of_warp[kBlockWarps][kSlots];
  __shared__ uint64_t joined[kBlockWarps];  // Once a group.
  auto& ring = *reinterpret_cast<StreamRing<kBlockWarps>*>(
      memory +
      (kSwizzleBytes - SharedAddress(memory) % kSwizzleBytes) % kSwizzleBytes);
  char* const x = reinterpret_cast<char*>(&ring + 1);
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = Uniform(thread / kWarp);
  uint64_t* const came = came_of_warp[warp];
  uint8_t* const code = ring.code[warp][0];
  uint8_t* const scale = ring.scale[warp][0];
  if (Lane() == 0) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      InitBarrier(&came[i], Asking<kBits, kGroupShift>::kArrivals);
    }
    InitBarrier(&joined[warp], 1);
    FenceBarrierInit();
  }
  if (!a.ahead) {
    WaitForEarlier();
    LetLaterBegin();
  }
  const ExpertProductArgs& p = a.product;
  FindSegments<kBits, kGroupShift>(p, segments);

  // The first rows of x, if they are there: behind weights they would wait
  // until all those have come.
  const int early =
      a.ahead || segments.groups == 0 ? 0 : min(kEarly, segments.group[0].end);
  RowsOnTheirWay first[kEarly];
#pragma unroll
  for (int i = 0; i < kEarly; ++i) {
    if (i >= early) break;
    const Segment& s = segments.at[i];
    first[i] = RowsOnTheirWay(RowsOf(p, s), thread, 0);
    first[i].Ask(RowsOf(p, s), s, segments.index);
  }
  Asking<kBits, kGroupShift> asking(p, segments, warp, a.swiglu);
  const auto ask = [&](int slot) {
    asking.Ask(of_experts, of_shared, code, scale, came, slot);
  };
#pragma unroll
  for (int i = 0; i < kSlots; ++i) ask(i);
  if (a.ahead) {
    WaitForEarlier();
    LetLaterBegin();
  }
#pragma unroll
  for (int i = 0; i < kEarly; ++i) {
    if (i >= early) break;
    const Segment& s = segments.at[i];
    first[i].template Store<kBits>(RowsOf(p, s), s, x + s.x);
  }

  // Of 16 bytes: piece i of a row lies at i ^ row.
  const int row_of_eight = RowOfLane(Lane()), piece = Lane() % 4 / 2;
  const int byte =
      row_of_eight * kPairBytes + (piece ^ row_of_eight) * 16 + Lane() % 2 * 8;
  const auto row_of_x = [&](const Segment& s, int pitch) {
    // Results of rows that are not there are not stored.
    return reinterpret_cast<const uint4*>(
               x + s.x + min(Lane() / 4, s.num_rows - 1) * pitch) +
           Lane() % 4;
  };
  const auto offsets_of = [&](const Segment& s, int pitch) {
    return reinterpret_cast<float2*>(x + s.x + s.num_rows * pitch);
  };
  // A warp's sums of a part of a unit.
  const auto part_of = [&](int of_warp) {
    return reinterpret_cast<float4*>(p.parts) +
           (static_cast<int>(blockIdx.x) * kBlockWarps + of_warp) * 2 * kWarp +
           Lane();
  };
  int slot = 0;
  uint32_t phase = 0;
  for (int g = 0; g < segments.groups; ++g) {
    const Group& group = segments.group[g];
    if (g > 0) __syncthreads();  // Rows of x before have been read.
    for (int i = group.begin; i < group.end; ++i) {
      const Segment& s = segments.at[i];
      StageRows<kBits>(RowsOf(p, s), s, segments.index,
                       /*but_first=*/i < early, x + s.x);
    }
    __syncthreads();
    for (int i = group.begin; i < group.end; ++i) {
      const Segment& s = segments.at[i];
      const PackedRows& w = RowsOf(p, s).w;
      const uint4* const x_row = row_of_x(s, PitchOf(w));
      float2* const offsets = offsets_of(s, PitchOf(w));
      for (int c = warp; c < w.k / kChunkColumns<kBits>; c += kBlockWarps) {
        StoreOffsets<kBits, 1, kGroupShift>(
            [&](int p, int) { return x_row[c * kVectorsOfChunk + p * 4]; },
            offsets + c * kOffsets);
      }
    }
    __syncthreads();
    Share at = Share::Of(segments, g, warp);
    bool has_first = at.pair == 0;  // Of the unit's pairs.
    if ((has_first || at.left == 0) && Lane() == 0) Arrive(&joined[warp]);
    while (at.left > 0) {
      const Segment& s = segments.at[at.segment];
      const int pitch = PitchOf(RowsOf(p, s).w);
      const int end = min(s.pairs, at.pair + at.left);
      const uint4* x_row = row_of_x(s, pitch) + 2 * at.pair * kVectorsOfChunk;
      const float2* offsets = offsets_of(s, pitch) + 2 * at.pair * kOffsets;
      float total[2][1][4] = {};
#pragma unroll 1
      for (int pair = at.pair; pair < end; ++pair) {
        Wait(&came[slot], phase);
        const uint8_t* const codes =
            code + slot * (kWarpRows * kPairBytes) + byte;
        const uint8_t* const scales = scale + slot * (kWarpRows * kScaleBytes) +
                                      row_of_eight * kScaleBytes;
#pragma unroll
        for (uint32_t c = 0; c < 2; ++c) {
          const int low = (byte ^ c * kChunkBytes) - byte;
          const int high = (byte ^ c * kChunkBytes ^ kChunkBytes / 2) - byte;
          Chunk<kBits> now[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint8_t* const from = codes + i * kRows * kPairBytes;
            now[i].template LoadCopy<kGroupShift>(
                from + low, from + high, scales + i * kRows * kScaleBytes,
                2 * pair + c);
            now[i].SpreadScales(kGroupShift);
          }
          AddBareChunk<kBits, 1, kGroupShift>(
              now, [&](int p, int) { return x_row[p * 4]; }, offsets, total);
          x_row += kVectorsOfChunk;
          offsets += kOffsets;
        }
        __syncwarp();  // All have read.
        ask(slot);
        if (++slot == kSlots) {
          slot = 0;
          phase ^= 1;
        }
      }
      if (end < s.pairs) {  // The next warp that has any has more of it.
        int next = warp + 1;
        while (Share::First(group, next + 1) == Share::First(group, next)) {
          ++next;
        }
        Wait(&joined[next], g % 2);
        AddPart(part_of(next), total);
      }
      if (has_first) {
        StoreUnit(a, s, s.first_unit + at.unit, total);
      } else {
        StorePart(total, part_of(warp));
        __syncwarp();
        if (Lane() == 0) Arrive(&joined[warp]);
      }
      at.Advance(segments, end - at.pair);
      has_first = true;
    }
  }
#endif
}

// Boxes of a unit's codes, of one of a launch's weights, of which there are
// `count`.
cudaError_t MapRows(const PackedRows& w, int64_t count, bool swiglu,
                    CUtensorMap* map) {
  const int halves = swiglu ? 2 : 1;
  BoxedBytes bytes;
  bytes.data = w.data;
  bytes.matrices = count * halves;
  bytes.rows = w.n / halves;
  bytes.row_bytes = w.row_bytes;
  bytes.box_matrices = halves;
  bytes.box_rows = kWarpRows / halves;
  bytes.box_bytes = kPairBytes;
  bytes.l2_bytes = 128;
  return MakeByteMap(bytes, map);
}

template <int kBits, int kGroupShift>
cudaError_t Launch(const Args& args, cudaStream_t stream) {
  const auto kernel = ExpertProductKernel<kBits, kGroupShift>;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  const ExpertProductArgs& p = args.product;
  CUtensorMap of_experts = {}, of_shared = {};
  if (const cudaError_t e =
          MapRows(p.experts.w, p.num_experts, args.swiglu, &of_experts)) {
    return e;
  }
  if (p.shared.w.data != nullptr) {
    if (const cudaError_t e = MapRows(p.shared.w, 1, args.swiglu, &of_shared)) {
      return e;
    }
  }
  return LaunchAhead(kernel, dim3(kBlocks), dim3(kBlockThreads), kSharedBytes,
                     stream, args, of_experts, of_shared);
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
         kRows * PitchOf(w) + OffsetBytes<4, 5>(w) <= kXBytes;
}

}  // namespace

int64_t ExpertProductParts() {
  return kBlocks * kBlockWarps * kRows * kWarpRows;
}

bool HasExpertProducts(const ExpertProductArgs& args) {
  const PackedRows& w = args.experts.w;
  if (!IsHopper() || args.tokens.bound > kMaxTokens || args.num_experts < 1 ||
      args.num_experts > kMaxExperts || !HasRows(w) ||
      args.num_experts * w.n > INT32_MAX) {
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
