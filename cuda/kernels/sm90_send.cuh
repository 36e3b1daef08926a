// Numbers from registers to shared memory of another block of the cluster, or
// of the same one, whose barrier counts their bytes: nobody reads across, and
// no barrier of the whole cluster lies between. PTX ISA 9.0, section 9.7.9.
//
// The receiving block has begun (ArriveAtCluster, WaitForCluster) and does not
// end before all of it has come.

#ifndef CUDA_KERNELS_SM90_SEND_CUH_
#define CUDA_KERNELS_SM90_SEND_CUH_

#include <cstdint>

#include "cuda/kernels/sm90.cuh"

namespace strata::gpu {

#if STRATA_SM90A

// Four numbers to where `p` is in shared memory of block `rank` of the cluster;
// their bytes arrive at its `barrier`. Nobody waits for it here.
__device__ __forceinline__ void StoreFourTo(const float4* p, uint64_t* barrier,
                                            uint32_t rank, float4 v) {
  asm volatile(
      "{\n"
      ".reg .b32 remote, there;\n"
      "mapa.shared::cluster.u32 remote, %0, %2;\n"
      "mapa.shared::cluster.u32 there, %1, %2;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
      "[remote], {%3, %4, %5, %6}, [there];\n"
      "}\n" ::"r"(SharedAddress(p)),
      "r"(SharedAddress(barrier)), "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z),
      "f"(v.w)
      : "memory");
}

// One number, alike.
__device__ __forceinline__ void StoreOneTo(const int32_t* p, uint64_t* barrier,
                                           uint32_t rank, int32_t v) {
  asm volatile(
      "{\n"
      ".reg .b32 remote, there;\n"
      "mapa.shared::cluster.u32 remote, %0, %2;\n"
      "mapa.shared::cluster.u32 there, %1, %2;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 "
      "[remote], %3, [there];\n"
      "}\n" ::"r"(SharedAddress(p)),
      "r"(SharedAddress(barrier)), "r"(rank), "r"(v)
      : "memory");
}
__device__ __forceinline__ void StoreOneTo(const float* p, uint64_t* barrier,
                                           uint32_t rank, float v) {
  StoreOneTo(reinterpret_cast<const int32_t*>(p), barrier, rank,
             __float_as_int(v));
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_SEND_CUH_
