#include "training/quant/model_numbers.h"

#include <algorithm>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "core/graph/graph.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

bool IsOfModel(const StateStore& state, const std::string& name) {
  if (state.Peek(name).dtype != DType::kF32) return false;
  if (state.role(name) == Role::kParameter) return true;
  return state.role(name) == Role::kState && !absl::StartsWith(name, "grad.") &&
         !absl::StartsWith(name, "adam.");
}

}  // namespace

ModelNumbers NumbersOf(const StateStore& state,
                       absl::FunctionRef<bool(const std::string&)> wanted) {
  ModelNumbers numbers;
  for (const std::string& name : state.names()) {
    if (!IsOfModel(state, name) || !wanted(name)) continue;
    const auto values = state.Get(name).span<float>();
    numbers[name].assign(values.begin(), values.end());
  }
  return numbers;
}

void Put(const ModelNumbers& numbers, StateStore& state) {
  for (const auto& [name, values] : numbers) {
    if (!state.Has(name)) continue;
    std::copy(values.begin(), values.end(), state.Get(name).as<float>());
  }
}

}  // namespace strata
