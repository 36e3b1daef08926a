// From a burst of ticks to decisions, one thing after another or side by side.
//
//   kSerial      decode all lines of a burst, then run the model on all of
//   them,
//                then decide
//   kByTick      the same, each tick for itself
//   kPipelined   one thread decodes into a bounded queue, another runs the
//   model
//                on what is there by then
//
// A decision is the same in all: a tick's value does not depend on which ticks
// the model sees with it.

#ifndef TOOLS_SCORECARD_TRADING_TRADING_ENGINE_H_
#define TOOLS_SCORECARD_TRADING_TRADING_ENGINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/scorecard/trading/trading_model.h"

namespace strata {

enum class TradingMode { kSerial, kByTick, kPipelined };

struct TradingRun {
  std::vector<double> latency_us;  // [ticks], from arrival to decision.
  std::vector<Decision> decisions;
  double seconds = 0;
};

// Runs `bursts` (lines of ticks, at most as many as the model takes at once),
// of which burst i arrives `arrival_us[i]` after the start. Without arrivals
// each comes when the one before is decided.
//
// Returns the errors of FeatureDecoder and the model.
absl::StatusOr<TradingRun> RunTrading(
    TradingMode mode, TradingModel& model, int64_t num_symbols,
    const std::vector<std::vector<std::string>>& bursts,
    const std::vector<double>& arrival_us);

}  // namespace strata

#endif  // TOOLS_SCORECARD_TRADING_TRADING_ENGINE_H_
