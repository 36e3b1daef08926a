// The order book of one symbol: what is bid and offered at the best prices.
//
//   bid    [kDepth] levels, highest price first       sizes in shares,
//   offer  [kDepth] levels, lowest price first        prices in cents

#ifndef TOOLS_SCORECARD_TRADING_ORDER_BOOK_H_
#define TOOLS_SCORECARD_TRADING_ORDER_BOOK_H_

#include <algorithm>
#include <array>
#include <cstdint>

namespace strata {

class OrderBook {
 public:
  static constexpr int kDepth = 10;

  struct Level {
    int64_t price = 0;
    int64_t size = 0;
  };
  enum class Side { kBid, kOffer };

  // What there is at `price` is now `size`; 0: nothing. Levels beyond the depth
  // are forgotten.
  void Set(Side side, int64_t price, int64_t size) {
    Levels& levels = of(side);
    const auto before = [&](const Level& level) {
      return side == Side::kBid ? level.price > price : level.price < price;
    };
    Level* const end = levels.level.data() + levels.count;
    Level* const at = std::find_if_not(levels.level.data(), end, before);
    if (at != end && at->price == price) {
      if (size > 0) {
        at->size = size;
      } else {
        std::copy(at + 1, end, at);
        --levels.count;
      }
      return;
    }
    if (size == 0 || at == levels.level.data() + kDepth) return;
    if (levels.count < kDepth) ++levels.count;
    std::copy_backward(at, levels.level.data() + levels.count - 1,
                       levels.level.data() + levels.count);
    *at = {price, size};
  }

  int count(Side side) const { return of(side).count; }
  // Level i, of which there must be so many.
  const Level& level(Side side, int i) const { return of(side).level[i]; }

  bool has_both() const { return bid_.count > 0 && offer_.count > 0; }
  // Between the best of both sides, which there must be.
  double mid() const {
    return 0.5 *
           static_cast<double>(bid_.level[0].price + offer_.level[0].price);
  }
  // Shares in the best `depth` levels.
  double Size(Side side, int depth) const {
    const Levels& levels = of(side);
    int64_t sum = 0;
    for (int i = 0; i < std::min(depth, levels.count); ++i) {
      sum += levels.level[i].size;
    }
    return static_cast<double>(sum);
  }

 private:
  struct Levels {
    std::array<Level, kDepth> level;
    int count = 0;
  };
  Levels& of(Side side) { return side == Side::kBid ? bid_ : offer_; }
  const Levels& of(Side side) const {
    return side == Side::kBid ? bid_ : offer_;
  }

  Levels bid_, offer_;
};

}  // namespace strata

#endif  // TOOLS_SCORECARD_TRADING_ORDER_BOOK_H_
