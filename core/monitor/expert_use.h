// How a model's experts are used, window by window, in few figures however many
// experts there are.

#ifndef CORE_MONITOR_EXPERT_USE_H_
#define CORE_MONITOR_EXPERT_USE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/parallel/load_stats.h"

namespace strata {

// What one gate did in a window.
struct GateUse {
  int64_t tier = 0;          // 0 where there are no tiers.
  int64_t tokens = 0;        // That reached it.
  std::vector<double> load;  // [experts], tokens sent to each.
};

struct TierUse {
  // Experts chosen by a token that reached the tier, over those there are.
  double activation_rate = 0;
  // Tokens that reached it over those of the first tier.
  double reached = 0;
};

struct RouterUse {
  std::vector<TierUse> tiers;  // By tier.
  LoadStats balance;           // Mean over gates (core/parallel/load_stats.h).
  // How far a gate's choice is from what it has been: half the sum over
  // experts of the difference of shares (total variation, 0 to 1), mean over
  // gates.
  double drift = 0;
};

// Not for several threads.
class ExpertUseMonitor {
 public:
  // `memory`: the weight of a window in what has been, in (0, 1].
  explicit ExpertUseMonitor(double memory = 0.1) : memory_(memory) {}

  // Takes a window; its gates must be as many, with as many experts, each time.
  RouterUse Observe(absl::Span<const GateUse> gates);

 private:
  double memory_;
  std::vector<std::vector<double>> share_;  // [gates][experts], so far.
};

}  // namespace strata

#endif  // CORE_MONITOR_EXPERT_USE_H_
