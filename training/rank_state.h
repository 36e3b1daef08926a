// The state of a rank that holds shards of some parameters, or the layers of a
// stage, against that of one rank that holds all: what a model starts from, and
// what a checkpoint has.
//
//   whole   [E, ...]       one rank's; of a parameter, its gradient and moments
//   shard   [E / ep, ...]  rows [begin, end) of it
//
// Which row of a shard is which expert of the model, only LocalRow() knows.

#ifndef TRAINING_RANK_STATE_H_
#define TRAINING_RANK_STATE_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/model/config.pb.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {

// The rows of spare slots (Shard::spare), behind a shard's own, are of no
// concern here.

// The shard that `state` is of: a parameter's own, or one of its gradient
// ("grad."), moments ("adam.m.", "adam.v.") or lower half ("low."). Null: a
// whole tensor.
const Shard* FindShard(absl::Span<const Shard> shards, absl::string_view state);

// Where row `row` of the whole is in this rank's tensor of the state; -1 if it
// is another's. Of a state that is no shard, all rows are where they are.
int64_t LocalRow(absl::Span<const Shard> shards, absl::string_view state,
                 int64_t row);

// Row `row` of a tensor, without its first extent.
TensorView RowOf(const TensorView& tensor, int64_t row);

// As InitializeParameters() (core/model/init.h): a shard gets what that part of
// the whole parameter would. Four whole parameters at a time are held.
void InitializeShards(const ModelConfig& config, uint64_t seed,
                      absl::Span<const Shard> shards, StateStore& local);

}  // namespace strata

#endif  // TRAINING_RANK_STATE_H_
