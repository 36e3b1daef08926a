#include "sim/workload/load_replay.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/parallel/placement.h"
#include "core/parallel/rebalance.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/model_graph.h"
#include "sim/workload/training_step.h"

namespace strata::sim {
namespace {

constexpr uint64_t kSeed = 1;

struct Utilisation {
  double mean = 1;
  double spread = 0;
};

Utilisation OfRanks(const std::vector<double>& rows) {
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

// Averaged over gates.
Utilisation OfLoads(const ExpertLoads& loads, const std::vector<Gate>& gates,
                    int64_t num_ranks) {
  Utilisation sum = {0, 0};
  for (size_t g = 0; g < gates.size(); ++g) {
    std::vector<double> rows;
    for (const std::vector<double>& rank :
         RowsOfRanks(loads, gates[g], static_cast<int>(g), num_ranks, 1)) {
      rows.push_back(std::accumulate(rank.begin(), rank.end(), 0.0));
    }
    const Utilisation of = OfRanks(rows);
    sum.mean += of.mean / gates.size();
    sum.spread += of.spread / gates.size();
  }
  return sum;
}

PlacementShape ShapeOf(const StepInputs& inputs, const Gate& gate,
                       int64_t redundant_per_rank) {
  const int ranks = static_cast<int>(inputs.layout.expert);
  PlacementShape shape;
  shape.num_experts = static_cast<int>(gate.num_experts);
  shape.num_gpus = ranks;
  shape.num_slots = static_cast<int>(gate.num_experts +
                                     redundant_per_rank * inputs.layout.expert);
  const int gpus = ranks * static_cast<int>(inputs.layout.expert_tensor);
  if (gpus % inputs.machine.gpus_per_node == 0) {
    const int nodes = gpus / inputs.machine.gpus_per_node;
    if (ranks % nodes == 0) shape.num_nodes = nodes;
  }
  const ModelConfig& config = inputs.model->config();
  if (config.moe().has_flat() && config.moe().flat().num_groups() > 1) {
    shape.num_groups = static_cast<int>(config.moe().flat().num_groups());
  }
  return shape;
}

}  // namespace

absl::StatusOr<std::vector<BalancePoint>> ReplayLoads(
    const StepInputs& inputs, const std::vector<LoadWindow>& windows,
    const std::string& origin, const ReplayOptions& options) {
  const std::vector<Gate>& gates = inputs.model->gates();
  std::vector<Placement> placement;  // [gates], once there is a past.
  std::vector<std::vector<double>> past;
  std::vector<BalancePoint> points;
  for (const LoadWindow& window : windows) {
    BalancePoint point;
    point.first_step = window.first_step;
    point.last_step = window.last_step;
    ExpertLoads loads = LoadsOfWindow(window, gates, origin, kSeed);
    const Utilisation fixed = OfLoads(loads, gates, inputs.layout.expert);
    point.utilisation_static = fixed.mean;
    point.spread_static = fixed.spread;

    for (size_t g = 0; g < gates.size() && !past.empty(); ++g) {
      const PlacementShape shape =
          ShapeOf(inputs, gates[g], options.redundant_per_rank);
      const Placement* present = placement.size() > g ? &placement[g] : nullptr;
      ASSIGN_OR_RETURN(Rebalanced rebalanced,
                       Rebalance(shape, past[g], RebalanceOptions(), present));
      point.slots_changed +=
          static_cast<int64_t>(rebalanced.migration.copies.size());
      if (present == nullptr) {
        placement.push_back(std::move(rebalanced.placement));
      } else {
        placement[g] = std::move(rebalanced.placement);
      }
    }
    ExpertLoads balanced = loads;
    balanced.placement = placement;
    const Utilisation moved = OfLoads(balanced, gates, inputs.layout.expert);
    point.utilisation_balanced = moved.mean;
    point.spread_balanced = moved.spread;
    if (options.time_steps) {
      StepInputs step = inputs;
      step.loads = loads;
      ASSIGN_OR_RETURN(const StepResult before, SimulateStep(step));
      step.loads = std::move(balanced);
      ASSIGN_OR_RETURN(const StepResult after, SimulateStep(step));
      point.seconds_static = before.seconds;
      point.seconds_balanced = after.seconds;
    }
    past = loads.share;
    points.push_back(point);
  }
  return points;
}

}  // namespace strata::sim
