#include "tools/scorecard/c1_layouts.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/parallel/placement.h"
#include "core/parallel/rebalance.h"
#include "nlohmann/json.hpp"
#include "sim/validation/validation.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/simulator.h"
#include "sim/workload/sweep.h"
#include "sim/workload/training_step.h"
#include "tools/scorecard/c1_balance.h"

namespace strata {
namespace {

constexpr uint64_t kSeed = 1;
constexpr char kOrigin[] = "recorded routing";

// The window's loads for the gates of another model. Where gates have as many
// experts as the trace's, gate g has those of the trace's gates in turn, its
// experts renamed, the same way in every window: what an expert's load does
// over time stays its own. Otherwise the skew alone stays.
sim::ExpertLoads LoadsOf(const sim::LoadWindow& window,
                         const std::vector<sim::Gate>& gates) {
  for (size_t g = 0; g < gates.size(); ++g) {
    if (static_cast<int64_t>(window.load[g % window.load.size()].size()) !=
        gates[g].num_experts) {
      return sim::LoadsOfWindow(window, gates, kOrigin, kSeed);
    }
  }
  sim::ExpertLoads loads;
  loads.origin = kOrigin;
  for (size_t g = 0; g < gates.size(); ++g) {
    const std::vector<double>& load = window.load[g % window.load.size()];
    std::vector<size_t> name(load.size());
    for (size_t e = 0; e < name.size(); ++e) name[e] = e;
    Random random(kSeed, g);
    for (size_t i = name.size(); i > 1; --i) {
      std::swap(name[i - 1], name[random.UniformInt(i)]);
    }
    double sum = 0;
    for (const double l : load) sum += l;
    std::vector<double> share(load.size(), 1.0 / load.size());
    for (size_t e = 0; e < load.size() && sum > 0; ++e) {
      share[name[e]] = load[e] / sum;
    }
    loads.share.push_back(std::move(share));
  }
  return loads;
}

// How experts come to their slots.
enum class Placing { kInOrder, kOnce, kDynamic };

class Comparison {
 public:
  Comparison(const std::vector<sim::LoadWindow>& windows,
             const LayoutsOptions& options, const LayoutsCluster& cluster)
      : windows_(windows), options_(options), cluster_(cluster) {}

  absl::StatusOr<LayoutsOutcome> Run() {
    ASSIGN_OR_RETURN(const sim::ModelGraph* model,
                     simulator_.Model(options_.model));
    gates_ = model->gates();
    scenario_.model = options_.model;
    scenario_.cluster = cluster_.name;
    scenario_.layout = cluster_.layout;
    ASSIGN_OR_RETURN(const sim::Constants constants, sim::DefaultConstants());
    ASSIGN_OR_RETURN(scenario_.software,
                     sim::SoftwareOf(constants, options_.framework));
    const auto num_windows = static_cast<int64_t>(windows_.size());
    profile_ = ProfileWindows(num_windows);
    if (num_windows < 2) {
      return absl::InvalidArgumentError("a trace of fewer than two windows");
    }
    // Evenly over those after the profile.
    const int64_t measured = num_windows - profile_;
    const int64_t timed = std::min(options_.timed_windows, measured);
    for (int64_t i = 0; i < timed; ++i) {
      timed_.push_back(profile_ + (2 * i + 1) * measured / (2 * timed));
    }
    LayoutsOutcome outcome;
    outcome.cluster = cluster_.name;
    constexpr Placing kOnce = Placing::kOnce, kDynamic = Placing::kDynamic;
    const std::vector<int64_t> any = {1, 3}, one = {1};
    ASSIGN_OR_RETURN(outcome.two_d, Side(/*pipeline=*/false, kOnce, any));
    ASSIGN_OR_RETURN(outcome.two_d_dynamic, Side(false, kDynamic, any));
    ASSIGN_OR_RETURN(outcome.three_d_fixed, Side(true, kOnce, any));
    ASSIGN_OR_RETURN(outcome.three_d, Side(true, kDynamic, any));
    ASSIGN_OR_RETURN(outcome.two_d_zero1_plain,
                     Side(false, Placing::kInOrder, one));
    ASSIGN_OR_RETURN(outcome.two_d_zero1, Side(false, kOnce, one));
    ASSIGN_OR_RETURN(outcome.three_d_zero1, Side(true, kDynamic, one));
    return outcome;
  }

 private:
  // Loads of a timed window, placed for so many ranks.
  absl::StatusOr<const sim::ExpertLoads*> Placed(int64_t window, int64_t ranks,
                                                 Placing placing) {
    auto [it, is_new] = placed_.try_emplace({window, ranks, placing});
    if (!is_new) return &it->second;
    it->second = LoadsOf(windows_[window], gates_);
    if (placing == Placing::kInOrder) return &it->second;
    sim::LoadWindow seen;
    seen.load = placing == Placing::kDynamic
                    ? windows_[window - 1].load
                    : SumOfLoads(windows_, 0, profile_);
    seen.tokens = windows_[window].tokens;
    const sim::ExpertLoads past = LoadsOf(seen, gates_);
    for (size_t g = 0; g < gates_.size() && ranks > 1; ++g) {
      PlacementShape shape;
      shape.num_experts = static_cast<int>(gates_[g].num_experts);
      shape.num_gpus = static_cast<int>(ranks);
      shape.num_slots =
          shape.num_experts + options_.spare_per_rank * shape.num_gpus;
      ASSIGN_OR_RETURN(
          Rebalanced placed,
          Rebalance(shape, past.share[g], RebalanceOptions(), nullptr));
      it->second.placement.push_back(std::move(placed.placement));
    }
    return &it->second;
  }

  absl::StatusOr<LayoutsSide> Side(bool pipeline, Placing placing,
                                   const std::vector<int64_t>& zero) {
    LayoutsSide side;
    sim::SweepOptions sweep;
    sweep.max_tensor = 1;
    if (!pipeline) sweep.max_pipeline = 1;
    sweep.zero = zero;
    sweep.prepare = [&](sim::StepInputs& inputs) -> absl::Status {
      ASSIGN_OR_RETURN(const sim::ExpertLoads* loads,
                       Placed(timed_[0], inputs.layout.expert, placing));
      inputs.loads = *loads;
      return absl::OkStatus();
    };
    ASSIGN_OR_RETURN(side.sweep,
                     sim::SweepLayouts(scenario_, simulator_, sweep));
    if (side.sweep.points.empty()) {
      return absl::NotFoundError(
          absl::StrCat("none of ", side.sweep.tried, " layouts of ",
                       options_.model, " fits in memory on ", cluster_.name));
    }
    const size_t finalists =
        std::min<size_t>(options_.finalists, side.sweep.points.size());
    for (size_t i = 0; i < finalists; ++i) {
      const sim::SweepPoint& point = side.sweep.points[i];
      sim::Scenario scenario = scenario_;
      scenario.layout = point.layout;
      scenario.schedule = point.schedule;
      ASSIGN_OR_RETURN(sim::StepInputs inputs, simulator_.Inputs(scenario));
      std::vector<double> seconds;
      double mean = 0;
      for (const int64_t window : timed_) {
        ASSIGN_OR_RETURN(const sim::ExpertLoads* loads,
                         Placed(window, inputs.layout.expert, placing));
        inputs.loads = *loads;
        ASSIGN_OR_RETURN(const sim::StepResult step, sim::SimulateStep(inputs));
        seconds.push_back(step.seconds);
        mean += step.seconds / static_cast<double>(timed_.size());
      }
      if (i > 0 && mean >= side.seconds) continue;
      side.layout = point.layout;
      side.schedule = point.schedule;
      side.seconds = mean;
      side.seconds_of_windows = std::move(seconds);
      inputs.loads = {};
      ASSIGN_OR_RETURN(const sim::StepResult even, sim::SimulateStep(inputs));
      side.seconds_even = even.seconds;
    }
    return side;
  }

  struct Key {
    int64_t window;
    int64_t ranks;
    Placing placing;
    bool operator<(const Key& other) const {
      return std::tie(window, ranks, placing) <
             std::tie(other.window, other.ranks, other.placing);
    }
  };

  const std::vector<sim::LoadWindow>& windows_;
  const LayoutsOptions& options_;
  const LayoutsCluster& cluster_;
  sim::Simulator simulator_;
  sim::Scenario scenario_;
  std::vector<sim::Gate> gates_;
  int64_t profile_ = 0;
  std::vector<int64_t> timed_;
  std::map<Key, sim::ExpertLoads> placed_;
};

nlohmann::json ToJson(const LayoutsSide& side) {
  return {{"layout", side.layout},
          {"schedule", side.schedule},
          {"seconds", side.seconds},
          {"seconds_of_windows", side.seconds_of_windows},
          {"seconds_even", side.seconds_even},
          {"layouts_tried", side.sweep.tried},
          {"layouts_not_dividing", side.sweep.not_dividing},
          {"layouts_out_of_memory", side.sweep.out_of_memory},
          {"layouts_timed", side.sweep.points.size()}};
}

}  // namespace

absl::StatusOr<std::vector<LayoutsOutcome>> CompareLayouts(
    const std::vector<sim::LoadWindow>& windows,
    const LayoutsOptions& options) {
  std::vector<LayoutsOutcome> outcomes;
  for (const LayoutsCluster& cluster : options.clusters) {
    ASSIGN_OR_RETURN(LayoutsOutcome outcome,
                     Comparison(windows, options, cluster).Run());
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

nlohmann::json ToJson(const LayoutsOutcome& outcome) {
  return {
      {"cluster", outcome.cluster},
      {"data_expert_fixed", ToJson(outcome.two_d)},
      {"data_expert_dynamic", ToJson(outcome.two_d_dynamic)},
      {"data_expert_pipeline_fixed", ToJson(outcome.three_d_fixed)},
      {"data_expert_pipeline_dynamic", ToJson(outcome.three_d)},
      {"zero1_data_expert_in_order", ToJson(outcome.two_d_zero1_plain)},
      {"zero1_data_expert_fixed", ToJson(outcome.two_d_zero1)},
      {"zero1_data_expert_pipeline_dynamic", ToJson(outcome.three_d_zero1)}};
}

}  // namespace strata
