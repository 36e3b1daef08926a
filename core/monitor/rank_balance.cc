#include "core/monitor/rank_balance.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/parallel/placement.h"
#include "core/parallel/rebalance.h"

namespace strata {
namespace {

bool IsEmpty(const std::vector<double>& load) {
  return std::all_of(load.begin(), load.end(), [](double x) { return x == 0; });
}

}  // namespace

double UtilisationSpread(absl::Span<const double> rank_load) {
  if (rank_load.empty()) return 0;
  const double max = *std::max_element(rank_load.begin(), rank_load.end());
  if (max == 0) return 0;
  const auto n = static_cast<double>(rank_load.size());
  double mean = 0, squares = 0;
  for (const double load : rank_load) mean += load / max / n;
  for (const double load : rank_load) {
    squares += (load / max - mean) * (load / max - mean) / n;
  }
  return std::sqrt(squares);
}

PlacementShape SlotShape(int num_experts, const RankBalanceOptions& options) {
  PlacementShape shape;
  shape.num_experts = num_experts;
  shape.num_gpus = options.num_ranks;
  const int of_rank = (num_experts + options.num_ranks - 1) / options.num_ranks;
  shape.num_slots = (of_rank + options.spare_slots) * options.num_ranks;
  return shape;
}

Placement InOrder(const PlacementShape& shape) {
  const int of_rank = (shape.num_experts + shape.num_gpus - 1) / shape.num_gpus;
  Placement placement;
  for (int rank = 0; rank < shape.num_gpus; ++rank) {
    for (int slot = 0; slot < shape.SlotsPerGpu(); ++slot) {
      // Round again where experts or the rank's own run out.
      const int expert = rank * of_rank + slot % of_rank;
      placement.expert.push_back(expert % shape.num_experts);
    }
  }
  return placement;
}

absl::StatusOr<RankBalance> RankBalance::Create(
    std::vector<int> num_experts, const RankBalanceOptions& options) {
  if (options.num_ranks < 1 || options.spare_slots < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.num_ranks, " ranks with ", options.spare_slots,
                     " spare slots; want at least 1 and 0"));
  }
  RankBalance balance;
  balance.options_ = options;
  for (const int experts : num_experts) {
    const PlacementShape shape = SlotShape(experts, options);
    RETURN_IF_ERROR(ValidateShape(shape));
    Placement placement = InOrder(shape);
    RETURN_IF_ERROR(ValidatePlacement(shape, placement));
    balance.shapes_.push_back(shape);
    balance.placements_.push_back(std::move(placement));
    balance.faded_.emplace_back(experts, 0.0);
  }
  return balance;
}

void RankBalance::SetPlacements(std::vector<Placement> placements) {
  CHECK(placements.size() == shapes_.size()) << placements.size() << " gates";
  placements_ = std::move(placements);
}

RankBalance::Balance RankBalance::Of(
    absl::Span<const std::vector<double>> load) const {
  Balance mean = {0, 0, 1};
  int count = 0;
  for (size_t gate = 0; gate < load.size(); ++gate) {
    if (IsEmpty(load[gate])) continue;
    ++count;
    const std::vector<double> ranks =
        GpuLoads(shapes_[gate], placements_[gate], load[gate]);
    mean.spread += UtilisationSpread(ranks);
    const double over =
        MaxOverMean(shapes_[gate], placements_[gate], load[gate]);
    mean.max_over_mean += over;
    mean.worst = std::max(mean.worst, over);
  }
  if (count == 0) return Balance();
  mean.spread /= count;
  mean.max_over_mean /= count;
  return mean;
}

double RankBalance::Observe(absl::Span<const std::vector<double>> load) {
  CHECK(load.size() == shapes_.size()) << load.size() << " gates";
  for (size_t gate = 0; gate < load.size(); ++gate) {
    std::vector<double>& faded = faded_[gate];
    CHECK(load[gate].size() == faded.size()) << "gate " << gate;
    if (IsEmpty(load[gate])) continue;
    // The first window counts whole.
    const double weight = IsEmpty(faded) ? 1 : options_.memory;
    for (size_t e = 0; e < faded.size(); ++e) {
      faded[e] += weight * (load[gate][e] - faded[e]);
    }
  }
  rank_rows_.assign(options_.num_ranks, 0);
  for (size_t gate = 0; gate < load.size(); ++gate) {
    const std::vector<double> of_gate =
        GpuLoads(shapes_[gate], placements_[gate], load[gate]);
    for (size_t r = 0; r < of_gate.size(); ++r) rank_rows_[r] += of_gate[r];
  }
  const Balance balance = Of(load);
  spread_ = balance.spread;
  max_over_mean_ = balance.max_over_mean;
  worst_ = balance.worst;
  return spread_;
}

absl::StatusOr<RankBalance::Result> RankBalance::Rebalance() {
  Result result;
  RebalanceOptions options;
  options.max_above_eplb = options_.max_above_eplb;
  result.spread_before = Of(faded_).spread;
  for (size_t gate = 0; gate < shapes_.size(); ++gate) {
    if (IsEmpty(faded_[gate])) continue;
    ASSIGN_OR_RETURN(Rebalanced rebalanced,
                     strata::Rebalance(shapes_[gate], faded_[gate], options,
                                       &placements_[gate]));
    result.slots_changed +=
        static_cast<int64_t>(rebalanced.migration.copies.size());
    placements_[gate] = std::move(rebalanced.placement);
  }
  result.spread_after = Of(faded_).spread;
  return result;
}

}  // namespace strata
