// The load-history controller of a gate: keeps experts in use by a bias that
// steers which experts are chosen and never how much a chosen one counts.
//
//   load      [num_experts]  tokens routed to each expert in this step
//     |
//     |  share of the step's load, moving average    ema   -> ema' (state)
//     |  error = 1 - num_experts * ema, cut to [-1, 1]
//     |  its running sum                        integral  -> integral' (state)
//     v
//   bias      [num_experts]  gain_p * error + integral, in [-max_bias,
//   max_bias]
//
// The gate chooses experts by p + bias, p a sigmoid in (0, 1), and weighs them
// by p alone. No gradient passes through any of this.
//
// The error is the lack of load over the target, an even share: 1 for an expert
// that gets nothing. An overloaded expert's error would reach 1 - num_experts
// and is cut at -1, so that one hot expert does not swing. The integral holds
// what stands of a router's skew, so the error can be zero at rest; the
// proportional term answers sooner and damps. Only differences between experts
// matter to a choice, so the integral is kept at mean zero, which leaves the
// whole range for them; its bound is the bias's, so that it never winds up
// beyond what the bias can show.
//
// All zeros is the state before the first step: an average that has not begun
// counts as an even load.

#ifndef CORE_PARALLEL_LOAD_CONTROLLER_H_
#define CORE_PARALLEL_LOAD_CONTROLLER_H_

#include <algorithm>
#include <cstddef>

#include "absl/types/span.h"
#include "core/base/check.h"

namespace strata {

// The defaults are for one update a training step of some hundred tokens or
// more; load_controller_test.cc shows what they do to a skewed router.
struct LoadControllerConfig {
  float ema_decay = 0.9f;  // Share of the average that a step keeps, in [0, 1).
  float gain_p = 0.05f;    // Bias per unit of error.
  float gain_i = 0.01f;    // Bias per unit of error and step.
  float max_bias = 1.0f;   // 1 outranks any probability.
};

// Takes one step's loads into the state and sets the biases of the next step.
// A step without tokens changes nothing. Loads must not be negative.
//
// State is float or double; Load is int64_t, float or double.
template <typename State, typename Load>
void UpdateLoadBias(const LoadControllerConfig& config,
                    absl::Span<const Load> load,  // [num_experts]
                    absl::Span<State> ema,        // [num_experts]
                    absl::Span<State> integral,   // [num_experts]
                    absl::Span<State> bias) {     // [num_experts]
  const size_t num_experts = load.size();
  CHECK_EQ(ema.size(), num_experts);
  CHECK_EQ(integral.size(), num_experts);
  CHECK_EQ(bias.size(), num_experts);

  double total = 0;
  bool begun = false;
  for (size_t e = 0; e < num_experts; ++e) {
    CHECK(load[e] >= 0) << "load of expert " << e << " is " << load[e];
    total += static_cast<double>(load[e]);
    begun |= ema[e] != 0;
  }
  if (total == 0) return;

  const State decay = config.ema_decay;
  const State max_bias = config.max_bias;
  State integral_sum = 0;
  for (size_t e = 0; e < num_experts; ++e) {
    const State before = begun ? ema[e] : State{1} / num_experts;
    const State share = static_cast<State>(load[e] / total);
    ema[e] = decay * before + (1 - decay) * share;
    const State error =
        std::clamp<State>(1 - static_cast<State>(num_experts) * ema[e], -1, 1);
    bias[e] = static_cast<State>(config.gain_p) * error;
    integral[e] += static_cast<State>(config.gain_i) * error;
    integral_sum += integral[e];
  }
  const State integral_mean = integral_sum / num_experts;
  for (size_t e = 0; e < num_experts; ++e) {
    integral[e] = std::clamp(integral[e] - integral_mean, -max_bias, max_bias);
    bias[e] = std::clamp(bias[e] + integral[e], -max_bias, max_bias);
  }
}

}  // namespace strata

#endif  // CORE_PARALLEL_LOAD_CONTROLLER_H_
