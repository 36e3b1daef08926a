// The tensors of a run's state as a checkpoint of several ranks has them, and
// who holds and who writes which.
//
//   state                                     parts
//   model.norm.weight [d]                     model.norm.weight [d]
//   ...mlp.experts.down_proj.weight [E, d, w] ...mlp.experts.0.down_proj.weight
//                                             [d, w], ...experts.1...
//
// An expert is a part of its own, as ranks may hold any of them; so what is
// saved does not depend on which.

#ifndef TRAINING_CHECKPOINT_STATE_PARTS_H_
#define TRAINING_CHECKPOINT_STATE_PARTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/checkpoint/weight_files.h"
#include "core/graph/graph.h"
#include "core/parallel/communicator.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {

struct StatePart {
  std::string name;     // In the checkpoint.
  std::string state;    // What it is (a row of).
  int64_t expert = -1;  // Which row; -1: all of it.
  DType dtype = DType::kF32;
  Shape shape;

  int64_t num_bytes() const { return NumElements(shape) * SizeOf(dtype); }
};

// The parts of `names`, in order, which are states of `whole`, what one rank
// alone would hold.
std::vector<StatePart> PartsOf(const Graph& whole,
                               const std::vector<std::string>& names);

// The part as `local` holds it; nothing if it does not. Its elements are to be
// looked at by local.Get(part.state) first.
std::optional<TensorView> FindPart(const StateStore& local,
                                   absl::Span<const Shard> shards,
                                   const StatePart& part);

// The rank that writes each part: of those that hold it the one that has the
// least to write so far, so that each writes about as much. To be called by all
// ranks, with the same parts.
//
// Returns INTERNAL if no rank holds one.
absl::StatusOr<std::vector<int>> WritersOf(const StateStore& local,
                                           absl::Span<const Shard> shards,
                                           absl::Span<const StatePart> parts,
                                           Communicator& ranks);

// Fills what `local` has of `names` from a checkpoint's tensors, whole ones or
// by expert, reading no more than that. `whole` as above.
//
// Returns INVALID_ARGUMENT that names the file and the tensor if one of `names`
// is missing or has another dtype or shape, or if there is one that is none of
// them.
absl::Status ReadParts(const WeightFiles& files, const Graph& whole,
                       const std::vector<std::string>& names,
                       absl::Span<const Shard> shards, StateStore& local);

}  // namespace strata

#endif  // TRAINING_CHECKPOINT_STATE_PARTS_H_
