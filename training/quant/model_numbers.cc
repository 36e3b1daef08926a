#include "training/quant/model_numbers.h"

#include <algorithm>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

bool IsOfModel(const StateStore& state, const std::string& name) {
  if (state.Peek(name).dtype != DType::kF32) return false;
  if (state.role(name) == Role::kParameter) return true;
  return state.role(name) == Role::kState && !absl::StartsWith(name, "grad.") &&
         !absl::StartsWith(name, "adam.") && !absl::StartsWith(name, "codes.");
}

}  // namespace

ModelNumbers NumbersOf(const StateStore& state,
                       absl::FunctionRef<bool(const std::string&)> wanted) {
  ModelNumbers numbers;
  for (const std::string& name : state.names()) {
    if (!IsOfModel(state, name) || !wanted(name)) continue;
    const auto values = state.Read(name).span<float>();
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

void CopyNumbers(const StateStore& from, StateStore& to) {
  for (const std::string& name : from.names()) {
    if (!IsOfModel(from, name) || !to.Has(name)) continue;
    const auto values = from.Read(name).span<float>();
    std::copy(values.begin(), values.end(), to.Get(name).as<float>());
  }
}

absl::StatusOr<KeptNumbers> KeptNumbers::Create(
    StateStore& state, absl::FunctionRef<bool(const std::string&)> wanted) {
  KeptNumbers kept(state);
  RETURN_IF_ERROR(state.Publish());
  for (const std::string& name : state.names()) {
    if (!IsOfModel(state, name) || !wanted(name)) continue;
    const TensorView& tensor = state.Peek(name);
    std::unique_ptr<Memory>& copy = kept.copies_[name];
    ASSIGN_OR_RETURN(copy, state.backend().Allocate(tensor.num_bytes()));
    RETURN_IF_ERROR(
        state.backend().Copy(copy->data(), tensor.data, tensor.num_bytes()));
  }
  return kept;
}

absl::Status KeptNumbers::Restore() {
  RETURN_IF_ERROR(state_->Publish());  // Copies come behind what it has to say.
  for (const auto& [name, copy] : copies_) {
    const TensorView& tensor = state_->Peek(name);
    RETURN_IF_ERROR(
        state_->backend().Copy(tensor.data, copy->data(), tensor.num_bytes()));
  }
  return absl::OkStatus();
}

}  // namespace strata
