// A stream of market ticks, as an exchange's gateway sends them: messages of
// feed_message.h about the order books of some symbols.
//
// At each tick a trader acts on a symbol's book: takes shares from the best
// price, adds some to a level, takes some back, or bids better than the best.
// Which side acts has a memory, so that prices trend and volatility clusters.

#ifndef TOOLS_SCORECARD_TRADING_MARKET_FEED_H_
#define TOOLS_SCORECARD_TRADING_MARKET_FEED_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "tools/scorecard/trading/feed_message.h"
#include "tools/scorecard/trading/order_book.h"

namespace strata {

// Of symbol `index`: three letters.
std::string SymbolName(int64_t index);

class MarketFeed {
 public:
  // Of 1 to 17,576 symbols.
  MarketFeed(uint64_t seed, int64_t num_symbols);

  // `count` messages, one behind the other. The first ones of a feed tell of
  // whole books.
  std::vector<std::string> Next(int64_t count);

 private:
  struct Symbol {
    std::string name;
    OrderBook book;
    double pressure = 0;  // Above 0: buyers.
    bool told = false;    // Of its whole book.
  };

  FeedMessage Open(Symbol& symbol);
  FeedMessage Act(Symbol& symbol);
  // Sets a level, and says so.
  void Set(Symbol& symbol, OrderBook::Side side, int64_t price, int64_t size,
           FeedMessage& message);
  // Fills the side up behind its last level.
  void Deepen(Symbol& symbol, OrderBook::Side side, FeedMessage& message);
  int64_t RandomSize() {
    return 100 * static_cast<int64_t>(1 + random_.UniformInt(20));
  }

  Random random_;
  std::vector<Symbol> symbols_;
  int64_t time_us_ = 0;
  int64_t sequence_ = 0;
};

}  // namespace strata

#endif  // TOOLS_SCORECARD_TRADING_MARKET_FEED_H_
