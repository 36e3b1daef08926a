// Live balancing: experts move between the ranks of ep while a run goes on.
//
//   loads of a step, summed over ranks   training/expert_meter.h
//     |  windows, alarm, Rebalance          core/monitor, core/parallel
//     v
//   a target placement of each gate
//     |  legs within the budget             move_leg.h
//     v
//   rows of weights and moments           move_rows.h
//   and the table that the graph reads    core/ops/expert_placement.h
//
// Every rank has one and feeds it the same loads, so all plan the same without
// a message. Gradients begin anew in each step and stay.

#ifndef TRAINING_BALANCE_LIVE_BALANCER_H_
#define TRAINING_BALANCE_LIVE_BALANCER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/monitor/rank_balance.h"
#include "core/monitor/watch.h"
#include "core/parallel/mesh.h"
#include "core/parallel/placement.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/state_store.h"
#include "training/balance/balance_rule.h"
#include "training/expert_meter.h"
#include "training/metrics.h"

namespace strata {

// How experts lie on `ranks` ranks of ep, with spare slots.
RankBalanceOptions SlotsOfRanks(int ranks, int spare);

class LiveBalancer {
 public:
  // `shards` are this rank's; states of their parameters are in `state`, in
  // order as a run begins. The gates of `meter` are those of all stages. The
  // mesh and the state must outlive the balancer. Every rank calls it.
  static absl::StatusOr<std::unique_ptr<LiveBalancer>> Create(
      const BalanceRule& rule, const ExpertMeter& meter,
      absl::Span<const Shard> shards, const Mesh& mesh, StateStore& state);

  // Takes the loads of a step, all ranks' together, and moves experts if it is
  // time and the budget allows it. Appends what moved. Every rank calls it.
  absl::Status AfterStep(int64_t step, const ExpertMeter& meter,
                         std::vector<ExpertMove>& moves);

  // Says that the states hold the experts in order, as those of a checkpoint
  // just loaded do; fills the spare slots. Not a call of all ranks.
  void BeginInOrder();

  // All experts in order, as if none had ever moved, and back. Every rank calls
  // both.
  absl::Status GoHome();
  absl::Status GoBack();

  // In force, by gate.
  const std::vector<Placement>& placements() const { return placements_; }

 private:
  struct Gate {
    int64_t layer = 0;
    int64_t tier = 0;
    std::string table;
    std::vector<std::string> states;  // None where another stage has it.
    int64_t bytes = 0;                // Of a slot, the most of any rank.
    PlacementShape shape;
    Placement home;
  };

  LiveBalancer(const BalanceRule& rule, std::vector<Shard> shards,
               const Mesh& mesh, StateStore& state);

  absl::Status AddGates(const ExpertMeter& meter);
  bool Due(int64_t step);
  absl::Status MoveSome(std::vector<ExpertMove>& moves);
  // Carries a leg of gate `g` out.
  absl::Status Move(size_t g, absl::Span<const int32_t> origin,
                    const Placement& after);
  absl::Status MoveAll(absl::Span<const Placement> targets);
  void SetTable(const std::string& table, const Placement& placement);
  // The slots that may change at once.
  int64_t SlotsWithin(size_t g, int64_t bytes) const;

  const BalanceRule rule_;
  const std::vector<Shard> shards_;
  const Mesh& mesh_;
  StateStore& state_;
  Watch watch_;
  std::vector<Gate> gates_;
  std::vector<Placement> placements_;  // [gates], in force;
  std::vector<Placement> away_;        // that GoBack() goes to.
  double seconds_per_byte_ = 0;        // Of the moves so far; 0: none yet.
  int64_t num_rebalances_ = 0;
  int64_t rebalanced_at_ = 0;  // The step.
};

}  // namespace strata

#endif  // TRAINING_BALANCE_LIVE_BALANCER_H_
