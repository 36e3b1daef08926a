// Experts on ranks, real or virtual: how evenly the ranks are used, and the
// balancer that is called when they are not.
//
//   loads of a window, by gate   [gates][experts]
//     |  placement of each gate's experts on ranks, with spare slots
//     v
//   utilisation of a rank = its load / the largest rank's load (of one gate)
//   spread = standard deviation over ranks, mean over gates
//     |  above 0.15 (alarm_board.h)
//     v
//   Rebalance (core/parallel): experts are replicated and moved; biases of the
//   gates stay as they are, so no answer changes

#ifndef CORE_MONITOR_RANK_BALANCE_H_
#define CORE_MONITOR_RANK_BALANCE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/parallel/placement.h"

namespace strata {

struct RankBalanceOptions {
  int num_ranks = 8;
  int spare_slots = 1;  // Of each rank, for replicas.
  // Weight of a window in the loads that placements are made for, in (0, 1].
  double memory = 0.3;
  // RebalanceOptions::max_above_eplb (core/parallel/rebalance.h).
  double max_above_eplb = 0;
};

// The slots of a gate of so many experts: as many for each rank as it takes,
// and its spare ones. GPUs of the shape are the ranks.
PlacementShape SlotShape(int num_experts, const RankBalanceOptions& options);

// Expert after expert dealt to the ranks in equal runs; spare slots repeat the
// rank's first experts.
Placement InOrder(const PlacementShape& shape);

// Standard deviation over ranks of load / largest load; 0 without load.
double UtilisationSpread(absl::Span<const double> rank_load);

class RankBalance {
 public:
  // `num_experts` of each gate, which begin in order.
  //
  // Returns INVALID_ARGUMENT if there are no ranks, a negative number of spare
  // slots, or a gate without experts.
  static absl::StatusOr<RankBalance> Create(std::vector<int> num_experts,
                                            const RankBalanceOptions& options);

  // Takes the loads of a window; their spread under the present placements,
  // the mean over gates that had any load.
  double Observe(absl::Span<const std::vector<double>> load);

  struct Result {
    double spread_before = 0;  // Of the faded loads.
    double spread_after = 0;
    int64_t slots_changed = 0;
  };
  // Places experts anew, for the loads of the latest windows.
  absl::StatusOr<Result> Rebalance();

  // Says where experts are, of whoever moves them; valid placements of as many
  // gates.
  void SetPlacements(std::vector<Placement> placements);

  // The faded loads that placements are made for, [gates][experts].
  const std::vector<std::vector<double>>& loads() const { return faded_; }
  // Rows of each rank, of all gates, in the window that Observe took last.
  const std::vector<double>& rank_rows() const { return rank_rows_; }
  double spread() const { return spread_; }  // As Observe said last.
  double max_over_mean() const { return max_over_mean_; }  // Likewise, mean.
  double worst_max_over_mean() const { return worst_; }    // Over gates.
  const std::vector<Placement>& placements() const { return placements_; }

 private:
  struct Balance {
    double spread = 0, max_over_mean = 1, worst = 1;
  };
  Balance Of(absl::Span<const std::vector<double>> load) const;

  RankBalanceOptions options_;
  std::vector<PlacementShape> shapes_;      // [gates]
  std::vector<Placement> placements_;       // [gates]
  std::vector<std::vector<double>> faded_;  // [gates][experts]
  std::vector<double> rank_rows_;           // [ranks]
  double spread_ = 0, max_over_mean_ = 1, worst_ = 1;
};

}  // namespace strata

#endif  // CORE_MONITOR_RANK_BALANCE_H_
