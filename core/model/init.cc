#include "core/model/init.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/model/config.pb.h"
#include "core/ops/adamw_halves.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// What is added to the residual stream: attention and, of each layer, one
// feed-forward half or a tier after the other.
double NumBranches(const ModelConfig& config) {
  const int tiers =
      std::max(1, config.moe().hierarchical().tier_experts_size());
  return static_cast<double>(config.num_layers()) * (1 + tiers);
}

double StandardDeviation(const ModelConfig& config, const std::string& name,
                         const TensorView& view) {
  const auto fan_in = static_cast<double>(view.shape.back());
  double deviation = 1 / std::sqrt(fan_in);
  // The fine stage begins as a product of query and embeddings; what its
  // attention adds to either grows from zero.
  if (absl::EndsWith(name, "gate.self.o.weight") ||
      absl::EndsWith(name, "gate.cross.o.weight")) {
    return 0;
  }
  // Each slot passes on as much as it gets, as a sum would.
  if (absl::EndsWith(name, "concat_proj.weight")) {
    return 1 / std::sqrt(static_cast<double>(view.shape.front()));
  }
  // Experts' embeddings and keys meet vectors of norm 1 a component.
  if (absl::EndsWith(name, "gate.expert.weight")) return 1;
  if (absl::EndsWith(name, "o_proj.weight") ||
      absl::EndsWith(name, "down_proj.weight")) {
    deviation /= std::sqrt(NumBranches(config));
  }
  return deviation;
}

// Hands each element's value to store(i, value).
template <typename Store>
void Fill(const ModelConfig& config, uint64_t seed, const std::string& name,
          const TensorView& view, Store store) {
  const int64_t n = view.num_elements();
  if (view.rank() == 1) {
    // Gains of norms, and biases. What feeds a tier grows from nothing.
    const bool from_zero =
        absl::EndsWith(name, ".bias") || absl::EndsWith(name, ".feed.weight");
    for (int64_t i = 0; i < n; ++i) store(i, from_zero ? 0. : 1.);
    return;
  }
  const double deviation = StandardDeviation(config, name, view);
  Random random(seed, HashName(name));
  for (int64_t i = 0; i < n; ++i) store(i, deviation * random.Normal());
}

}  // namespace

void InitializeParameter(const ModelConfig& config, uint64_t seed,
                         const std::string& name, const TensorView& view,
                         const TensorView* low) {
  const auto fill = [&](auto store) { Fill(config, seed, name, view, store); };
  if (view.dtype == DType::kF64) {
    fill([to = view.as<double>()](int64_t i, double x) { to[i] = x; });
  } else if (view.dtype == DType::kF32) {
    fill([to = view.as<float>()](int64_t i, double x) {
      to[i] = static_cast<float>(x);
    });
  } else {
    // Of a weight in halves the lower one matters: rounded alone, each would
    // begin in the middle of what rounds to it, and products would see nothing
    // of a run's first steps.
    CHECK(view.dtype == DType::kBF16) << name;
    CHECK(low == nullptr || low->dtype == DType::kI16) << name;
    auto* const to_low =
        low != nullptr ? static_cast<int16_t*>(low->data) : nullptr;
    fill([to = view.as<BFloat16>(), to_low](int64_t i, double x) {
      const FloatHalves halves = SplitFloat(static_cast<float>(x));
      to[i] = halves.high;
      if (to_low != nullptr) to_low[i] = halves.low;
    });
  }
}

void InitializeParameters(const ModelConfig& config, uint64_t seed,
                          StateStore& state) {
  struct Parameter {
    std::string name;
    TensorView view, low;
    bool has_low = false;
  };
  std::vector<Parameter> parameters;
  for (const std::string& name : state.names()) {
    if (state.role(name) != Role::kParameter) continue;
    Parameter parameter = {name, state.Get(name)};
    parameter.has_low = state.Has(LowHalfName(name));
    if (parameter.has_low) parameter.low = state.Get(LowHalfName(name));
    parameters.push_back(std::move(parameter));
  }
  // The largest first, so that none is left at the end for one core alone.
  std::stable_sort(parameters.begin(), parameters.end(),
                   [](const Parameter& a, const Parameter& b) {
                     return a.view.num_elements() > b.view.num_elements();
                   });
  ThreadPool pool(NumUsableCores());
  pool.ParallelFor(static_cast<int64_t>(parameters.size()), [&](int64_t i) {
    const Parameter& p = parameters[i];
    InitializeParameter(config, seed, p.name, p.view,
                        p.has_low ? &p.low : nullptr);
  });
}

}  // namespace strata
