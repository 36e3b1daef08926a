// From a message of the feed to what a model reads of the tick:
//
//   text --ParseMessage--> order book of the symbol --> its last 512 ticks
//     --> features [64] over the last 8, 32, 128 and 512 of them, of the book
//         as it stands, of the event, and of the symbol among all others
//
// Windows are summed anew at each tick, so that no rounding piles up over a
// day.

#ifndef TOOLS_SCORECARD_TRADING_FEATURE_DECODER_H_
#define TOOLS_SCORECARD_TRADING_FEATURE_DECODER_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/scorecard/trading/feed_message.h"
#include "tools/scorecard/trading/order_book.h"

namespace strata {

inline constexpr int64_t kNumFeatures = 64;

struct TickRow {
  int32_t symbol = 0;
  std::array<float, kNumFeatures> features = {};
};

// Not for several threads.
class FeatureDecoder {
 public:
  explicit FeatureDecoder(int64_t num_symbols);

  // Returns INVALID_ARGUMENT for a message that ParseMessage refuses, of an
  // unknown symbol, or that leaves a side of the book empty; DATA_LOSS if
  // messages are missing before it.
  absl::StatusOr<TickRow> Decode(absl::string_view text);

 private:
  static constexpr int64_t kHistory = 512;  // Ticks.
  static constexpr std::array<int64_t, 4> kWindows = {8, 32, 128, kHistory};

  // The last values of one quantity, oldest first and side by side: each is
  // kept twice, so that wherever the ring begins they lie in one piece.
  class Series {
   public:
    void Fill(float value) { twice_.fill(value); }
    void Push(int64_t at, float value) {
      twice_[at] = twice_[at + kHistory] = value;
    }
    // Up to and with `at`: [kHistory].
    const float* Last(int64_t at) const { return twice_.data() + at + 1; }

   private:
    std::array<float, 2 * kHistory> twice_ = {};
  };

  struct Symbol {
    OrderBook book;
    int64_t count = 0;  // Ticks so far.
    double first_log_price = 0;
    double log_price = 0;  // Of the mid.
    double mean_size = 0;
    int64_t last_us = 0;
    double market = 0;  // The market's level at its last tick.
    // By tick. Prices are logarithms over the symbol's first one.
    Series price, move, flow, volume, value, imbalance, market_move, spread;
    std::array<int64_t, kHistory> time_us = {};
  };
  struct Event {
    double signed_size = 0, size = 0;
    double num_entries = 0;
  };

  absl::StatusOr<Event> Apply(const FeedMessage& message, Symbol& symbol);
  void Record(const FeedMessage& message, const Event& event, Symbol& symbol);
  // Each appends to `out`.
  void OfWindows(const Symbol& symbol, double scale, float*& out) const;
  void OfBook(const Symbol& symbol, double scale, float*& out) const;
  void OfMarket(const Symbol& symbol, double scale, float*& out) const;

  std::vector<Symbol> symbols_;
  absl::flat_hash_map<std::string, int32_t> index_;  // By name.
  int64_t last_sequence_ = 0;
  double market_ = 0;  // The mean of all symbols' log prices over their first.
};

}  // namespace strata

#endif  // TOOLS_SCORECARD_TRADING_FEATURE_DECODER_H_
