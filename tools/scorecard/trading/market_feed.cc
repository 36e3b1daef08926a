#include "tools/scorecard/trading/market_feed.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/base/random.h"
#include "tools/scorecard/trading/feed_message.h"
#include "tools/scorecard/trading/order_book.h"

namespace strata {
namespace {

using Side = OrderBook::Side;

constexpr int kOpenLevels = 5;  // Of each side at first, and at least.

Side Other(Side side) { return side == Side::kBid ? Side::kOffer : Side::kBid; }

// By a cent better for who trades with it, or worse.
int64_t Better(Side side) { return side == Side::kBid ? 1 : -1; }

}  // namespace

std::string SymbolName(int64_t index) {
  std::string name;
  for (const int64_t unit : {676, 26, 1}) {
    name.push_back(static_cast<char>('A' + index / unit % 26));
  }
  return name;
}

MarketFeed::MarketFeed(uint64_t seed, int64_t num_symbols)
    : random_(seed, HashName("market feed")), symbols_(num_symbols) {
  for (int64_t i = 0; i < num_symbols; ++i) symbols_[i].name = SymbolName(i);
}

void MarketFeed::Set(Symbol& symbol, Side side, int64_t price, int64_t size,
                     FeedMessage& message) {
  bool is_new = true;
  for (int i = 0; i < symbol.book.count(side); ++i) {
    is_new = is_new && symbol.book.level(side, i).price != price;
  }
  symbol.book.Set(side, price, size);
  FeedEntry entry;
  entry.action = size == 0 ? FeedEntry::Action::kDelete
                 : is_new  ? FeedEntry::Action::kNew
                           : FeedEntry::Action::kChange;
  entry.kind =
      side == Side::kBid ? FeedEntry::Kind::kBid : FeedEntry::Kind::kOffer;
  entry.price = price;
  entry.size = size;
  message.entries.push_back(entry);
}

void MarketFeed::Deepen(Symbol& symbol, Side side, FeedMessage& message) {
  const int count = symbol.book.count(side);
  const int64_t last =
      count > 0 ? symbol.book.level(side, count - 1).price
                : symbol.book.level(Other(side), 0).price - Better(side);
  Set(symbol, side, std::max<int64_t>(1, last - Better(side)), RandomSize(),
      message);
}

FeedMessage MarketFeed::Open(Symbol& symbol) {
  FeedMessage message;
  const auto mid = static_cast<int64_t>(2000 + random_.UniformInt(18000));
  for (int i = 0; i < kOpenLevels; ++i) {
    Set(symbol, Side::kBid, mid - 1 - i, RandomSize(), message);
    Set(symbol, Side::kOffer, mid + 1 + i, RandomSize(), message);
  }
  symbol.told = true;
  return message;
}

FeedMessage MarketFeed::Act(Symbol& symbol) {
  FeedMessage message;
  OrderBook& book = symbol.book;
  symbol.pressure = 0.97 * symbol.pressure + 0.25 * random_.Normal();
  // Who acts: the buyers, with the bids theirs, or the sellers.
  const Side side = random_.Uniform() < 0.5 + 0.4 * std::tanh(symbol.pressure)
                        ? Side::kBid
                        : Side::kOffer;
  const double what = random_.Uniform();
  if (what < 0.3) {  // Takes from the best of the other side.
    const OrderBook::Level best = book.level(Other(side), 0);
    const int64_t taken = std::min(best.size, RandomSize());
    FeedEntry trade;
    trade.kind = FeedEntry::Kind::kTrade;
    trade.price = best.price;
    trade.size = taken;
    message.entries.push_back(trade);
    Set(symbol, Other(side), best.price, best.size - taken, message);
  } else if (what < 0.45 && book.level(Side::kOffer, 0).price -
                                    book.level(Side::kBid, 0).price >
                                1) {  // Bids better.
    Set(symbol, side, book.level(side, 0).price + Better(side), RandomSize(),
        message);
  } else {
    const OrderBook::Level level = book.level(
        side, static_cast<int>(random_.UniformInt(book.count(side))));
    const int64_t change = RandomSize();
    Set(symbol, side, level.price,
        what < 0.75 ? level.size + change
                    : std::max<int64_t>(0, level.size - change),
        message);
  }
  for (const Side each : {Side::kBid, Side::kOffer}) {
    if (book.count(each) < kOpenLevels) Deepen(symbol, each, message);
  }
  return message;
}

std::vector<std::string> MarketFeed::Next(int64_t count) {
  std::vector<std::string> messages;
  messages.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    // At first each in turn.
    const auto num_symbols = static_cast<int64_t>(symbols_.size());
    Symbol& symbol =
        symbols_[sequence_ < num_symbols
                     ? sequence_
                     : static_cast<int64_t>(random_.UniformInt(num_symbols))];
    FeedMessage message = symbol.told ? Act(symbol) : Open(symbol);
    time_us_ += static_cast<int64_t>(random_.UniformInt(40));
    message.sequence = ++sequence_;
    message.time_us = time_us_;
    message.symbol = symbol.name;
    messages.push_back(FormatMessage(message));
  }
  return messages;
}

}  // namespace strata
