// Which tensors of a public checkpoint make up which of ours.
//
// Ours hold the experts of a layer in one tensor, and gate beside up; public
// checkpoints have a tensor each. As all arrays are row-major, one of ours is
// the bytes of its parts, one after another, whatever the dtype:
//
//   experts.gate_up_proj.weight [E, 2 w, d]
//     = experts.0.gate_proj [w, d], experts.0.up_proj [w, d], experts.1...
//   experts.down_proj.weight [E, d, w] = experts.0.down_proj [d, w], ...
//   gate_up_proj.weight [2 w, d] = gate_proj [w, d], up_proj [w, d]
//
// All else is the same tensor under the same name, or another (Mixtral's).

#ifndef CORE_CHECKPOINT_WEIGHT_MAP_H_
#define CORE_CHECKPOINT_WEIGHT_MAP_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "core/tensor/shape.h"

namespace strata {

struct WeightParts {
  std::string name;  // Ours.
  Shape shape;
  std::vector<std::string> parts;  // Theirs, in order.
  Shape part_shape;
};

// One entry for each tensor of the model (ModelTensorNames), in order. `config`
// must be valid.
//
// Returns UNIMPLEMENTED if its router is hierarchical, as no public one is.
absl::StatusOr<std::vector<WeightParts>> HfWeightMap(const ModelConfig& config);

// The same with ours as the parts' names: where a tensor lies in our own files.
// One part each, of the tensor's shape; `num_parts` below says what of it has
// scales of its own if it is fp8.
absl::StatusOr<std::vector<WeightParts>> OwnWeightMap(
    const ModelConfig& config);

// How many parts of equal size one of our tensors has (1, 2, E or 2 E).
int64_t NumParts(const std::string& name, const Shape& shape);

}  // namespace strata

#endif  // CORE_CHECKPOINT_WEIGHT_MAP_H_
