// Which tensors of a graph are the model.

#ifndef CORE_CHECKPOINT_MODEL_TENSORS_H_
#define CORE_CHECKPOINT_MODEL_TENSORS_H_

#include <string>
#include <vector>

#include "core/graph/graph.h"

namespace strata {

// Names of what makes up a model in `graph`: parameters, and state that steers
// it (gate biases); not caches.
std::vector<std::string> ModelTensorNames(const Graph& graph);

}  // namespace strata

#endif  // CORE_CHECKPOINT_MODEL_TENSORS_H_
