#include "core/model/init.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/match.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/model/config.pb.h"
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

template <typename T>
T Rounded(double x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return RoundToBFloat16(static_cast<float>(x));
  } else {
    return static_cast<T>(x);
  }
}

template <typename T>
void Fill(const ModelConfig& config, uint64_t seed, const std::string& name,
          const TensorView& view) {
  if (view.rank() == 1) {
    // Gains of norms, and biases. What feeds a tier grows from nothing.
    const bool from_zero =
        absl::EndsWith(name, ".bias") || absl::EndsWith(name, ".feed.weight");
    const T value = Rounded<T>(from_zero ? 0 : 1);
    for (T& x : view.span<T>()) x = value;
    return;
  }
  const double deviation = StandardDeviation(config, name, view);
  Random random(seed, HashName(name));
  for (T& x : view.span<T>()) x = Rounded<T>(deviation * random.Normal());
}

}  // namespace

void InitializeParameter(const ModelConfig& config, uint64_t seed,
                         const std::string& name, const TensorView& view) {
  if (view.dtype == DType::kF64) {
    Fill<double>(config, seed, name, view);
  } else if (view.dtype == DType::kBF16) {
    Fill<BFloat16>(config, seed, name, view);
  } else {
    CHECK(view.dtype == DType::kF32) << name;
    Fill<float>(config, seed, name, view);
  }
}

void InitializeParameters(const ModelConfig& config, uint64_t seed,
                          StateStore& state) {
  struct Parameter {
    std::string name;
    TensorView view;
  };
  std::vector<Parameter> parameters;
  for (const std::string& name : state.names()) {
    if (state.role(name) != Role::kParameter) continue;
    parameters.push_back({name, state.Get(name)});
  }
  // The largest first, so that none is left at the end for one core alone.
  std::stable_sort(parameters.begin(), parameters.end(),
                   [](const Parameter& a, const Parameter& b) {
                     return a.view.num_elements() > b.view.num_elements();
                   });
  ThreadPool pool(NumUsableCores());
  pool.ParallelFor(static_cast<int64_t>(parameters.size()), [&](int64_t i) {
    InitializeParameter(config, seed, parameters[i].name, parameters[i].view);
  });
}

}  // namespace strata
