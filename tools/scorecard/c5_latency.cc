#include "tools/scorecard/c5_latency.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/trading/market_feed.h"
#include "tools/scorecard/trading/trading_engine.h"
#include "tools/scorecard/trading/trading_model.h"
#include "training/demo/report.h"

namespace strata {
namespace {

using Bursts = std::vector<std::vector<std::string>>;

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const auto last = static_cast<double>(values.size() - 1);
  return values[static_cast<size_t>(std::lround(q * last))];
}

// One way to run the workload, and what it took in each round.
struct Side {
  std::string name;
  TradingMode mode;
  std::unique_ptr<TradingModel> model;
  int threads = 1;
  std::vector<double> p50, p99, unloaded;  // [rounds], us
};

Bursts MakeBursts(MarketFeed& feed, const C5Options& options, int64_t count) {
  Bursts bursts;
  for (int64_t i = 0; i < count; ++i) {
    bursts.push_back(feed.NextBurst(options.ticks_of_burst));
  }
  return bursts;
}

// By the number of threads with which it decides soonest.
absl::StatusOr<Side> MakeSide(const C5Options& options, const Bursts& bursts,
                              const std::string& name, TradingMode mode,
                              bool fuse, bool plan) {
  Side best;
  double least = 0;
  for (int threads = 1; threads <= std::min(2, NumUsableCores()); ++threads) {
    TradingModelOptions of_model;
    of_model.num_symbols = options.num_symbols;
    of_model.max_ticks = options.ticks_of_burst;
    of_model.fuse = fuse;
    of_model.plan = plan;
    of_model.num_threads = threads;
    ASSIGN_OR_RETURN(auto model, TradingModel::Create(of_model));
    double latency = 0;
    for (int turn = 0; turn < 3; ++turn) {
      ASSIGN_OR_RETURN(
          const TradingRun run,
          RunTrading(mode, *model, options.num_symbols, bursts, {}));
      const double median = Quantile(run.latency_us, 0.5);
      latency = turn == 0 ? median : std::min(latency, median);
    }
    if (best.model != nullptr && latency >= least) continue;
    least = latency;
    best = {name, mode, std::move(model), threads, {}, {}, {}};
  }
  return best;
}

// Over rounds: the middle one, which a machine that others use too leaves
// alone, and how much rounds differ.
Spread MiddleOf(const std::vector<double>& rounds) {
  return {Quantile(rounds, 0.5), SpreadOf(rounds).deviation};
}

// Baseline over ours, round by round.
Measure Faster(const std::string& what, const Side& baseline,
               const std::vector<double> Side::*of, const Side& ours) {
  Measure measure;
  measure.what = what;
  measure.baseline_name = baseline.name;
  measure.ours_name = ours.name;
  std::vector<double> ratio;
  for (size_t i = 0; i < (ours.*of).size(); ++i) {
    ratio.push_back((baseline.*of)[i] / (ours.*of)[i]);
  }
  measure.baseline = MiddleOf(baseline.*of);
  measure.ours = MiddleOf(ours.*of);
  measure.ratio = MiddleOf(ratio);
  return measure;
}

Measure Promise(Measure measure) {
  measure.want = Measure::Want::kAtLeast;
  measure.promised = 3.16;
  return measure;
}

}  // namespace

absl::StatusOr<ClaimResult> TradingLatency(const C5Options& options) {
  MarketFeed feed(options.seed, options.num_symbols);
  const Bursts warm_up = MakeBursts(feed, options, options.bursts);
  std::vector<Side> sides;
  const auto add = [&](const std::string& name, TradingMode mode, bool fuse,
                       bool plan) -> absl::Status {
    ASSIGN_OR_RETURN(Side side,
                     MakeSide(options, warm_up, name, mode, fuse, plan));
    sides.push_back(std::move(side));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(add("unfused, unplanned, serial", TradingMode::kSerial,
                      /*fuse=*/false, /*plan=*/false));
  RETURN_IF_ERROR(add("fused, planned, overlapped", TradingMode::kPipelined,
                      /*fuse=*/true, /*plan=*/true));
  RETURN_IF_ERROR(add("fused, planned, serial", TradingMode::kSerial,
                      /*fuse=*/true, /*plan=*/true));
  RETURN_IF_ERROR(add("unfused, unplanned, overlapped", TradingMode::kPipelined,
                      /*fuse=*/false, /*plan=*/false));
  RETURN_IF_ERROR(add("unfused, unplanned, serial, tick by tick",
                      TradingMode::kByTick, /*fuse=*/false, /*plan=*/false));

  Random random(options.seed, HashName("arrivals"));
  double interval_us = 0;  // Between bursts.
  for (int64_t round = 0; round < options.rounds; ++round) {
    const Bursts bursts = MakeBursts(feed, options, options.bursts);
    for (Side& side : sides) {
      ASSIGN_OR_RETURN(
          const TradingRun run,
          RunTrading(side.mode, *side.model, options.num_symbols, bursts, {}));
      side.unloaded.push_back(Quantile(run.latency_us, 0.5));
      // Every round anew: the machine may have changed.
      if (&side == &sides[0]) {
        interval_us = 1e6 * run.seconds / static_cast<double>(bursts.size()) /
                      options.load;
      }
    }
    std::vector<double> arrival_us;
    double at = 0;
    for (size_t i = 0; i < bursts.size(); ++i) {
      arrival_us.push_back(at);
      at -= interval_us * std::log(1 - random.Uniform());  // Poisson.
    }
    for (Side& side : sides) {
      // It cannot keep up with what the others can.
      if (side.mode == TradingMode::kByTick) continue;
      ASSIGN_OR_RETURN(const TradingRun run,
                       RunTrading(side.mode, *side.model, options.num_symbols,
                                  bursts, arrival_us));
      side.p50.push_back(Quantile(run.latency_us, 0.5));
      side.p99.push_back(Quantile(run.latency_us, 0.99));
    }
  }

  ClaimResult result;
  result.id = "C5";
  result.title = "end-to-end latency of trading decisions (baseline / ours)";
  const std::string load =
      absl::StrFormat(", us, at %.0f %% load", 100 * options.load);
  result.measures.push_back(
      Promise(Faster("p50" + load, sides[0], &Side::p50, sides[1])));
  result.measures.push_back(
      Promise(Faster("p99" + load, sides[0], &Side::p99, sides[1])));
  result.measures.push_back(Faster("p50, us, a burst at a time", sides[0],
                                   &Side::unloaded, sides[1]));
  result.measures.push_back(
      Faster("  fusion and plan alone", sides[0], &Side::unloaded, sides[2]));
  result.measures.push_back(
      Faster("  overlap alone", sides[0], &Side::unloaded, sides[3]));
  result.measures.push_back(
      Faster("  against no batch at all", sides[4], &Side::unloaded, sides[1]));
  result.notes.push_back(absl::StrFormat(
      "the middle of %d rounds of %d bursts of %d ticks of %d symbols, Poisson "
      "arrivals; ratios are of neighbouring runs",
      options.rounds, options.bursts, options.ticks_of_burst,
      options.num_symbols));
  for (const Side& side : sides) {
    result.notes.push_back(absl::StrCat(
        side.name, ": ", side.threads, " thread", side.threads > 1 ? "s" : "",
        side.mode == TradingMode::kPipelined ? " and one that decodes" : "",
        ", ", side.model->program().graph().nodes().size(), " operators, ",
        side.model->program().plan().arena_bytes / 1000, " KB"));
  }
  return result;
}

}  // namespace strata
