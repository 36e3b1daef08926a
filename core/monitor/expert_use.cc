#include "core/monitor/expert_use.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/parallel/load_stats.h"

namespace strata {

RouterUse ExpertUseMonitor::Observe(absl::Span<const GateUse> gates) {
  if (share_.empty()) share_.resize(gates.size());
  CHECK(share_.size() == gates.size()) << gates.size() << " gates";
  struct Sums {
    double tokens = 0;
    double chosen = 0;    // Rows of all experts ...
    double possible = 0;  // ... if every token chose all of them.
  };
  std::vector<Sums> sums;
  RouterUse use;
  LoadStatsMean balance;
  double drift = 0;
  int num_drifts = 0;
  for (size_t i = 0; i < gates.size(); ++i) {
    const GateUse& gate = gates[i];
    const double rows =
        std::accumulate(gate.load.begin(), gate.load.end(), 0.0);
    if (gate.tier >= static_cast<int64_t>(sums.size())) {
      sums.resize(gate.tier + 1);
    }
    Sums& tier = sums[gate.tier];
    tier.tokens += static_cast<double>(gate.tokens);
    tier.chosen += rows;
    tier.possible += static_cast<double>(gate.tokens) *
                     static_cast<double>(gate.load.size());
    if (rows == 0) continue;
    balance.Add(ComputeLoadStats(gate.load));
    std::vector<double>& share = share_[i];
    const bool is_first = share.empty();
    if (is_first) share.assign(gate.load.size(), 0);
    CHECK(share.size() == gate.load.size()) << "gate " << i;
    double difference = 0;
    for (size_t e = 0; e < share.size(); ++e) {
      const double now = gate.load[e] / rows;
      difference += std::abs(now - share[e]);
      share[e] += (is_first ? 1 : memory_) * (now - share[e]);
    }
    if (is_first) continue;
    drift += difference / 2;
    ++num_drifts;
  }
  for (const Sums& tier : sums) {
    TierUse one;
    if (tier.possible > 0) one.activation_rate = tier.chosen / tier.possible;
    if (sums[0].tokens > 0) one.reached = tier.tokens / sums[0].tokens;
    use.tiers.push_back(one);
  }
  use.balance = balance.Mean();
  if (num_drifts > 0) use.drift = drift / num_drifts;
  return use;
}

}  // namespace strata
