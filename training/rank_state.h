// The state of a rank that holds shards of some parameters, or the layers of a
// stage, against that of one rank that holds all: what a model starts from, and
// what a checkpoint has.
//
//   whole   [E, ...]       one rank's; of a parameter, its gradient and moments
//   shard   [E / ep, ...]  rows [begin, end) of it

#ifndef TRAINING_RANK_STATE_H_
#define TRAINING_RANK_STATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"

namespace strata {

// The rows of spare slots (Shard::spare), behind a shard's own, are of no
// concern here.

// The shard that `state` is of: a parameter's own, or one of its gradient
// ("grad.") or moments ("adam.m.", "adam.v."). Null: a whole tensor.
const Shard* FindShard(absl::Span<const Shard> shards, absl::string_view state);

// A store with those states of `graph` that `names` has; zeros. `backend` must
// outlive it.
//
// Returns RESOURCE_EXHAUSTED if memory runs out.
absl::StatusOr<std::unique_ptr<StateStore>> DeclareStates(
    const Graph& graph, const std::vector<std::string>& names,
    Backend& backend);

// Sets this rank's part of `names`, those that `local` has, from `whole`.
void TakeShards(const StateStore& whole, const std::vector<std::string>& names,
                absl::Span<const Shard> shards, StateStore& local);

// As InitializeParameters() (core/model/init.h): a shard gets what that part of
// the whole parameter would. One whole parameter at a time is held.
absl::Status InitializeShards(const ModelConfig& config, uint64_t seed,
                              absl::Span<const Shard> shards, Backend& backend,
                              StateStore& local);

// Fills `names` of `whole`, which the first rank has and the others do not
// (null), from what the ranks of the mesh hold. To be called by all of them,
// with the same names. Of ranks that hold the same, the first one's counts. One
// tensor at a time is on its way.
//
// Returns INTERNAL if no rank has one of `names`.
absl::Status GatherWhole(const StateStore& local,
                         const std::vector<std::string>& names,
                         absl::Span<const Shard> shards, const Mesh& mesh,
                         StateStore* whole);

}  // namespace strata

#endif  // TRAINING_RANK_STATE_H_
