#include "training/quant/loss_weights.h"

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/quant/input_moments.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "training/quant/model_numbers.h"
#include "training/step_graph.h"
#include "training/trainer.h"

namespace strata {
namespace {

// Of a dense matrix one, of experts' as many as there are.
using Energies = std::map<std::string, std::vector<double>>;

absl::StatusOr<Energies> EnergiesOfInputs(
    const std::set<std::string>& names, const std::vector<TokenBatch>& batches,
    Trainer& trainer) {
  Energies energies;
  RETURN_IF_ERROR(ForInputs(
      trainer.model_config(), names, batches, trainer.backend(),
      trainer.state(),
      [&](const std::vector<std::string>& weights, int64_t columns,
          absl::Span<const float> x, absl::Span<const int32_t> offset) {
        const size_t n = offset.empty() ? 1 : offset.size() - 1;
        for (size_t e = 0; e < n; ++e) {
          absl::Span<const float> own = x;
          if (!offset.empty()) {
            own = x.subspan(offset[e] * columns,
                            (offset[e + 1] - offset[e]) * columns);
          }
          double energy = 0;
          for (const float v : own) energy += double{v} * v;
          for (const std::string& name : weights) {
            energies[name].resize(n);
            energies[name][e] += energy;
          }
        }
        return absl::OkStatus();
      }));
  return energies;
}

// Adds the squares of each row of `gradient` to `sums` [rows].
void AddSquares(const TensorView& gradient, std::vector<double>& sums) {
  const int64_t columns = gradient.shape.back();
  const float* g = gradient.as<float>();
  for (double& sum : sums) {
    for (int64_t c = 0; c < columns; ++c, ++g) sum += double{*g} * *g;
  }
}

}  // namespace

absl::StatusOr<ModelNumbers> LossWeights(Trainer& trainer,
                                         const std::set<std::string>& names,
                                         const std::vector<TokenBatch>& batches,
                                         int64_t num_steps,
                                         const std::function<bool()>& stop,
                                         const StepsDone& progress) {
  ASSIGN_OR_RETURN(const Energies energies,
                   EnergiesOfInputs(names, batches, trainer));
  StateStore& state = trainer.state();
  std::map<std::string, std::vector<double>> squares;  // [n * rows]
  for (const auto& [name, of_inputs] : energies) {
    const TensorView& w = state.Peek(name);
    squares[name].resize(w.num_elements() / w.shape.back());
  }
  ASSIGN_OR_RETURN(
      KeptNumbers kept,
      KeptNumbers::Create(state, [](const std::string&) { return true; }));
  for (int64_t i = 0; i < num_steps; ++i) {
    if (stop && stop()) {
      return absl::CancelledError("stopped before bits were chosen");
    }
    RETURN_IF_ERROR(trainer.Step().status());
    for (auto& [name, sums] : squares) {
      AddSquares(state.Read(GradName(name)), sums);
    }
    RETURN_IF_ERROR(kept.Restore());
    if (progress) progress(i + 1, num_steps);
  }
  ModelNumbers weights;
  for (const auto& [name, sums] : squares) {
    const std::vector<double>& of_inputs = energies.at(name);
    const size_t rows = sums.size() / of_inputs.size();
    std::vector<float>& of_outputs = weights[name];
    for (size_t r = 0; r < sums.size(); ++r) {
      const double inputs = of_inputs[r / rows];
      of_outputs.push_back(inputs > 0 ? static_cast<float>(sums[r] / inputs)
                                      : 0);
    }
  }
  return weights;
}

}  // namespace strata
