#include "tools/scorecard/trading/feature_decoder.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "tools/scorecard/trading/feed_message.h"
#include "tools/scorecard/trading/market_feed.h"
#include "tools/scorecard/trading/order_book.h"

namespace strata {
namespace {

using Side = OrderBook::Side;

void Append(double value, float*& out) {
  *out++ = static_cast<float>(std::clamp(value, -8.0, 8.0));
}

// (a - b) / (a + b), 0 where both are.
double Imbalance(double a, double b) { return (a - b) / (a + b + 1e-9); }

// Sums over a window, which grow with it.
struct Sums {
  double move = 0, square = 0, cube = 0, lagged = 0;
  double up = 0;  // Rises less falls.
  double flow = 0, volume = 0, value = 0;
  double imbalance = 0, spread = 0;
  double market = 0, market_square = 0, market_cross = 0;
  double lowest = 1e30, highest = -1e30;
};

}  // namespace

FeatureDecoder::FeatureDecoder(int64_t num_symbols) : symbols_(num_symbols) {
  for (int64_t i = 0; i < num_symbols; ++i) {
    index_[SymbolName(i)] = static_cast<int32_t>(i);
  }
}

absl::StatusOr<FeatureDecoder::Event> FeatureDecoder::Apply(
    const FeedMessage& message, Symbol& symbol) {
  Event event;
  event.num_entries = static_cast<double>(message.entries.size());
  for (const FeedEntry& entry : message.entries) {
    if (entry.kind == FeedEntry::Kind::kTrade) {
      // Who bought took what was offered.
      const bool bought =
          symbol.book.count(Side::kOffer) > 0 &&
          entry.price >= symbol.book.level(Side::kOffer, 0).price;
      const auto size = static_cast<double>(entry.size);
      event.size += size;
      event.signed_size += bought ? size : -size;
      continue;
    }
    const bool gone = entry.action == FeedEntry::Action::kDelete;
    symbol.book.Set(
        entry.kind == FeedEntry::Kind::kBid ? Side::kBid : Side::kOffer,
        entry.price, gone ? 0 : entry.size);
  }
  if (!symbol.book.has_both()) {
    return absl::InvalidArgumentError(
        absl::StrCat("message ", message.sequence, " leaves ", message.symbol,
                     " with a side of its book empty"));
  }
  return event;
}

void FeatureDecoder::Record(const FeedMessage& message, const Event& event,
                            Symbol& s) {
  const double log_price = std::log(s.book.mid());
  if (s.count == 0) {
    s.first_log_price = s.log_price = log_price;
    s.last_us = message.time_us;
    s.mean_size = event.size;
    s.market = market_;
    s.time_us.fill(message.time_us);
  }
  const double move = log_price - s.log_price;
  const double relative = log_price - s.first_log_price;
  market_ += move / static_cast<double>(symbols_.size());
  const int64_t at = s.count % kHistory;
  const auto push = [&](Series& series, double value) {
    series.Push(at, static_cast<float>(value));
  };
  push(s.price, relative);
  push(s.move, move);
  push(s.flow, event.signed_size);
  push(s.volume, event.size);
  push(s.value, event.size * relative);
  push(s.imbalance,
       Imbalance(s.book.Size(Side::kBid, 5), s.book.Size(Side::kOffer, 5)));
  push(s.market_move, market_ - s.market);
  push(s.spread, static_cast<double>(s.book.level(Side::kOffer, 0).price -
                                     s.book.level(Side::kBid, 0).price) /
                     s.book.mid());
  s.time_us[at] = message.time_us;
  s.log_price = log_price;
  s.market = market_;
  s.mean_size += 0.05 * (event.size - s.mean_size);
}

void FeatureDecoder::OfWindows(const Symbol& s, double scale,
                               float*& out) const {
  const int64_t at = s.count % kHistory;
  const float* const price = s.price.Last(at);
  const float* const move = s.move.Last(at);
  const float* const flow = s.flow.Last(at);
  const float* const volume = s.volume.Last(at);
  const float* const value = s.value.Last(at);
  const float* const imbalance = s.imbalance.Last(at);
  const float* const market = s.market_move.Last(at);
  const float* const spread = s.spread.Last(at);
  Sums sum;
  int64_t i = kHistory;
  for (const int64_t window : kWindows) {
    for (; i-- > kHistory - window;) {
      const double r = move[i], m = market[i], p = price[i];
      sum.move += r;
      sum.square += r * r;
      sum.cube += r * r * r;
      sum.lagged += i > 0 ? r * move[i - 1] : 0;
      sum.up += static_cast<double>((r > 0) - (r < 0));
      sum.flow += flow[i];
      sum.volume += volume[i];
      sum.value += value[i];
      sum.imbalance += imbalance[i];
      sum.spread += spread[i];
      sum.market += m;
      sum.market_square += m * m;
      sum.market_cross += r * m;
      sum.lowest = std::min(sum.lowest, p);
      sum.highest = std::max(sum.highest, p);
    }
    ++i;
    const auto n = static_cast<double>(window);
    const double now = price[kHistory - 1];
    const double deviation = std::sqrt(sum.square / n) + 1e-9;
    const int64_t oldest =
        s.time_us[(at + kHistory - std::min(window, kHistory) + 1) % kHistory];
    Append(sum.move / scale, out);
    Append(deviation / scale, out);
    Append(sum.cube / n / (deviation * deviation * deviation), out);
    Append(sum.lagged / (sum.square + 1e-18), out);
    Append(sum.up / n, out);
    Append(sum.flow / (sum.volume + 1), out);
    Append((now - sum.value / (sum.volume + 1)) / scale, out);
    Append(sum.imbalance / n, out);
    Append(1e3 * sum.spread / n, out);
    Append((now - sum.lowest) / (sum.highest - sum.lowest + 1e-9), out);
    Append(
        sum.market_cross / (std::sqrt(sum.square * sum.market_square) + 1e-18),
        out);
    Append(std::log1p(static_cast<double>(s.last_us - oldest) / n) / 8, out);
  }
}

void FeatureDecoder::OfBook(const Symbol& s, double scale, float*& out) const {
  const OrderBook& book = s.book;
  for (const int depth : {1, 3, 5, 10}) {
    Append(
        Imbalance(book.Size(Side::kBid, depth), book.Size(Side::kOffer, depth)),
        out);
  }
  const OrderBook::Level& bid = book.level(Side::kBid, 0);
  const OrderBook::Level& offer = book.level(Side::kOffer, 0);
  Append(1e3 * static_cast<double>(offer.price - bid.price) / book.mid(), out);
  // Where the next trade is likely to be: the price weighted by the other
  // side's size.
  const auto bids = static_cast<double>(bid.size);
  const auto offers = static_cast<double>(offer.size);
  const double micro = (static_cast<double>(bid.price) * offers +
                        static_cast<double>(offer.price) * bids) /
                       (bids + offers);
  Append((micro / book.mid() - 1) / scale, out);
  // How far it is to the mean share of a side.
  for (const Side side : {Side::kBid, Side::kOffer}) {
    double shares = 0, distance = 0;
    for (int i = 0; i < book.count(side); ++i) {
      const OrderBook::Level& level = book.level(side, i);
      const auto size = static_cast<double>(level.size);
      shares += size;
      distance +=
          size * std::abs(static_cast<double>(level.price) - book.mid());
    }
    Append(1e3 * distance / (shares * book.mid()), out);
  }
}

void FeatureDecoder::OfMarket(const Symbol& s, double scale,
                              float*& out) const {
  const double mine = s.log_price - s.first_log_price;
  double below = 0, square = 0;
  for (const Symbol& other : symbols_) {
    const double theirs = other.log_price - other.first_log_price;
    below += theirs < mine ? 1 : 0;
    square += (theirs - market_) * (theirs - market_);
  }
  const auto n = static_cast<double>(symbols_.size());
  const double dispersion = std::sqrt(square / n) + 1e-9;
  Append(2 * below / n - 1, out);
  Append((mine - market_) / dispersion, out);
  Append(market_ / scale / 8, out);
  Append(1e2 * dispersion, out);
}

absl::StatusOr<TickRow> FeatureDecoder::Decode(absl::string_view text) {
  ASSIGN_OR_RETURN(const FeedMessage message, ParseMessage(text));
  if (message.sequence != last_sequence_ + 1) {
    return absl::DataLossError(absl::StrCat("message ", message.sequence,
                                            " comes after ", last_sequence_));
  }
  const auto found = index_.find(message.symbol);
  if (found == index_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("message ", message.sequence, " is of ", message.symbol,
                     ", which is none of ", symbols_.size(), " symbols"));
  }
  TickRow row;
  row.symbol = found->second;
  Symbol& s = symbols_[row.symbol];
  ASSIGN_OR_RETURN(const Event event, Apply(message, s));
  last_sequence_ = message.sequence;
  Record(message, event, s);
  const int64_t gap_us = message.time_us - s.last_us;
  s.last_us = message.time_us;
  const float* const move = s.move.Last(s.count % kHistory);
  double square = 0;
  for (int64_t i = kHistory - 128; i < kHistory; ++i)
    square += move[i] * move[i];
  const double scale = std::sqrt(square / 128) + 1e-6;  // Of a move.

  float* out = row.features.data();
  OfWindows(s, scale, out);
  OfBook(s, scale, out);
  Append(event.signed_size / (s.mean_size + 1), out);
  Append(std::log1p(event.size) / 8, out);
  Append(std::log1p(static_cast<double>(gap_us)) / 8, out);
  Append(event.num_entries / 4, out);
  OfMarket(s, scale, out);
  CHECK(out == row.features.data() + kNumFeatures);
  ++s.count;
  return row;
}

}  // namespace strata
