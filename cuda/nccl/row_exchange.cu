#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/nccl/bulk_copy.cuh"
#include "cuda/nccl/peer_push.cuh"
#include "cuda/nccl/peer_table.h"
#include "cuda/nccl/row_exchange.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kWarp = 32;
// Enough for the links and for memory on 132 multiprocessors; a segment, whose
// rows may be many, has a few blocks at least.
constexpr int kBlocks = 528;
constexpr int kMinBlocks = 4;

// Beside others an exchange has few multiprocessors. Of 16 (measured on H100)
// each copies 37 GB/s; so the links have what they take, 290 to 350 GB/s, while
// rows are pushed, but what came is then taken at 590 GB/s, where the whole GPU
// has 1,700. Of 268 MB over two GPUs 16 push in 0.77 ms and take in 0.42, 24 in
// 0.82 and 0.31, and all in 0.8 and, own rows too, 0.3.
constexpr int kMaxThreads = 1024;
constexpr int kBlocksBeside = 24;
// Blocks that go to neighbouring multiprocessors, as clusters do: sixteen by
// themselves take one of each of twelve pairs, and products want both of a
// pair.
constexpr int kPair = 2;
// It begins some us after what else is ready then.
constexpr int64_t kAwaitNs = 100'000;

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

// How a block copies: by its threads, or what need not be converted by the copy
// engine, which one thread has.
struct Mover {
  bool engine = false;
  BulkCopier* copier = nullptr;  // Of that thread.
};

// n elements from `from_at` of `from` on, to `to_at` of `to` on.
__device__ void MoveElements(const Mover& mover, const Rows& to, int64_t to_at,
                             const Rows& from, int64_t from_at, int64_t n) {
#if STRATA_SM90A
  if (mover.engine && to.is_bf16 == from.is_bf16) {
    const int64_t size = to.is_bf16 ? 2 : 4, bytes = n * size;
    char* const at = static_cast<char*>(to.data) + to_at * size;
    const char* const begin =
        static_cast<const char*>(from.data) + from_at * size;
    if (AreAligned(at, begin) && bytes % sizeof(uint4) == 0) {
      if (mover.copier == nullptr) return;
      const int64_t step = int64_t{gridDim.x} * kBulkBytes;
      for (int64_t i = int64_t{blockIdx.x} * kBulkBytes; i < bytes; i += step) {
        mover.copier->Copy(
            at + i, begin + i,
            static_cast<int>(min(bytes - i, int64_t{kBulkBytes})));
      }
      return;
    }
  }
#endif
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
__device__ void PushRows(const RowExchangeArgs& args, const Mover& mover,
                         char* piece, int64_t row, int64_t at, int64_t rows) {
  MoveElements(mover, {piece, args.rounded}, row * args.columns, args.from, at,
               rows * args.columns);
}

__device__ void TakeRows(const RowExchangeArgs& args, const Mover& mover,
                         int64_t at, char* piece, int64_t row, int64_t rows) {
  MoveElements(mover, args.to, at, {piece, args.rounded}, row * args.columns,
               rows * args.columns);
}

// Where the rows of sender r for owned expert e begin at the owner.
struct Segment {
  int64_t grouped = 0;   // By expert, then sender.
  int64_t in_piece = 0;  // Of that sender, by expert.
};

// By all threads of a block, for all of them.
__device__ Segment SegmentOf(const RowExchangeArgs& args, int r, int e) {
  __shared__ int32_t sums[2][kMaxThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  int32_t grouped = 0, in_piece = 0;
  for (int i = thread; i < args.peers.ranks * args.experts; i += threads) {
    const int sender = i / args.experts, expert = i % args.experts;
    const int32_t rows = args.count[i];
    if (expert < e || (expert == e && sender < r)) grouped += rows;
    if (expert < e && sender == r) in_piece += rows;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    grouped += __shfl_xor_sync(~0u, grouped, step);
    in_piece += __shfl_xor_sync(~0u, in_piece, step);
  }
  __syncthreads();  // All have read what the segment before left.
  if (thread % kWarp == 0) {
    sums[0][thread / kWarp] = grouped;
    sums[1][thread / kWarp] = in_piece;
  }
  __syncthreads();
  Segment segment;
  for (int warp = 0; warp < threads / kWarp; ++warp) {
    segment.grouped += sums[0][warp];
    segment.in_piece += sums[1][warp];
  }
  return segment;
}

// Does body(rank, expert of an owner) for each such pair that falls to this row
// of blocks. The next rank comes first, own last: so where there are few blocks
// each rank is sent to by one other at a time.
template <typename Body>
__device__ __forceinline__ void ForSegments(const RowExchangeArgs& args,
                                            const Body& body) {
  const int ranks = args.peers.ranks;
  for (int i = static_cast<int>(blockIdx.y); i < ranks * args.experts;
       i += static_cast<int>(gridDim.y)) {
    body((i / args.experts + args.peers.rank + 1) % ranks, i % args.experts);
  }
}

// --- To owners ---

// Rows of a rank's experts `begin` to `end` - 1. Own rows stay where they are.
__device__ void PushToOwner(const RowExchangeArgs& args, const Mover& mover,
                            uint32_t turn, int owner, int begin, int end) {
  const Peers& peers = args.peers;
  if (owner == peers.rank) return;
  const int32_t* const home = args.home_offset + owner * args.experts;
  PushRows(args, mover, PieceOf(peers, owner, peers.rank, turn),
           home[begin] - home[0], home[begin] * args.columns,
           home[end] - home[begin]);
}

__device__ void TakeAtOwner(const RowExchangeArgs& args, const Mover& mover,
                            uint32_t turn, int sender, int e) {
  const Peers& peers = args.peers;
  const int at = sender * args.experts + e;
  const int64_t rows = args.count[at];
  if (rows == 0) return;
  const Segment segment = SegmentOf(args, sender, e);
  const int64_t to = segment.grouped * args.columns;
  if (sender != peers.rank) {
    TakeRows(args, mover, to, PieceOf(peers, peers.rank, sender, turn),
             segment.in_piece, rows);
    return;
  }
  MoveElements(mover, args.to, to, args.from,
               args.home_offset[at] * args.columns, rows * args.columns);
}

// --- Home ---

__device__ void PushHome(const RowExchangeArgs& args, const Mover& mover,
                         uint32_t turn, int home, int e) {
  const Peers& peers = args.peers;
  const int64_t rows = args.count[home * args.experts + e];
  if (home == peers.rank || rows == 0) return;
  const Segment segment = SegmentOf(args, home, e);
  PushRows(args, mover, PieceOf(peers, home, peers.rank, turn),
           segment.in_piece, segment.grouped * args.columns, rows);
}

__device__ void TakeAtHome(const RowExchangeArgs& args, const Mover& mover,
                           uint32_t turn, int owner, int e) {
  const Peers& peers = args.peers;
  const int at = owner * args.experts + e;
  const int64_t begin = args.home_offset[at];
  const int64_t rows = args.home_offset[at + 1] - begin;
  if (rows == 0) return;
  const int64_t to = begin * args.columns;
  if (owner != peers.rank) {
    TakeRows(args, mover, to, PieceOf(peers, peers.rank, owner, turn),
             begin - args.home_offset[owner * args.experts], rows);
    return;
  }
  const Segment segment = SegmentOf(args, peers.rank, e);
  MoveElements(mover, args.to, to, args.from, segment.grouped * args.columns,
               rows * args.columns);
}

// --- Both ---

enum class Way { kToOwners, kHome };

// What a kernel does of an exchange. Alone a part each, with a kernel of one
// warp between the two that waits for the peers, so that all of the GPU is free
// for them. Beside others all of it: a part that began when the one before has
// ended would wait for room that others took meanwhile.
enum class Part { kPush, kTake, kAll };

template <Way kWay>
__device__ __forceinline__ void TakeSegment(const RowExchangeArgs& args,
                                            const Mover& mover, uint32_t turn,
                                            int rank, int e) {
  if constexpr (kWay == Way::kToOwners) {
    TakeAtOwner(args, mover, turn, rank, e);
  } else {
    TakeAtHome(args, mover, turn, rank, e);
  }
}

// The last block to begin says so.
__device__ __forceinline__ void SayBegun(PeerTable& table) {
  if (threadIdx.x != 0) return;
  const uint32_t num_blocks = gridDim.x * gridDim.y;
  if (atomicAdd(&table.blocks_begun, 1) != num_blocks - 1) return;
  table.blocks_begun = 0;
  atomicAdd(&table.begun, 1);
}

// Waits for a little while, since nothing but speed depends on it: two branches
// of a graph need not run at a time.
__global__ void AwaitBegunKernel(PeerTable* table) {
  const uint32_t want = ++table->awaited;
  const int64_t begin = Nanoseconds();
  while (static_cast<int32_t>(LoadAcquire(&table->begun) - want) < 0 &&
         Nanoseconds() - begin < kAwaitNs) {
  }
}

// A segment, the rows of an expert of one owner and one rank, is the work of a
// row of blocks; of kPush to owners, all of an owner's experts.
template <Way kWay, Part kPart, int kThreads>
__global__ void __launch_bounds__(kThreads, kMaxThreads / kThreads)
    ExchangeKernel(const RowExchangeArgs args, bool engine) {
  const Peers& peers = args.peers;
  const uint32_t turn = peers.table->turn + (kPart == Part::kTake ? 0 : 1);
  Mover mover;
#if STRATA_SM90A
  extern __shared__ __align__(128) char memory[];
  const bool copies = kPart == Part::kAll && engine && threadIdx.x == 0;
  mover.engine = kPart == Part::kAll && engine;
  BulkCopier copier(*reinterpret_cast<BulkRing*>(memory));
  if (copies) {
    copier.Begin();
    mover.copier = &copier;
  }
#endif
  if constexpr (kPart == Part::kAll) SayBegun(*peers.table);
  if constexpr (kPart != Part::kTake) {
    if constexpr (kWay == Way::kHome) {
      ForSegments(
          args, [&](int rank, int e) { PushHome(args, mover, turn, rank, e); });
    } else if constexpr (kPart == Part::kPush) {
      PushToOwner(args, mover, turn, static_cast<int>(blockIdx.y), 0,
                  args.experts);
    } else {
      ForSegments(args, [&](int rank, int e) {
        PushToOwner(args, mover, turn, rank, e, e + 1);
      });
    }
#if STRATA_SM90A
    if (copies) copier.Finish();
#endif
    EndPush(peers, turn);
  }
  if constexpr (kPart == Part::kAll) {
    // Own rows come from no window. Whoever has seen the own flag, too, knows
    // that all blocks have pushed.
    ForSegments(args, [&](int rank, int e) {
      if (rank == peers.rank) TakeSegment<kWay>(args, mover, turn, rank, e);
    });
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < peers.ranks) WaitForPeer(peers, thread, turn);
    __syncthreads();
#if STRATA_SM90A
    if (copies) FenceCopies();
#endif
  }
  if constexpr (kPart != Part::kPush) {
    ForSegments(args, [&](int rank, int e) {
      if (kPart == Part::kAll && rank == peers.rank) return;
      TakeSegment<kWay>(args, mover, turn, rank, e);
    });
  }
#if STRATA_SM90A
  if (copies) copier.Finish();
#endif
}

__global__ void WaitKernel(Peers peers) {
  WaitForAll(peers, peers.table->turn);
}

dim3 GridFor(int segments) {
  return dim3(std::max(kMinBlocks, kBlocks / segments), segments);
}

template <Way kWay>
cudaError_t Exchange(const RowExchangeArgs& args, cudaStream_t stream) {
  const int segments = args.peers.ranks * args.experts;
  if (args.beside) {
    auto* const kernel = ExchangeKernel<kWay, Part::kAll, kMaxThreads>;
    const bool engine = IsHopper();
    const size_t shared = engine ? sizeof(BulkRing) : 0;
    const cudaError_t allowed = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel),
        cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (allowed != cudaSuccess) return allowed;
    return LaunchClusters<Begins::kBehind>(
        kernel, engine ? kPair : 1,
        dim3(kMinBlocks, kBlocksBeside / kMinBlocks), dim3(kMaxThreads), shared,
        stream, args, engine);
  }
  ExchangeKernel<kWay, Part::kPush, kPushThreads>
      <<<GridFor(kWay == Way::kToOwners ? args.peers.ranks : segments),
         kPushThreads, 0, stream>>>(args, /*engine=*/false);
  WaitForPeers(args.peers, stream);
  ExchangeKernel<kWay, Part::kTake, kPushThreads>
      <<<GridFor(segments), kPushThreads, 0, stream>>>(args, /*engine=*/false);
  return cudaGetLastError();
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

cudaError_t AwaitBegun(const Peers& peers, cudaStream_t stream) {
  AwaitBegunKernel<<<1, 1, 0, stream>>>(peers.table);
  return cudaGetLastError();
}

cudaError_t SendRowsToOwners(const RowExchangeArgs& args, cudaStream_t stream) {
  return Exchange<Way::kToOwners>(args, stream);
}

cudaError_t ReturnRowsHome(const RowExchangeArgs& args, cudaStream_t stream) {
  return Exchange<Way::kHome>(args, stream);
}

}  // namespace strata::gpu
