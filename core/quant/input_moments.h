// What a model's matrices are multiplied by: sums over calibration data, run
// through the model's own graph.
//
//   tokens --graph of evaluation--> ... x --MatMul(x, w^T)--> ...
//                                       |
//                                       +--> sum of x x^T, for each w; for
//                                            experts' matrices, each expert's

#ifndef CORE_QUANT_INPUT_MOMENTS_H_
#define CORE_QUANT_INPUT_MOMENTS_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/thread_pool.h"
#include "core/model/config.pb.h"
#include "core/quant/calibrate.h"
#include "core/quant/input_taps.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"

namespace strata {

// Of a dense matrix one; of experts' as many as there are.
using MomentsByName = std::map<std::string, std::vector<InputMoments>>;

// Runs the model that `state` holds over `batches` and shows `see` the inputs
// of the matrices `names`, each a product by a layer's weight in the graph of
// evaluation.
//
// Returns INVALID_ARGUMENT if there is no batch, and the errors of running.
absl::Status ForInputs(const ModelConfig& config,
                       const std::set<std::string>& names,
                       const std::vector<TokenBatch>& batches, Backend& backend,
                       StateStore& state, SeeInputs see);

// The moments of what `run` shows; bit for bit the same for any number of
// threads.
absl::StatusOr<MomentsByName> MomentsOf(
    absl::FunctionRef<absl::Status(SeeInputs)> run, ThreadPool& pool);

// Those of ForInputs().
absl::StatusOr<MomentsByName> CollectMoments(
    const ModelConfig& config, const std::set<std::string>& names,
    const std::vector<TokenBatch>& batches, Backend& backend, StateStore& state,
    ThreadPool& pool);

// All experts' of a matrix as one.
InputMoments SumOf(const std::vector<InputMoments>& moments);

}  // namespace strata

#endif  // CORE_QUANT_INPUT_MOMENTS_H_
