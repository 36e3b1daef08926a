// What kernels that write into their peers' windows have in common: pieces and
// flags of a turn, and elements copied by a grid (cuda/nccl/peer_table.h).
//
//   push kernel   writes pieces of turn table->turn + 1, then EndPush()
//   wait          WaitForAll(), or cuda/nccl/row_exchange.h's WaitForPeers(), a
//                 kernel of its own
//   take kernel   reads the pieces of table->turn

#ifndef CUDA_NCCL_PEER_PUSH_CUH_
#define CUDA_NCCL_PEER_PUSH_CUH_

#include <cstdint>

#include "cuda/nccl/peer_table.h"
#include "cuda/runtime/fault.h"
#include "cuda/runtime/wait_clock.h"
#include "cuda_runtime.h"

namespace strata::gpu {

// Of a block that pushes or takes with the GPU to itself.
constexpr int kPushThreads = 256;
constexpr int kPushUnroll = 4;

__device__ __forceinline__ void StoreRelease(uint32_t* at, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(value)
               : "memory");
}

__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* at) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];"
               : "=r"(value)
               : "l"(at)
               : "memory");
  return value;
}

// Where rank `owner` has the flag of `sender`.
__device__ __forceinline__ uint32_t* FlagOf(const Peers& peers, int owner,
                                            int sender) {
  return reinterpret_cast<uint32_t*>(peers.table->block[owner]) + sender;
}

// Where rank `owner` has what `sender` writes in a turn.
__device__ __forceinline__ char* PieceOf(const Peers& peers, int owner,
                                         int sender, uint32_t turn) {
  const int64_t piece = static_cast<int64_t>(turn & 1) * peers.ranks + sender;
  return peers.table->block[owner] + kPeerFlagBytes +
         piece * peers.table->piece_bytes;
}

// Waits for the flag of rank `r`. Where one did not come the others are not
// waited for again: the program ends, with the first fault.
__device__ inline void WaitForPeer(const Peers& peers, int r, uint32_t turn) {
  const uint32_t* const flag = FlagOf(peers, peers.rank, r);
  volatile int32_t* const late = &peers.table->late;
  const int64_t begin = Nanoseconds();
  while (static_cast<int32_t>(LoadAcquire(flag) - turn) < 0) {
    if (*late != 0) return;
    if (Nanoseconds() - begin < peers.timeout_ns) continue;
    *late = 1;
    constexpr int64_t kNsPerMs = 1'000'000;
    peers.fault.Report(FaultKind::kLatePeer, r, 0, peers.timeout_ns / kNsPerMs);
    return;
  }
}

// Waits for the flags of all ranks, by all threads of a block, the only one,
// and counts how long.
__device__ inline void WaitForAll(const Peers& peers, uint32_t turn) {
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t begin = Nanoseconds();
  if (thread < peers.ranks) WaitForPeer(peers, thread, turn);
  __syncthreads();
  if (thread == 0 && peers.waits != nullptr) {
    peers.waits->total_ns += Nanoseconds() - begin;
  }
}

// Does n elements of a segment, shared out over the blocks of a grid's row,
// whatever their threads: in groups of kWidth that `load` and `store` take by
// their number where they are aligned, several on their way at once, else by
// `one` each.
template <int kWidth, typename Load, typename Store, typename One>
__device__ __forceinline__ void ForElements(int64_t n, bool aligned,
                                            const Load& load,
                                            const Store& store,
                                            const One& one) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  if (!aligned || n % kWidth != 0) {
    for (; i < n; i += stride) one(i);
    return;
  }
  const int64_t groups = n / kWidth;
  for (; i + (kPushUnroll - 1) * stride < groups; i += kPushUnroll * stride) {
    decltype(load(0)) group[kPushUnroll];
#pragma unroll
    for (int u = 0; u < kPushUnroll; ++u) group[u] = load(i + u * stride);
#pragma unroll
    for (int u = 0; u < kPushUnroll; ++u) store(i + u * stride, group[u]);
  }
  for (; i < groups; i += stride) store(i, load(i));
}

__device__ __forceinline__ bool AreAligned(const void* a, const void* b) {
  return ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) %
          sizeof(uint4)) == 0;
}

// To and from a window, n elements; or between arrays.
template <typename T>
__device__ __forceinline__ void CopyElements(T* to, const T* from, int64_t n) {
  constexpr int kWidth = sizeof(uint4) / sizeof(T);
  ForElements<kWidth>(
      n, AreAligned(to, from),
      [=](int64_t i) { return reinterpret_cast<const uint4*>(from)[i]; },
      [=](int64_t i, uint4 group) { reinterpret_cast<uint4*>(to)[i] = group; },
      [=](int64_t i) { to[i] = from[i]; });
}

// The last block to be done says so to the peers.
__device__ inline void EndPush(const Peers& peers, uint32_t turn) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence_system();
  const uint32_t num_blocks = gridDim.x * gridDim.y;
  if (atomicAdd(&peers.table->blocks_done, 1) != num_blocks - 1) return;
  __threadfence_system();
  peers.table->blocks_done = 0;
  peers.table->turn = turn;
  for (int r = 0; r < peers.ranks; ++r) {
    StoreRelease(FlagOf(peers, r, peers.rank), turn);
  }
}

}  // namespace strata::gpu

#endif  // CUDA_NCCL_PEER_PUSH_CUH_
