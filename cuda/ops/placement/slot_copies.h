// Experts in slots on GPUs: the kernels of core/ops/expert_placement.h.
//
//   table [slots] --MapSlots--> copy [experts, ranks], number [experts]
//
// What copies of an expert have to tell each other is in the table, on the
// device, so that nothing waits for the host and a captured program has it
// inside: rows go by kernels that write into peers' windows, as those of
// cuda/nccl/row_exchange.h do.

#ifndef CUDA_OPS_PLACEMENT_SLOT_COPIES_H_
#define CUDA_OPS_PLACEMENT_SLOT_COPIES_H_

#include <cstdint>

#include "cuda/nccl/peer_table.h"
#include "cuda/runtime/fault.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

constexpr int kMaxSlotGrads = 64;

// The copies of each expert: of the slots that hold it on a rank the first.
struct SlotMap {
  const int32_t* table = nullptr;  // [slots] -> expert
  int slots = 0;                   // Of all ranks.
  int own = 0;                     // Of a rank.
  int experts = 0;
  int ranks = 1;
  int32_t* copy = nullptr;    // [experts, ranks] slots, in the order of ranks
  int32_t* number = nullptr;  // [experts], how many of those there are
  FaultSink fault;
};

// Makes `copy` and `number`. Reports what is no expert, and with `want_all` an
// expert that has no slot.
cudaError_t MapSlots(const SlotMap& map, bool want_all, cudaStream_t stream);

struct PlaceChoicesArgs {
  SlotMap map;
  Extent tokens;
  int k = 1;
  const int32_t* expert = nullptr;  // [tokens, k]
  int32_t* slot = nullptr;          // [tokens, k]
};

// After MapSlots(). Reports a choice that has no slot.
cudaError_t PlaceInSlots(const PlaceChoicesArgs& args, cudaStream_t stream);

// States [own, size] of a rank's slots, by value: 1 kB of a kernel's 4 kB.
struct SlotGrads {
  float* data[kMaxSlotGrads] = {};
  int64_t size[kMaxSlotGrads] = {};
  int count = 0;
  int64_t width = 0;  // The sum of sizes: elements of a slot.
};

struct SumCopiesArgs {
  SlotMap map;
  SlotGrads grads;
  Peers peers;
  // Experts that two ranks share, at the most: where each has a slot, every
  // such expert has one more than it needs.
  int max_shared = 0;
  int32_t* shared = nullptr;      // [ranks, max_shared] own slots, by expert
  int32_t* num_shared = nullptr;  // [ranks]
  int32_t* place = nullptr;       // [experts, ranks] in `shared`, or -1
};

// After MapSlots(want_all). Pieces are of 4 * max_shared * width bytes.
cudaError_t SumOverCopies(const SumCopiesArgs& args, cudaStream_t stream);

struct ExpertNormArgs {
  SlotMap map;
  SlotGrads grads;
  Peers peers;
  int pieces = 1;             // ExpertNormPieces()
  double* partial = nullptr;  // [own, grads, pieces]
  const float* divisor = nullptr;
  float* norm = nullptr;
};

// Blocks that share a slot's part of a gradient, by the largest.
int ExpertNormPieces(const SlotGrads& grads);

// After MapSlots(). Pieces of windows are of 8 * own bytes.
cudaError_t NormOfExperts(const ExpertNormArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_PLACEMENT_SLOT_COPIES_H_
