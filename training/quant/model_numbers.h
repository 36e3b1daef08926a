// The numbers of a model that a trainer holds, put aside and put back: for
// steps of training of which only a part shall stay, or nothing.

#ifndef TRAINING_QUANT_MODEL_NUMBERS_H_
#define TRAINING_QUANT_MODEL_NUMBERS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/runtime/state_store.h"

namespace strata {

// Sees the steps of training that are done of all.
using StepsDone = std::function<void(int64_t done, int64_t all)>;

// F32 tensors by name, each row-major.
using ModelNumbers = std::map<std::string, std::vector<float>>;

// Copies of the parameters, and of what gates keep of their loads, whose names
// are `wanted`; sums of gradients and their moments are none of a model's.
ModelNumbers NumbersOf(const StateStore& state,
                       absl::FunctionRef<bool(const std::string&)> wanted);

// Writes them where they came from, or into another store of the same model;
// what that does not have is left out.
void Put(const ModelNumbers& numbers, StateStore& state);

}  // namespace strata

#endif  // TRAINING_QUANT_MODEL_NUMBERS_H_
