#include <algorithm>
#include <cstdint>

#include "cuda/nccl/peer_push.cuh"
#include "cuda/nccl/peer_table.h"
#include "cuda/nccl/row_exchange.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kThreads = kPushThreads;
constexpr int kWarp = 32;
// Enough for the links and for memory on 132 multiprocessors; a segment, whose
// rows may be many, has a few blocks at least.
constexpr int kBlocks = 528;
constexpr int kMinBlocks = 4;

// --- The plan: one block ---

__global__ void __launch_bounds__(kMaxOwnedExperts)
    PlanKernel(PlanExchangeArgs args) {
  __shared__ int32_t scan[kMaxOwnedExperts];
  const Peers& peers = args.peers;
  const int thread = static_cast<int>(threadIdx.x);
  const int total = peers.ranks * args.experts;
  const uint32_t turn = peers.table->turn + 1;
  for (int i = thread; i < total; i += kMaxOwnedExperts) {
    auto* const piece = reinterpret_cast<int32_t*>(
        PieceOf(peers, i / args.experts, peers.rank, turn));
    piece[i % args.experts] = args.home_offset[i + 1] - args.home_offset[i];
  }
  __syncthreads();
  if (thread < peers.ranks) {
    __threadfence_system();
    StoreRelease(FlagOf(peers, thread, peers.rank), turn);
  }
  WaitForAll(peers, turn);
  const bool is_late = peers.table->late != 0;
  for (int i = thread; i < total; i += kMaxOwnedExperts) {
    const auto* const piece = reinterpret_cast<const int32_t*>(
        PieceOf(peers, peers.rank, i / args.experts, turn));
    args.count[i] = is_late ? 0 : __ldcg(piece + i % args.experts);
  }
  __syncthreads();
  int32_t rows = 0;
  if (thread < args.experts) {
    for (int r = 0; r < peers.ranks; ++r) {
      rows += args.count[r * args.experts + thread];
    }
  }
  scan[thread] = rows;
  __syncthreads();
  for (int step = 1; step < args.experts; step *= 2) {
    const int32_t before = thread >= step ? scan[thread - step] : 0;
    __syncthreads();
    scan[thread] += before;
    __syncthreads();
  }
  if (thread < args.experts) args.offset[thread + 1] = scan[thread];
  if (thread != 0) return;
  args.offset[0] = 0;
  *args.rows = scan[args.experts - 1];
  peers.table->turn = turn;
}

// --- Rows ---

// Eight floats, or as many of BF16.
struct Floats {
  float4 low, high;
};
union Rounded {
  uint4 bits;
  __nv_bfloat162 pair[4];
};

__device__ void RoundElements(__nv_bfloat16* to, const float* from, int64_t n) {
  ForElements<8>(
      n, AreAligned(to, from),
      [=](int64_t i) {
        const auto* const group = reinterpret_cast<const float4*>(from) + 2 * i;
        return Floats{group[0], group[1]};
      },
      [=](int64_t i, const Floats& x) {
        Rounded rounded;
        rounded.pair[0] = __floats2bfloat162_rn(x.low.x, x.low.y);
        rounded.pair[1] = __floats2bfloat162_rn(x.low.z, x.low.w);
        rounded.pair[2] = __floats2bfloat162_rn(x.high.x, x.high.y);
        rounded.pair[3] = __floats2bfloat162_rn(x.high.z, x.high.w);
        reinterpret_cast<uint4*>(to)[i] = rounded.bits;
      },
      [=](int64_t i) { to[i] = __float2bfloat16_rn(from[i]); });
}

__device__ void WidenElements(float* to, const __nv_bfloat16* from, int64_t n) {
  ForElements<8>(
      n, AreAligned(to, from),
      [=](int64_t i) { return reinterpret_cast<const uint4*>(from)[i]; },
      [=](int64_t i, uint4 bits) {
        Rounded rounded;
        rounded.bits = bits;
        const float2 a = __bfloat1622float2(rounded.pair[0]);
        const float2 b = __bfloat1622float2(rounded.pair[1]);
        const float2 c = __bfloat1622float2(rounded.pair[2]);
        const float2 d = __bfloat1622float2(rounded.pair[3]);
        reinterpret_cast<float4*>(to)[2 * i] = {a.x, a.y, b.x, b.y};
        reinterpret_cast<float4*>(to)[2 * i + 1] = {c.x, c.y, d.x, d.y};
      },
      [=](int64_t i) { to[i] = __bfloat162float(from[i]); });
}

// n elements from `from_at` of `from` on, to `to_at` of `to` on.
__device__ void MoveElements(const Rows& to, int64_t to_at, const Rows& from,
                             int64_t from_at, int64_t n) {
  auto* const wide_to = static_cast<float*>(to.data) + to_at;
  auto* const narrow_to = static_cast<__nv_bfloat16*>(to.data) + to_at;
  const auto* const wide = static_cast<const float*>(from.data) + from_at;
  const auto* const narrow =
      static_cast<const __nv_bfloat16*>(from.data) + from_at;
  if (to.is_bf16) {
    from.is_bf16 ? CopyElements(narrow_to, narrow, n)
                 : RoundElements(narrow_to, wide, n);
  } else {
    from.is_bf16 ? WidenElements(wide_to, narrow, n)
                 : CopyElements(wide_to, wide, n);
  }
}

// `rows` rows to, or from, row `row` of a piece; `at` is an element.
__device__ void PushRows(const RowExchangeArgs& args, char* piece, int64_t row,
                         int64_t at, int64_t rows) {
  MoveElements({piece, args.rounded}, row * args.columns, args.from, at,
               rows * args.columns);
}

__device__ void TakeRows(const RowExchangeArgs& args, int64_t at, char* piece,
                         int64_t row, int64_t rows) {
  MoveElements(args.to, at, {piece, args.rounded}, row * args.columns,
               rows * args.columns);
}

// Where the rows of sender r for owned expert e begin at the owner.
struct Segment {
  int64_t grouped = 0;   // By expert, then sender.
  int64_t in_piece = 0;  // Of that sender, by expert.
};

// By all threads of a block, for all of them.
__device__ Segment SegmentOf(const RowExchangeArgs& args, int r, int e) {
  __shared__ int32_t sums[2][kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  int32_t grouped = 0, in_piece = 0;
  for (int i = thread; i < args.peers.ranks * args.experts; i += kThreads) {
    const int sender = i / args.experts, expert = i % args.experts;
    const int32_t rows = args.count[i];
    if (expert < e || (expert == e && sender < r)) grouped += rows;
    if (expert < e && sender == r) in_piece += rows;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    grouped += __shfl_xor_sync(~0u, grouped, step);
    in_piece += __shfl_xor_sync(~0u, in_piece, step);
  }
  if (thread % kWarp == 0) {
    sums[0][thread / kWarp] = grouped;
    sums[1][thread / kWarp] = in_piece;
  }
  __syncthreads();
  Segment segment;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) {
    segment.grouped += sums[0][warp];
    segment.in_piece += sums[1][warp];
  }
  return segment;
}

// blockIdx.y is the owner. Own rows stay where they are.
__global__ void __launch_bounds__(kThreads)
    PushToOwnersKernel(RowExchangeArgs args) {
  const Peers& peers = args.peers;
  const uint32_t turn = peers.table->turn + 1;
  const int owner = static_cast<int>(blockIdx.y);
  if (owner != peers.rank) {
    const int64_t begin = args.home_offset[owner * args.experts];
    const int64_t end = args.home_offset[(owner + 1) * args.experts];
    PushRows(args, PieceOf(peers, owner, peers.rank, turn), /*row=*/0,
             begin * args.columns, end - begin);
  }
  EndPush(peers, turn);
}

// blockIdx.y is a sender, which is sent back to, and an owned expert.
__global__ void __launch_bounds__(kThreads)
    PushHomeKernel(RowExchangeArgs args) {
  const Peers& peers = args.peers;
  const uint32_t turn = peers.table->turn + 1;
  const int home = static_cast<int>(blockIdx.y) / args.experts;
  const int64_t rows = args.count[blockIdx.y];
  if (home != peers.rank && rows > 0) {
    const Segment segment =
        SegmentOf(args, home, static_cast<int>(blockIdx.y) % args.experts);
    PushRows(args, PieceOf(peers, home, peers.rank, turn), segment.in_piece,
             segment.grouped * args.columns, rows);
  }
  EndPush(peers, turn);
}

__global__ void WaitKernel(Peers peers) {
  WaitForAll(peers, peers.table->turn);
}

// blockIdx.y is a sender and an owned expert.
__global__ void __launch_bounds__(kThreads)
    TakeAtOwnerKernel(RowExchangeArgs args) {
  const Peers& peers = args.peers;
  const int sender = static_cast<int>(blockIdx.y) / args.experts;
  const int e = static_cast<int>(blockIdx.y) % args.experts;
  const int64_t rows = args.count[blockIdx.y];
  if (rows == 0) return;
  const Segment segment = SegmentOf(args, sender, e);
  const int64_t to = segment.grouped * args.columns;
  if (sender != peers.rank) {
    TakeRows(args, to, PieceOf(peers, peers.rank, sender, peers.table->turn),
             segment.in_piece, rows);
    return;
  }
  const int64_t at_home = args.home_offset[sender * args.experts + e];
  MoveElements(args.to, to, args.from, at_home * args.columns,
               rows * args.columns);
}

// blockIdx.y is an expert of all.
__global__ void __launch_bounds__(kThreads)
    TakeAtHomeKernel(RowExchangeArgs args) {
  const Peers& peers = args.peers;
  const int owner = static_cast<int>(blockIdx.y) / args.experts;
  const int64_t begin = args.home_offset[blockIdx.y];
  const int64_t rows = args.home_offset[blockIdx.y + 1] - begin;
  if (rows == 0) return;
  const int64_t to = begin * args.columns;
  if (owner != peers.rank) {
    TakeRows(args, to, PieceOf(peers, peers.rank, owner, peers.table->turn),
             begin - args.home_offset[owner * args.experts], rows);
    return;
  }
  const Segment segment =
      SegmentOf(args, peers.rank, static_cast<int>(blockIdx.y) % args.experts);
  MoveElements(args.to, to, args.from, segment.grouped * args.columns,
               rows * args.columns);
}

dim3 GridFor(int segments) {
  return dim3(std::max(kMinBlocks, kBlocks / segments), segments);
}

}  // namespace

cudaError_t WaitForPeers(const Peers& peers, cudaStream_t stream) {
  WaitKernel<<<1, kMaxPeers, 0, stream>>>(peers);
  return cudaGetLastError();
}

cudaError_t ExchangePlans(const PlanExchangeArgs& args, cudaStream_t stream) {
  PlanKernel<<<1, kMaxOwnedExperts, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t SendRowsToOwners(const RowExchangeArgs& args, cudaStream_t stream) {
  const int segments = args.peers.ranks * args.experts;
  PushToOwnersKernel<<<GridFor(args.peers.ranks), kThreads, 0, stream>>>(args);
  WaitForPeers(args.peers, stream);
  TakeAtOwnerKernel<<<GridFor(segments), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t ReturnRowsHome(const RowExchangeArgs& args, cudaStream_t stream) {
  const int segments = args.peers.ranks * args.experts;
  PushHomeKernel<<<GridFor(segments), kThreads, 0, stream>>>(args);
  WaitForPeers(args.peers, stream);
  TakeAtHomeKernel<<<GridFor(segments), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace strata::gpu
