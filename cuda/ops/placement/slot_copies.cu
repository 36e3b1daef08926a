#include <algorithm>
#include <cstdint>

#include "cuda/nccl/peer_push.cuh"
#include "cuda/nccl/row_exchange.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/placement/slot_copies.h"

namespace strata::gpu {
namespace {

// Blocks of a launch that moves rows, and at least of a slot or a peer.
constexpr int kRowBlocks = 528;
constexpr int kMinRowBlocks = 4;

dim3 GridFor(int segments) {
  return dim3(std::max(kMinRowBlocks, kRowBlocks / segments), segments);
}

// --- The map: one block, a thread an expert ---
//
// Every thread goes through the table, a piece of it at a time in shared
// memory, and so sees the slots of its expert in their order.

constexpr int kMapThreads = 1024;

__global__ void __launch_bounds__(kMapThreads)
    MapKernel(SlotMap map, bool want_all) {
  __shared__ int32_t piece[kMapThreads];
  const int thread = static_cast<int>(threadIdx.x);
  for (int e = thread; e < map.experts; e += kMapThreads) map.number[e] = 0;
  for (int begin = 0; begin < map.slots; begin += kMapThreads) {
    const int n = min(kMapThreads, map.slots - begin);
    if (thread < n) {
      const int32_t e = map.table[begin + thread];
      piece[thread] = e;
      if (e < 0 || e >= map.experts) {
        map.fault.Report(FaultKind::kTable, begin + thread, e, map.experts);
      }
    }
    __syncthreads();
    for (int e = thread; e < map.experts; e += kMapThreads) {
      int32_t* const copy = map.copy + int64_t{e} * map.ranks;
      int number = map.number[e];
      for (int i = 0; i < n; ++i) {
        if (piece[i] != e) continue;
        const int slot = begin + i;
        if (number > 0 && copy[number - 1] / map.own == slot / map.own) {
          continue;
        }
        copy[number++] = slot;
      }
      map.number[e] = number;
    }
    __syncthreads();
  }
  if (!want_all) return;
  for (int e = thread; e < map.experts; e += kMapThreads) {
    if (map.number[e] == 0) {
      map.fault.Report(FaultKind::kNoSlot, e, 0, map.experts);
    }
  }
}

__global__ void __launch_bounds__(kBlock) PlaceKernel(PlaceChoicesArgs args) {
  const SlotMap& map = args.map;
  const int64_t n = args.tokens.Get() * args.k;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const int32_t e = args.expert[i];
    const int number = e >= 0 && e < map.experts ? map.number[e] : 0;
    if (number == 0) {
      args.slot[i] = -1;
      if (e != -1) map.fault.Report(FaultKind::kChoice, i, e, map.experts);
      continue;
    }
    // Tokens take turns at the copies.
    args.slot[i] = map.copy[int64_t{e} * map.ranks + i / args.k % number];
  }
}

// --- Sums over copies ---
//
//   share   a thread a peer: which experts both have, in their order, so that
//           both know where in a piece each is
//   push    their gradients into the peer's window
//   sum     a block row an own slot: own and received ones in the order of
//           ranks, to all slots here that hold the expert

__device__ __forceinline__ bool IsOn(const SlotMap& map, int e, int rank,
                                     int* slot) {
  for (int c = 0; c < map.number[e]; ++c) {
    *slot = map.copy[int64_t{e} * map.ranks + c];
    if (*slot / map.own == rank) return true;
  }
  return false;
}

__global__ void __launch_bounds__(kMaxPeers) ShareKernel(SumCopiesArgs args) {
  const SlotMap& map = args.map;
  const int r = static_cast<int>(threadIdx.x);
  if (r >= map.ranks) return;
  int n = 0;
  for (int e = 0; e < map.experts; ++e) {
    int mine = 0, other = 0;
    int32_t place = -1;
    if (r != args.peers.rank && IsOn(map, e, args.peers.rank, &mine) &&
        IsOn(map, e, r, &other) && n < args.max_shared) {
      args.shared[r * args.max_shared + n] = mine % map.own;
      place = n++;
    }
    args.place[int64_t{e} * map.ranks + r] = place;
  }
  args.num_shared[r] = n;
}

// blockIdx.y is the peer.
__global__ void __launch_bounds__(kPushThreads)
    PushCopiesKernel(SumCopiesArgs args) {
  const int r = static_cast<int>(blockIdx.y);
  const uint32_t turn = args.peers.table->turn + 1;
  if (r != args.peers.rank) {
    auto* to =
        reinterpret_cast<float*>(PieceOf(args.peers, r, args.peers.rank, turn));
    for (int i = 0; i < args.num_shared[r]; ++i) {
      const int64_t slot = args.shared[r * args.max_shared + i];
      for (int g = 0; g < args.grads.count; ++g) {
        const int64_t n = args.grads.size[g];
        CopyElements(to, args.grads.data[g] + slot * n, n);
        to += n;
      }
    }
  }
  EndPush(args.peers, turn);
}

// blockIdx.y is an own slot.
__global__ void __launch_bounds__(kBlock) SumKernel(SumCopiesArgs args) {
  // What the copies' gradients are added from; null: from here.
  __shared__ const float* from[kMaxPeers];
  const SlotMap& map = args.map;
  const Peers& peers = args.peers;
  const int slot = static_cast<int>(blockIdx.y);
  const int32_t* const here = map.table + peers.rank * map.own;
  const int32_t e = here[slot];
  if (e < 0 || e >= map.experts) return;
  // The first slot here that holds the expert adds up for the others.
  bool is_alone = map.number[e] == 1;
  for (int s = 0; s < map.own; ++s) {
    if (here[s] != e || s == slot) continue;
    if (s < slot) return;
    is_alone = false;
  }
  if (is_alone) return;
  const int number = map.number[e];
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < number) {
    const int r = map.copy[int64_t{e} * map.ranks + thread] / map.own;
    const int32_t place = args.place[int64_t{e} * map.ranks + r];
    from[thread] = r == peers.rank || place < 0
                       ? nullptr
                       : reinterpret_cast<const float*>(
                             PieceOf(peers, peers.rank, r, peers.table->turn)) +
                             place * args.grads.width;
  }
  __syncthreads();
  int64_t begin = 0;  // Of the gradient in a slot's piece.
  for (int g = 0; g < args.grads.count; ++g) {
    const int64_t n = args.grads.size[g];
    float* const grad = args.grads.data[g];
    for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
      float sum = 0;
      for (int c = 0; c < number; ++c) {
        sum += from[c] != nullptr ? from[c][begin + i] : grad[slot * n + i];
      }
      for (int s = slot; s < map.own; ++s) {
        if (here[s] == e) grad[s * n + i] = sum;
      }
    }
    begin += n;
  }
}

// --- The norm ---

constexpr int64_t kSquaresOfBlock = 1 << 15;
constexpr int kMaxPieces = 64;

// blockIdx: piece, gradient, own slot.
__global__ void __launch_bounds__(kBlock) SquaresKernel(ExpertNormArgs args) {
  const int g = static_cast<int>(blockIdx.y);
  const int64_t slot = blockIdx.z;
  const int64_t n = args.grads.size[g];
  const float* const grad = args.grads.data[g] + slot * n;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const double x = grad[i];
    sum = fma(x, x, sum);
  }
  sum = BlockSum(sum);
  if (threadIdx.x != 0) return;
  args.partial[(slot * args.grads.count + g) * args.pieces + blockIdx.x] = sum;
}

// One block: a slot's squares to all ranks, then all experts' in their order,
// which does not depend on where they are.
__global__ void __launch_bounds__(kBlock)
    ExpertNormKernel(ExpertNormArgs args) {
  const SlotMap& map = args.map;
  const Peers& peers = args.peers;
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t turn = peers.table->turn + 1;
  const auto piece_of = [&](int owner, int sender) {
    return reinterpret_cast<double*>(PieceOf(peers, owner, sender, turn));
  };
  const int64_t each = int64_t{args.grads.count} * args.pieces;
  for (int s = thread / kWarp; s < map.own; s += kWarpsPerBlock) {
    double sum = 0;
    for (int64_t i = Lane(); i < each; i += kWarp) {
      sum += args.partial[s * each + i];
    }
    sum = WarpSum(sum);
    for (int r = Lane(); r < peers.ranks; r += kWarp) {
      piece_of(r, peers.rank)[s] = sum;
    }
  }
  __syncthreads();
  if (thread < peers.ranks) {
    __threadfence_system();
    StoreRelease(FlagOf(peers, thread, peers.rank), turn);
  }
  WaitForAll(peers, turn);
  double sum = 0;
  for (int e = thread; e < map.experts; e += kBlock) {
    if (map.number[e] == 0) continue;
    const int slot = map.copy[int64_t{e} * map.ranks];
    sum += __ldcg(piece_of(peers.rank, slot / map.own) + slot % map.own);
  }
  sum = BlockSum(sum);
  if (thread != 0) return;
  *args.norm = static_cast<float>(sqrt(sum) / *args.divisor);
  peers.table->turn = turn;
}

}  // namespace

cudaError_t MapSlots(const SlotMap& map, bool want_all, cudaStream_t stream) {
  MapKernel<<<1, kMapThreads, 0, stream>>>(map, want_all);
  return cudaGetLastError();
}

cudaError_t PlaceInSlots(const PlaceChoicesArgs& args, cudaStream_t stream) {
  const int64_t n = args.tokens.bound * args.k;
  if (n == 0) return cudaSuccess;
  PlaceKernel<<<BlocksFor(n), kBlock, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t SumOverCopies(const SumCopiesArgs& args, cudaStream_t stream) {
  ShareKernel<<<1, kMaxPeers, 0, stream>>>(args);
  PushCopiesKernel<<<GridFor(args.map.ranks), kPushThreads, 0, stream>>>(args);
  WaitForPeers(args.peers, stream);
  SumKernel<<<GridFor(args.map.own), kBlock, 0, stream>>>(args);
  return cudaGetLastError();
}

int ExpertNormPieces(const SlotGrads& grads) {
  const int64_t most = *std::max_element(grads.size, grads.size + grads.count);
  return static_cast<int>(
      std::clamp<int64_t>(CeilDiv(most, kSquaresOfBlock), 1, kMaxPieces));
}

cudaError_t NormOfExperts(const ExpertNormArgs& args, cudaStream_t stream) {
  SquaresKernel<<<dim3(static_cast<unsigned>(args.pieces),
                       static_cast<unsigned>(args.grads.count),
                       static_cast<unsigned>(args.map.own)),
                  kBlock, 0, stream>>>(args);
  ExpertNormKernel<<<1, kBlock, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace strata::gpu
