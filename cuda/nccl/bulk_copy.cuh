// Copies by Hopper's copy engine, through shared memory: one thread of a block
// keeps as much on its way as that memory holds, 192 KB, where 1,024 threads
// with 64 bytes each in registers have a third of it.
//
//   from --load--> ring [kBulkStages, 16 KB] --store--> to, also of another GPU
//
// PTX ISA 9.0, section 9.7.9.25.

#ifndef CUDA_NCCL_BULK_COPY_CUH_
#define CUDA_NCCL_BULK_COPY_CUH_

#include <cstdint>

#include "cuda/kernels/sm90.cuh"

namespace strata::gpu {

constexpr int kBulkStages = 12;
constexpr int kBulkBytes = 16 << 10;  // Of a stage.

struct BulkRing {
  char stage[kBulkStages][kBulkBytes];
  uint64_t full[kBulkStages];
  char* to[kBulkStages];
  int bytes[kBulkStages];
};

class BulkCopier;

#if STRATA_SM90A

// What other threads, or other GPUs, are known to have written is known to
// copies that are begun behind it; and what copies have written, to others that
// are told of it.
__device__ __forceinline__ void FenceCopies() {
  asm volatile("fence.proxy.async;" ::: "memory");
}

// Of one thread, which makes all calls.
class BulkCopier {
 public:
  __device__ explicit BulkCopier(BulkRing& ring) : ring_(ring) {}

  // Before all others.
  __device__ void Begin() {
    for (uint64_t& full : ring_.full) InitBarrier(&full, 1);
    FenceBarrierInit();
    FenceSharedStores();
  }

  // Begins to copy; both ends and the number are multiples of 16, which is at
  // most kBulkBytes.
  __device__ void Copy(char* to, const char* from, int bytes) {
    // The stage was stored from kBulkStages copies ago.
    asm volatile(
        "cp.async.bulk.wait_group.read %0;" ::"n"(kBulkStages - kAhead - 1)
        : "memory");
    const int s = load_.stage;
    ring_.to[s] = to;
    ring_.bytes[s] = bytes;
    ArriveExpecting(&ring_.full[s], bytes);
    LoadBytes(from, ring_.stage[s], bytes, &ring_.full[s]);
    load_.Next();
    if (++under_way_ > kAhead) Store();
  }

  // Waits until all is there, for this thread and whom it tells.
  __device__ void Finish() {
    while (under_way_ > 0) Store();
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    FenceCopies();
  }

 private:
  // So many loads are under way, and as many stores and one less.
  static constexpr int kAhead = kBulkStages / 2;

  __device__ void Store() {
    const int s = store_.stage;
    Wait(&ring_.full[s], store_.phase);
    asm volatile(
        "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n"
        "cp.async.bulk.commit_group;" ::"l"(ring_.to[s]),
        "r"(SharedAddress(ring_.stage[s])), "r"(ring_.bytes[s])
        : "memory");
    store_.Next();
    --under_way_;
  }

  BulkRing& ring_;
  Ring<kBulkStages> load_, store_;
  int under_way_ = 0;  // Loads that no store has followed.
};

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_NCCL_BULK_COPY_CUH_
