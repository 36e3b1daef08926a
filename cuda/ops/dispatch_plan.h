// The dispatch plan of core/ops/dispatch.h: a stable sort of slots by expert.
//
//   expert    [t, k]      of slot s = token s / k, or -1
//     |
//     v
//   row_slot  [rows]      slots in the order of their experts
//   slot_row  [t, k]      where each slot went, -1 if it has no expert
//   offset    [E + 1]     where each expert's rows begin
//   rows      []          how many there are

#ifndef CUDA_OPS_DISPATCH_PLAN_H_
#define CUDA_OPS_DISPATCH_PLAN_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

constexpr int kMaxPlannedExperts = 1024;

struct DispatchPlanArgs {
  Extent tokens;
  int k = 1, num_experts = 0;
  const int32_t* expert = nullptr;
  int32_t* row_slot = nullptr;
  int32_t* slot_row = nullptr;
  int32_t* offset = nullptr;
  int32_t* rows = nullptr;
  int32_t* scratch = nullptr;  // DispatchPlanScratch() of them.
  FaultSink fault;             // Told of an expert out of range.
};

int64_t DispatchPlanScratch(const DispatchPlanArgs& args);

// In one launch up to 4,096 slots, two up to 524,288, three above.
cudaError_t PlanDispatch(const DispatchPlanArgs& args, cudaStream_t stream);

// How many slots of a tile, `tile_slots` that follow each other, each expert
// has, where somebody has counted; tiles without slots may hold anything.
struct SlotCounts {
  int tile_slots = 1;
  int64_t tiles = 0;
  const uint16_t* count = nullptr;  // [tiles, E]
};

// Each block reads all counts, so there is a limit to their number.
inline bool HasPlanFromCounts(const SlotCounts& counts) {
  return counts.tiles > 0 && counts.tiles <= 512;
}

// The plan in one launch. Experts are in range; scratch is not used.
cudaError_t PlanDispatchFrom(const SlotCounts& counts,
                             const DispatchPlanArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DISPATCH_PLAN_H_
