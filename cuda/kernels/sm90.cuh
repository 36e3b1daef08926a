// Hopper's asynchronous instructions as functions: barriers in shared memory,
// tiles moved by the copy engine (TMA), registers given from warpgroup to
// warpgroup. Of NVIDIA's PTX ISA 9.0, sections 9.7.9 and 9.7.13.
//
// Everything here is for sm_90a. STRATA_SM90A is 1 while code for it is
// compiled; elsewhere kernels have no body, and the host does not launch them.

#ifndef CUDA_KERNELS_SM90_CUH_
#define CUDA_KERNELS_SM90_CUH_

#include <cstdint>

#include "cuda.h"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define STRATA_SM90A 1
#else
#define STRATA_SM90A 0
#endif

namespace strata::gpu {

constexpr int kWarpgroup = 128;  // Threads that issue a product together.

// A row of a swizzled tile: 64 BF16. Its 16-byte pieces are permuted within
// eight rows, so tiles start at multiples of kSwizzleBytes.
constexpr int kSwizzleColumns = 64;
constexpr int kSwizzleBytes = 1024;

// The first lane's, so that the compiler knows the warp to be of one mind:
// products in a branch that might diverge are issued one by one, and a copy
// whose place might differ is a loop over lanes.
__device__ __forceinline__ int Uniform(int x) {
  return __shfl_sync(0xffffffff, x, 0);
}

#if STRATA_SM90A

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- Barriers: a phase ends when `count` have arrived and all bytes came ---

__device__ __forceinline__ void InitBarrier(uint64_t* barrier, int count) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(count));
}

// Makes what InitBarrier did known to the copy engine and the cluster; before
// the block's (or the cluster's) barrier.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and says that `bytes` will come in this phase.
__device__ __forceinline__ void ArriveExpecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   SharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile(
      "mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier))
      : "memory");
}

// Arrives at the same barrier of block `rank` of the cluster. Says only that
// this block has read: what it wrote is not made known to the other.
__device__ __forceinline__ void ArriveAt(uint64_t* barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(rank)
      : "memory");
}

// Waits for the end of the phase of this parity.
__device__ __forceinline__ void Wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], "
      "%1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// Which of a ring of stages comes next, and how often it was used.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void Next() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// --- Clusters, and threads within a block ---

__device__ __forceinline__ uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ void SyncCluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;\n" ::
          : "memory");
}

// The same in two halves, between which a thread does what no other block waits
// for. Says only that this thread has been here, or has read: what it wrote is
// not made known.
__device__ __forceinline__ void ArriveAtCluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void WaitForCluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Stores to the same place in shared memory of block `rank` of the cluster, and
// arrives with it at that block's barrier, whose count is one.
__device__ __forceinline__ void StoreArriving(int32_t* p, uint64_t* barrier,
                                              uint32_t rank, int32_t value) {
  asm volatile(
      "{\n"
      ".reg .b32 place, remote;\n"
      "mapa.shared::cluster.u32 place, %0, %2;\n"
      "mapa.shared::cluster.u32 remote, %1, %2;\n"
      "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, "
      "[remote], 4;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.s32 [place], %3, "
      "[remote];\n"
      "}\n" ::"r"(SharedAddress(p)),
      "r"(SharedAddress(barrier)), "r"(rank), "r"(value)
      : "memory");
}

// The four numbers at `p` in shared memory of block `rank` of the cluster,
// aligned to 16 bytes.
__device__ __forceinline__ float4 LoadFourFrom(const float* p, uint32_t rank) {
  float4 v;
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n"
      "}\n"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(SharedAddress(p)), "r"(rank)
      : "memory");
  return v;
}

// A barrier of `threads` of the block; 0 is __syncthreads()'s own.
__device__ __forceinline__ void SyncThreads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void ArriveThreads(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Registers a thread of this warpgroup keeps from now on.
template <int kRegisters>
__device__ __forceinline__ void ShrinkRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void GrowRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- The copy engine ---

__device__ __forceinline__ void PrefetchMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A box of the tensor at (x, y, z), innermost first, to shared memory; its
// bytes arrive at `barrier`. Beyond the tensor lie zeros, which count as bytes.
__device__ __forceinline__ void LoadBox(const CUtensorMap* map, void* to,
                                        uint64_t* barrier, int x, int y,
                                        int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::"
      "bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(SharedAddress(to)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// The same into each block of the cluster whose bit is set, at the same place.
__device__ __forceinline__ void LoadBoxToAll(const CUtensorMap* map, void* to,
                                             uint64_t* barrier, int x, int y,
                                             int z, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::"
      "bytes.multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(
          SharedAddress(to)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z), "h"(blocks)
      : "memory");
}

// Both with a policy of L2 for what is read (createpolicy).
__device__ __forceinline__ void LoadBox(const CUtensorMap* map, void* to,
                                        uint64_t* barrier, int x, int y, int z,
                                        uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::"
      "bytes.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(
          SharedAddress(to)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void LoadBoxToAll(const CUtensorMap* map, void* to,
                                             uint64_t* barrier, int x, int y,
                                             int z, uint16_t blocks,
                                             uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::"
      "bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], "
      "%6, %7;" ::"r"(SharedAddress(to)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z),
      "h"(blocks), "l"(policy)
      : "memory");
}

// `bytes` that lie together, both ends and the number multiples of 16.
__device__ __forceinline__ void LoadBytes(const void* from, void* to, int bytes,
                                          uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1], %2, [%3];" ::"r"(SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}

// The same from shared memory of this block to `to` of block `rank` of the
// cluster, whose own `barrier` gets the bytes. Till they are there neither
// block may leave.
__device__ __forceinline__ void SendBytes(const void* from, void* to, int bytes,
                                          uint64_t* barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 place, remote;\n"
      "mapa.shared::cluster.u32 place, %0, %4;\n"
      "mapa.shared::cluster.u32 remote, %3, %4;\n"
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
      "[place], [%1], %2, [remote];\n"
      "}\n" ::"r"(SharedAddress(to)),
      "r"(SharedAddress(from)), "r"(bytes), "r"(SharedAddress(barrier)),
      "r"(rank)
      : "memory");
}

// Makes this thread's stores to shared memory known to products and copies that
// are issued behind the barrier which follows.
__device__ __forceinline__ void FenceSharedStores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_CUH_
