#include "tools/scorecard/c1_balance.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/parallel/placement.h"
#include "core/parallel/rebalance.h"
#include "nlohmann/json.hpp"
#include "sim/workload/expert_loads.h"

namespace strata {
namespace {

Use UseOf(const PlacementShape& shape, const Placement& placement,
          const std::vector<double>& load) {
  const std::vector<double> rows = GpuLoads(shape, placement, load);
  const double most = *std::max_element(rows.begin(), rows.end());
  if (most <= 0) return {};
  double sum = 0;
  double squares = 0;
  for (const double r : rows) {
    sum += r / most;
    squares += (r / most) * (r / most);
  }
  const double n = static_cast<double>(rows.size());
  return {sum / n, std::sqrt(std::max(0.0, squares / n - sum / n * sum / n))};
}

void AddShare(const Use& use, double share, Use& to) {
  to.mean += use.mean * share;
  to.spread += use.spread * share;
}

Placement InOrder(int num_experts) {
  Placement placement;
  for (int e = 0; e < num_experts; ++e) placement.expert.push_back(e);
  return placement;
}

nlohmann::json ToJson(const Use& use) {
  return {{"utilisation", use.mean}, {"spread", use.spread}};
}

}  // namespace

int64_t ProfileWindows(int64_t num_windows) {
  return std::max<int64_t>(1, num_windows / 4);
}

std::vector<std::vector<double>> SumOfLoads(
    const std::vector<sim::LoadWindow>& windows, int64_t begin, int64_t end) {
  std::vector<std::vector<double>> sum = windows[begin].load;
  for (int64_t w = begin + 1; w < end; ++w) {
    for (size_t g = 0; g < sum.size(); ++g) {
      for (size_t e = 0; e < sum[g].size(); ++e) {
        sum[g][e] += windows[w].load[g][e];
      }
    }
  }
  return sum;
}

namespace {

absl::Status HoldToEplb(const PlacementShape& shape,
                        const std::vector<double>& load, HeldToEplb& held) {
  ASSIGN_OR_RETURN(const Rebalanced ours,
                   Rebalance(shape, load, RebalanceOptions(), nullptr));
  held.eplb += ours.eplb_max_over_mean;
  held.ours += ours.max_over_mean;
  held.worst_ratio =
      std::max(held.worst_ratio, ours.max_over_mean / ours.eplb_max_over_mean);
  ++held.cases;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BalanceOutcome> MeasureBalance(
    const std::vector<sim::LoadWindow>& windows,
    const BalanceOptions& options) {
  const auto num_windows = static_cast<int64_t>(windows.size());
  if (num_windows < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a routing trace of ", num_windows,
                     " windows; want two at least, one to place experts by"));
  }
  const int64_t profile = ProfileWindows(num_windows);
  const std::vector<std::vector<double>> past = SumOfLoads(windows, 0, profile);
  const size_t num_gates = past.size();
  const Use none = {0, 0};
  BalanceOutcome outcome;
  outcome.plain = outcome.fixed = outcome.dynamic = none;
  outcome.windows.resize(num_windows - profile);
  for (int64_t w = profile; w < num_windows; ++w) {
    BalanceWindow& window = outcome.windows[w - profile];
    window.first_step = windows[w].first_step;
    window.last_step = windows[w].last_step;
    window.plain = window.fixed = window.dynamic = none;
  }
  for (size_t g = 0; g < num_gates; ++g) {
    PlacementShape plain;
    plain.num_experts = plain.num_slots = static_cast<int>(past[g].size());
    plain.num_gpus = options.ranks;
    PlacementShape shape = plain;
    shape.num_slots += options.spare_per_rank * options.ranks;
    RETURN_IF_ERROR(ValidateShape(plain));
    ASSIGN_OR_RETURN(const Rebalanced fixed,
                     Rebalance(shape, past[g], RebalanceOptions(), nullptr));
    Placement dynamic = fixed.placement;
    for (int64_t w = profile; w < num_windows; ++w) {
      BalanceWindow& window = outcome.windows[w - profile];
      ASSIGN_OR_RETURN(Rebalanced moved,
                       Rebalance(shape, windows[w - 1].load[g],
                                 RebalanceOptions(), &dynamic));
      dynamic = std::move(moved.placement);
      window.slots_moved += static_cast<int64_t>(moved.migration.copies.size());
      const std::vector<double>& load = windows[w].load[g];
      RETURN_IF_ERROR(HoldToEplb(shape, load, outcome.known));
      const double share = 1.0 / static_cast<double>(num_gates);
      AddShare(UseOf(plain, InOrder(plain.num_experts), load), share,
               window.plain);
      AddShare(UseOf(shape, fixed.placement, load), share, window.fixed);
      AddShare(UseOf(shape, dynamic, load), share, window.dynamic);
    }
  }
  for (const BalanceWindow& window : outcome.windows) {
    const double share = 1.0 / static_cast<double>(outcome.windows.size());
    AddShare(window.plain, share, outcome.plain);
    AddShare(window.fixed, share, outcome.fixed);
    AddShare(window.dynamic, share, outcome.dynamic);
  }
  const auto cases = static_cast<double>(outcome.known.cases);
  outcome.known.eplb /= cases;
  outcome.known.ours /= cases;
  return outcome;
}

nlohmann::json ToJson(const BalanceOutcome& outcome) {
  nlohmann::json windows = nlohmann::json::array();
  for (const BalanceWindow& window : outcome.windows) {
    windows.push_back({{"first_step", window.first_step},
                       {"last_step", window.last_step},
                       {"plain", ToJson(window.plain)},
                       {"fixed", ToJson(window.fixed)},
                       {"dynamic", ToJson(window.dynamic)},
                       {"slots_moved", window.slots_moved}});
  }
  return {{"plain", ToJson(outcome.plain)},
          {"fixed", ToJson(outcome.fixed)},
          {"dynamic", ToJson(outcome.dynamic)},
          {"known_loads",
           {{"eplb_max_over_mean", outcome.known.eplb},
            {"ours_max_over_mean", outcome.known.ours},
            {"worst_ratio", outcome.known.worst_ratio},
            {"cases", outcome.known.cases}}},
          {"windows", std::move(windows)}};
}

}  // namespace strata
