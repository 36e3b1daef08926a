// The experts of a gate in one tensor, or in a tensor each:
//
//   mlp.experts.down_proj.weight [E, d, w]
//     = mlp.experts.0.down_proj.weight [d, w], mlp.experts.1..., one after
//       another

#ifndef CORE_CHECKPOINT_SHARDS_EXPERT_PARTS_H_
#define CORE_CHECKPOINT_SHARDS_EXPERT_PARTS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/tensor/shape.h"

namespace strata {

// Whether a tensor of that name and shape is the experts of a gate, each of
// which may lie in a tensor of its own.
bool IsOfExperts(absl::string_view name, const Shape& shape);

// The name of expert `e`'s part. `name` must be one of experts.
std::string ExpertPart(absl::string_view name, int64_t e);

// Makes each tensor of experts that `other` has in a tensor an expert the same
// here: views into the memory of the one.
void SplitAsIn(const StoredTensors& other, StoredTensors& tensors);

}  // namespace strata

#endif  // CORE_CHECKPOINT_SHARDS_EXPERT_PARTS_H_
