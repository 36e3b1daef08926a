#include "core/checkpoint/model_tensors.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "core/graph/graph.h"

namespace strata {

std::vector<std::string> ModelTensorNames(const Graph& graph) {
  std::vector<std::string> names;
  for (const Value& value : graph.values()) {
    if (value.role == Role::kParameter ||
        (value.role == Role::kState && absl::EndsWith(value.name, "bias"))) {
      names.push_back(value.name);
    }
  }
  return names;
}

}  // namespace strata
