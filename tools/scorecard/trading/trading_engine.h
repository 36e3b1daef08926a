// From ticks to decisions, one thing after another or side by side.
//
//   kSerial      decode a tick, run the model on it, decide; then the next
//   kBatched     decode all ticks that have come, run the model on them all
//   kPipelined   one thread decodes into a bounded queue, another runs the
//                model on whatever is there by then
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

enum class TradingMode { kSerial, kBatched, kPipelined };

struct TradingRun {
  std::vector<double> latency_us;  // [ticks], from arrival to decision.
  std::vector<Decision> decisions;
  double seconds = 0;
};

// Runs `messages`, of which message i arrives `arrival_us[i]` after the start;
// all at once if there are no arrivals. Engines look out for the next message
// without sleeping, as those who trade do.
//
// Returns the errors of FeatureDecoder and the model.
absl::StatusOr<TradingRun> RunTrading(TradingMode mode, TradingModel& model,
                                      int64_t num_symbols,
                                      const std::vector<std::string>& messages,
                                      const std::vector<double>& arrival_us);

}  // namespace strata

#endif  // TOOLS_SCORECARD_TRADING_TRADING_ENGINE_H_
