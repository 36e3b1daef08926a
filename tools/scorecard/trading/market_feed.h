// A stream of market ticks, as an exchange's gateway sends it, and the features
// that are made of it.
//
//   MarketFeed --bursts of lines--> FeatureDecoder --> TickRow --> a model
//
// A line is tag=value pairs after FIX (35 what it is, 55 the symbol, 60 the
// time in us, 270 the price, 271 the size, 54 the side) and ends with a
// checksum (10).

#ifndef TOOLS_SCORECARD_TRADING_MARKET_FEED_H_
#define TOOLS_SCORECARD_TRADING_MARKET_FEED_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/random.h"

namespace strata {

inline constexpr int64_t kNumFeatures = 16;

// Prices walk at random; how much, and which side buys, has a memory.
class MarketFeed {
 public:
  MarketFeed(uint64_t seed, int64_t num_symbols);

  // `ticks` lines of random symbols.
  std::vector<std::string> NextBurst(int64_t ticks);

 private:
  struct Symbol {
    double price = 100;
    double volatility = 1e-4;  // Of a tick's log-return.
    double pressure = 0;       // Above 0: buyers.
  };

  Random random_;
  std::vector<Symbol> symbols_;
  int64_t time_us_ = 0;
};

struct TickRow {
  int32_t symbol = 0;
  std::array<float, kNumFeatures> features = {};
};

// Keeps of each symbol what features look back at. Not for several threads.
class FeatureDecoder {
 public:
  explicit FeatureDecoder(int64_t num_symbols) : symbols_(num_symbols) {}

  // Returns INVALID_ARGUMENT for a line that lacks a field, names an unknown
  // symbol, or whose checksum is wrong.
  absl::StatusOr<TickRow> Decode(absl::string_view line);

 private:
  static constexpr int64_t kHistory = 64;  // Ticks; a power of two.

  struct Symbol {
    int64_t count = 0;
    std::array<double, kHistory> log_price = {};
    std::array<double, kHistory> log_return = {};
    std::array<double, kHistory> signed_size = {};
    double fast = 0, slow = 0;  // Moving averages of the log price.
    double mean_size = 0;
    int64_t last_us = 0;
  };

  std::vector<Symbol> symbols_;
};

}  // namespace strata

#endif  // TOOLS_SCORECARD_TRADING_MARKET_FEED_H_
