// The numbers of a model that a trainer holds, put aside and put back: for
// steps of training of which only a part shall stay, or nothing.
//
// ModelNumbers are the host's, KeptNumbers stay in the memory of the trainer's
// backend.

#ifndef TRAINING_QUANT_MODEL_NUMBERS_H_
#define TRAINING_QUANT_MODEL_NUMBERS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"

namespace strata {

// Sees the steps of training that are done of all.
using StepsDone = std::function<void(int64_t done, int64_t all)>;

// F32 tensors by name, each row-major.
using ModelNumbers = std::map<std::string, std::vector<float>>;

// Copies of the parameters, and of what gates keep of their loads, whose names
// are `wanted`; sums of gradients, their moments and codes that are learned are
// none of a model's.
ModelNumbers NumbersOf(const StateStore& state,
                       absl::FunctionRef<bool(const std::string&)> wanted);

// Writes them where they came from, or into another store of the same model;
// what that does not have is left out.
void Put(const ModelNumbers& numbers, StateStore& state);

// All of a model's numbers, from one store of it to another.
void CopyNumbers(const StateStore& from, StateStore& to);

// Numbers as NumbersOf() has them, which can be put back any number of times.
// The store must outlive them.
class KeptNumbers {
 public:
  // Returns RESOURCE_EXHAUSTED if the backend's memory runs out.
  static absl::StatusOr<KeptNumbers> Create(
      StateStore& state, absl::FunctionRef<bool(const std::string&)> wanted);

  absl::Status Restore();

 private:
  explicit KeptNumbers(StateStore& state) : state_(&state) {}

  StateStore* state_;
  std::map<std::string, std::unique_ptr<Memory>> copies_;
};

}  // namespace strata

#endif  // TRAINING_QUANT_MODEL_NUMBERS_H_
