// Expert placement for a model of DeepSeek-V3's size, 58 layers of 256 experts
// on 288 slots: time, balance and moves.
//
//   bazel run -c opt //core/parallel:placement_benchmark
//
// Time is one core's for all layers. Counters, over layers:
//   eplb, ours     mean max/mean over GPUs
//   eplb_worst, ours_worst, bound  the worst layer's; the mean lower bound
//   duplicates     layers where a GPU holds an expert twice, but need not
// BM_Rebalance follows loads that drift by a tenth a window (lognormal), with a
// hot expert now and then; "present" is what the placement of the window before
// would give. Counters, over windows too:
//   slots, GB      changed a layer; moved for the model, 44 MB an expert (the
//                  three fp8 matrices of 7168 x 2048)
//   eplb_slots     that EPLB changes, with the same renaming of GPUs
// BM_SmallLayers holds both to the optimum: mean ratios, share of layers where
// ours is the optimum.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/parallel/eplb.h"
#include "core/parallel/migration.h"
#include "core/parallel/optimal_placement.h"
#include "core/parallel/placement.h"
#include "core/parallel/rebalance.h"

namespace strata {
namespace {

constexpr int kNumLayers = 58;
constexpr int64_t kBytesPerExpert = int64_t{3} * 7168 * 2048;
constexpr int kNumWindows = 20;

using Loads = std::vector<std::vector<double>>;  // [layers][experts]

enum class Skew { kZipf, kLognormal, kHot };

std::vector<double> DrawLoad(Skew skew, double strength, int num_experts,
                             Random& random) {
  std::vector<double> load(num_experts);
  for (int e = 0; e < num_experts; ++e) {
    const double x = skew == Skew::kZipf ? std::pow(e + 1, -strength)
                                         : std::exp(strength * random.Normal());
    load[e] = std::round(1e5 * x);
  }
  if (skew == Skew::kHot) load[0] = 0.1 * num_experts * 1e5;
  for (int e = num_experts - 1; e > 0; --e) {
    std::swap(load[e], load[random.UniformInt(e + 1)]);
  }
  return load;
}

Loads DrawLayers(Skew skew, double strength, int num_experts, Random& random) {
  Loads loads(kNumLayers);
  for (std::vector<double>& load : loads) {
    load = DrawLoad(skew, strength, num_experts, random);
  }
  return loads;
}

void Drift(Loads& loads, Random& random) {
  for (std::vector<double>& load : loads) {
    for (double& x : load) x = std::round(x * std::exp(0.1 * random.Normal()));
    if (random.UniformInt(20) == 0) load[random.UniformInt(load.size())] *= 4;
  }
}

ModelRebalanced Place(const PlacementShape& shape, const Loads& loads,
                      const RebalanceOptions& options,
                      const std::vector<Placement>& present) {
  auto model = RebalanceLayers(shape, loads, options, present);
  CHECK(model.ok()) << model.status().ToString();
  return *std::move(model);
}

std::vector<Placement> Placements(const ModelRebalanced& model) {
  std::vector<Placement> placements;
  for (const Rebalanced& layer : model.layers) {
    placements.push_back(layer.placement);
  }
  return placements;
}

// Placing anew, without a present placement.
void BM_Place(benchmark::State& state, PlacementShape shape, Skew skew,
              double strength) {
  Random random(/*seed=*/1, /*stream=*/0);
  const Loads loads = DrawLayers(skew, strength, shape.num_experts, random);
  ModelRebalanced model;
  for (auto _ : state) model = Place(shape, loads, RebalanceOptions(), {});

  double ours_worst = 0, eplb_worst = 0, bound = 0, duplicates = 0;
  for (const Rebalanced& layer : model.layers) {
    ours_worst = std::max(ours_worst, layer.max_over_mean);
    eplb_worst = std::max(eplb_worst, layer.eplb_max_over_mean);
    bound += layer.lower_bound / kNumLayers;
    if (!MustDuplicate(shape)) {
      duplicates += NumGpusWithDuplicates(shape, layer.placement) > 0;
    }
  }
  state.counters["eplb"] = model.eplb_max_over_mean;
  state.counters["eplb_worst"] = eplb_worst;
  state.counters["ours"] = model.max_over_mean;
  state.counters["ours_worst"] = ours_worst;
  state.counters["bound"] = bound;
  state.counters["duplicates"] = duplicates;
}

// EPLB alone, for its time.
void BM_Eplb(benchmark::State& state, PlacementShape shape) {
  Random random(/*seed=*/1, /*stream=*/0);
  const Loads loads = DrawLayers(Skew::kZipf, 1.0, shape.num_experts, random);
  for (auto _ : state) {
    for (const std::vector<double>& load : loads) {
      benchmark::DoNotOptimize(PlaceByEplb(shape, load));
    }
  }
}

// Following a drift, window by window.
void BM_Rebalance(benchmark::State& state, PlacementShape shape, Skew skew,
                  double strength, double max_above_eplb) {
  Random random(/*seed=*/1, /*stream=*/0);
  Loads loads = DrawLayers(skew, strength, shape.num_experts, random);
  RebalanceOptions options;
  options.bytes_per_expert = kBytesPerExpert;
  options.max_above_eplb = max_above_eplb;
  std::vector<Placement> present =
      Placements(Place(shape, loads, options, /*present=*/{}));
  std::vector<Placement> eplb_present = present;

  double ours = 0, eplb = 0, stay = 0, slots = 0, eplb_slots = 0, bytes = 0;
  double windows = 0;
  for (auto _ : state) {
    state.PauseTiming();
    Drift(loads, random);
    state.ResumeTiming();
    const ModelRebalanced model = Place(shape, loads, options, present);
    state.PauseTiming();
    ++windows;
    ours += model.max_over_mean;
    eplb += model.eplb_max_over_mean;
    slots += static_cast<double>(model.slots_changed) / kNumLayers;
    bytes += model.bytes_moved;
    for (int layer = 0; layer < kNumLayers; ++layer) {
      stay += MaxOverMean(shape, present[layer], loads[layer]) / kNumLayers;
      const Placement renamed =
          RelabelToMatch(shape, eplb_present[layer],
                         PlaceByEplb(shape, loads[layer])->placement);
      auto plan = PlanMigration(shape, eplb_present[layer], renamed, 1);
      CHECK(plan.ok()) << plan.status().ToString();
      eplb_slots += static_cast<double>(plan->copies.size()) / kNumLayers;
      eplb_present[layer] = renamed;
    }
    present = Placements(model);
    state.ResumeTiming();
  }
  state.counters["present"] = stay / windows;
  state.counters["eplb"] = eplb / windows;
  state.counters["ours"] = ours / windows;
  state.counters["slots"] = slots / windows;
  state.counters["eplb_slots"] = eplb_slots / windows;
  state.counters["GB"] = bytes / windows / 1e9;
}

// Distance to the optimum.
void BM_SmallLayers(benchmark::State& state, PlacementShape shape) {
  constexpr int kNumSmallLayers = 300;
  double eplb = 0, ours = 0, optimal = 0;
  for (auto _ : state) {
    eplb = ours = optimal = 0;
    Random random(/*seed=*/1, /*stream=*/0);
    for (int i = 0; i < kNumSmallLayers; ++i) {
      const std::vector<double> load =
          DrawLoad(i % 2 == 0 ? Skew::kZipf : Skew::kLognormal,
                   0.5 + random.Uniform(), shape.num_experts, random);
      const auto optimum =
          FindOptimalPlacement(shape, load, Duplicates::kAllowed);
      CHECK(optimum.ok()) << optimum.status().ToString();
      const auto placed = Rebalance(shape, load, RebalanceOptions(), nullptr);
      CHECK(placed.ok()) << placed.status().ToString();
      const double least = MaxOverMean(shape, *optimum, load);
      eplb += placed->eplb_max_over_mean / least / kNumSmallLayers;
      ours += placed->max_over_mean / least / kNumSmallLayers;
      // But for rounding.
      optimal += (placed->max_over_mean < least * (1 + 1e-9)) /
                 static_cast<double>(kNumSmallLayers);
    }
  }
  state.counters["eplb_over_optimum"] = eplb;
  state.counters["ours_over_optimum"] = ours;
  state.counters["optimal_share"] = optimal;
}

std::string Name(const char* benchmark, const PlacementShape& shape) {
  return absl::StrCat(benchmark, "/gpus:", shape.num_gpus,
                      "/nodes:", shape.num_nodes, "/groups:", shape.num_groups);
}

void RegisterAll() {
  const auto layer = [](int num_gpus, int num_nodes, int num_groups) {
    return PlacementShape{/*num_experts=*/256, /*num_slots=*/288, num_gpus,
                          num_nodes, num_groups};
  };
  struct Case {
    const char* name;
    Skew skew;
    double strength;
  };
  constexpr Case kCases[] = {{"zipf:0.5", Skew::kZipf, 0.5},
                             {"zipf:1.0", Skew::kZipf, 1.0},
                             {"zipf:1.5", Skew::kZipf, 1.5},
                             {"lognormal:0.5", Skew::kLognormal, 0.5},
                             {"lognormal:1.5", Skew::kLognormal, 1.5},
                             {"hot:0.5", Skew::kHot, 0.5}};
  const PlacementShape shapes[] = {layer(32, 4, 1), layer(32, 4, 8),
                                   layer(32, 8, 8), layer(8, 1, 8),
                                   layer(8, 4, 8)};
  for (const PlacementShape& shape : shapes) {
    benchmark::RegisterBenchmark(Name("BM_Eplb", shape).c_str(), BM_Eplb, shape)
        ->Unit(benchmark::kMillisecond);
    for (const Case& c : kCases) {
      benchmark::RegisterBenchmark(
          absl::StrCat(Name("BM_Place", shape), "/", c.name).c_str(), BM_Place,
          shape, c.skew, c.strength)
          ->Unit(benchmark::kMillisecond);
    }
  }
  for (const PlacementShape& shape :
       {shapes[0], shapes[1], shapes[2], shapes[3]}) {
    for (const Case& c : {kCases[1], kCases[2], kCases[3]}) {
      for (const double above : {0.0, 0.01, 0.02}) {
        benchmark::RegisterBenchmark(
            absl::StrCat(Name("BM_Rebalance", shape), "/", c.name,
                         "/max_above_eplb:", above)
                .c_str(),
            BM_Rebalance, shape, c.skew, c.strength, above)
            ->Iterations(kNumWindows)
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
  const PlacementShape small[] = {
      {8, 12, 4}, {6, 12, 4}, {6, 12, 6}, {8, 12, 4, 2, 4}};
  for (const PlacementShape& shape : small) {
    benchmark::RegisterBenchmark(absl::StrCat(Name("BM_SmallLayers", shape),
                                              "/experts:", shape.num_experts)
                                     .c_str(),
                                 BM_SmallLayers, shape)
        ->Iterations(1)
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  strata::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
