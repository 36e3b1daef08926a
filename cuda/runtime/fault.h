// Bad data as the device finds it: one record a program, the first to come.

#ifndef CUDA_RUNTIME_FAULT_H_
#define CUDA_RUNTIME_FAULT_H_

#include <cstdint>

namespace strata::gpu {

// What the value at `place` is and should be is said by its kind.
enum class FaultKind : int32_t {
  kNone = 0,
  kTokenId,   // Of token `place`; want 0 to limit - 1.
  kTarget,    // Of token `place`; want -1 to limit - 1.
  kExpert,    // Of slot `place`; want -1 to limit - 1.
  kRowIndex,  // Index `place`; want 0 to limit - 1.
  kPosition,  // Of token `place`; want 0 or more.
  kCacheRow,  // Of token `place`; want 0 to limit - 1.
  kOffsets,   // Offset of expert `place`; want rising, to `limit` at the end.
  kSequence,  // Start of sequence `place`; want rising, to `limit` at the end.
  kStep,      // The number of the step; want 1 or more.
  kTable,     // Of slot `place` of a table; want 0 to limit - 1.
  kChoice,    // Expert of choice `place`; want one with a slot, or -1.
  kNoSlot,    // Expert `place` of `limit` has none in a table.
  // No bad data: rank `place` of the operator's group, which was waited for
  // `limit` milliseconds, has not come.
  kLatePeer,
};

struct Fault {
  int32_t kind = 0;  // FaultKind; claimed by an atomic.
  int32_t node = 0;
  int64_t place = 0;
  int64_t value = 0;
  int64_t limit = 0;
};

// Given to kernels by value.
struct FaultSink {
  Fault* fault = nullptr;  // In device memory.
  int32_t node = 0;

#ifdef __CUDACC__
  __device__ void Report(FaultKind kind, int64_t place, int64_t value,
                         int64_t limit) const {
    if (atomicCAS(&fault->kind, 0, static_cast<int32_t>(kind)) != 0) return;
    fault->node = node;
    fault->place = place;
    fault->value = value;
    fault->limit = limit;
  }
#endif
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_FAULT_H_
