// A small hierarchical mixture of experts that decides at every tick: `demo`
// (core/model/presets) at half its width, over the last 64 ticks of the symbol.
//
//   features [t, 64] --> h [t, 64] --2 x (attention, two tiers of 16 experts of
//   width 32)--> sell, hold, buy
//
// Its weights are random: what it decides is of no use, how long it takes is.

#ifndef TOOLS_SCORECARD_TRADING_TRADING_MODEL_H_
#define TOOLS_SCORECARD_TRADING_TRADING_MODEL_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/cpu/cpu_backend.h"
#include "core/runtime/constants.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "tools/scorecard/trading/feature_decoder.h"

namespace strata {

enum class Decision : int8_t { kSell, kHold, kBuy };

struct TradingModelOptions {
  int64_t num_symbols = 32;
  int64_t max_ticks = 32;  // Of a run.
  bool fuse = true;
  bool fold = true;  // What no tick enters is made once.
  bool plan = true;  // False: each value has memory of its own.
  int num_threads = 1;
};

// Not for several threads.
class TradingModel {
 public:
  static absl::StatusOr<std::unique_ptr<TradingModel>> Create(
      const TradingModelOptions& options);

  // One decision for each row, at most max_ticks; ticks of a symbol in order.
  absl::Status Decide(absl::Span<const TickRow> rows, Decision* decisions);
  // Of the latest rows: [rows, 3].
  absl::Span<const float> scores() const {
    return program_->Output("scores").span<float>();
  }

  // Symbols' histories begin anew.
  void Forget() { std::fill(position_.begin(), position_.end(), 0); }

  int64_t max_ticks() const { return program_->Input("position").dim(0); }
  const Program& program() const { return *program_; }
  Program& program() { return *program_; }

 private:
  explicit TradingModel(const TradingModelOptions& options);

  CpuBackend backend_;
  StateStore state_;
  std::unique_ptr<Constants> constants_;  // Null: nothing is folded.
  std::unique_ptr<Program> program_;
  std::vector<int32_t> position_;  // [symbols], of the next tick.
};

}  // namespace strata

#endif  // TOOLS_SCORECARD_TRADING_TRADING_MODEL_H_
