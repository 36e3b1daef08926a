#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/scorecard/trading/arrivals.h"
#include "tools/scorecard/trading/feature_decoder.h"
#include "tools/scorecard/trading/feed_message.h"
#include "tools/scorecard/trading/market_feed.h"
#include "tools/scorecard/trading/order_book.h"
#include "tools/scorecard/trading/trading_engine.h"
#include "tools/scorecard/trading/trading_model.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using Side = OrderBook::Side;

constexpr int64_t kSymbols = 7;

std::vector<std::string> SomeMessages(int64_t count) {
  return MarketFeed(/*seed=*/3, kSymbols).Next(count);
}

TradingModelOptions Options(bool ours, int threads) {
  TradingModelOptions options;
  options.num_symbols = kSymbols;
  options.max_ticks = 24;
  options.fuse = options.fold = options.plan = ours;
  options.num_threads = threads;
  return options;
}

std::unique_ptr<TradingModel> MakeModel(const TradingModelOptions& options) {
  auto model = TradingModel::Create(options);
  EXPECT_THAT(model, IsOk());
  return model.ok() ? *std::move(model) : nullptr;
}

FeedEntry Entry(FeedEntry::Action action, FeedEntry::Kind kind, int64_t price,
                int64_t size) {
  FeedEntry entry;
  entry.action = action;
  entry.kind = kind;
  entry.price = price;
  entry.size = size;
  return entry;
}

FeedMessage Message(int64_t sequence, std::vector<FeedEntry> entries) {
  FeedMessage message;
  message.sequence = sequence;
  message.time_us = 10 * sequence;
  message.symbol = "AAA";
  message.entries.assign(entries.begin(), entries.end());
  return message;
}

FeedMessage OpeningMessage() {
  return Message(
      1, {Entry(FeedEntry::Action::kNew, FeedEntry::Kind::kBid, 9995, 300),
          Entry(FeedEntry::Action::kNew, FeedEntry::Kind::kOffer, 10005, 100)});
}

// --- FeedMessage ---

TEST(FeedMessageTest, ParsesWhatItFormats) {
  const FeedMessage message = OpeningMessage();
  const std::string text = FormatMessage(message);
  EXPECT_THAT(text, HasSubstr("\x01"
                              "269=1\x01"
                              "270=100.05\x01"
                              "271=100\x01"));

  const auto parsed = ParseMessage(text);

  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->symbol, "AAA");
  EXPECT_EQ(FormatMessage(*parsed), text);
}

// Whichever byte is another one: the sum does not fit, or the text is none.
TEST(FeedMessageTest, ADamagedByteIsAnError) {
  const std::string text = SomeMessages(9)[8];
  ASSERT_THAT(ParseMessage(text), IsOk());
  for (size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    EXPECT_THAT(ParseMessage(damaged),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")))
        << i;
    EXPECT_THAT(ParseMessage(text.substr(0, i)),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")))
        << i;
  }
}

// --- OrderBook ---

// Held to a map of prices: random sets, on both sides of the depth.
TEST(OrderBookTest, KeepsTheBestLevels) {
  OrderBook book;
  std::map<int64_t, int64_t> bids;
  Random random(/*seed=*/1, HashName("book"));
  for (int step = 0; step < 5000; ++step) {
    const auto price = static_cast<int64_t>(100 + random.UniformInt(15));
    const auto size = static_cast<int64_t>(random.UniformInt(3));
    book.Set(Side::kBid, price, size);
    bids[price] = size;
    if (size == 0) bids.erase(price);
    // What falls off the end is forgotten.
    while (bids.size() > OrderBook::kDepth) bids.erase(bids.begin());
    ASSERT_EQ(book.count(Side::kBid), static_cast<int>(bids.size()));
    int i = 0;
    for (auto it = bids.rbegin(); it != bids.rend(); ++it, ++i) {
      ASSERT_EQ(book.level(Side::kBid, i).price, it->first);
      ASSERT_EQ(book.level(Side::kBid, i).size, it->second);
    }
  }
  EXPECT_FALSE(book.has_both());
  book.Set(Side::kOffer, 120, 5);
  book.Set(Side::kOffer, 118, 7);
  EXPECT_EQ(book.level(Side::kOffer, 0).price, 118);
  EXPECT_EQ(book.Size(Side::kOffer, 3), 12);
}

// --- MarketFeed ---

TEST(MarketFeedTest, IsAFunctionOfItsSeed) {
  EXPECT_EQ(SomeMessages(50), SomeMessages(50));
  EXPECT_NE(MarketFeed(/*seed=*/4, kSymbols).Next(50), SomeMessages(50));
}

TEST(MarketFeedTest, TradesAndBothSidesMove) {
  std::map<FeedEntry::Kind, int> kinds;
  for (const std::string& text : SomeMessages(2000)) {
    const auto message = ParseMessage(text);
    ASSERT_THAT(message, IsOk());
    for (const FeedEntry& entry : message->entries) ++kinds[entry.kind];
  }
  EXPECT_GT(kinds[FeedEntry::Kind::kTrade], 300);
  EXPECT_GT(kinds[FeedEntry::Kind::kBid], 600);
  EXPECT_GT(kinds[FeedEntry::Kind::kOffer], 600);
}

// --- Arrivals ---

// Both processes have the rate that is asked for; of the self-exciting one
// counts in windows vary more than a Poisson process's, whose variance is the
// mean.
TEST(ArrivalsTest, RatesAreEqualAndExcitedOnesCluster) {
  constexpr int64_t kCount = 20000;
  Random random(/*seed=*/1, HashName("arrivals test"));
  const auto poisson = PoissonArrivals(kCount, 3, random);
  const auto excited = SelfExcitingArrivals(kCount, 3, random);
  const auto dispersion = [](const std::vector<double>& at) {
    EXPECT_TRUE(std::is_sorted(at.begin(), at.end()));
    const double window = 60;
    std::vector<double> count(static_cast<size_t>(at.back() / window) + 1);
    for (const double t : at) ++count[static_cast<size_t>(t / window)];
    double sum = 0, square = 0;
    for (const double n : count) sum += n, square += n * n;
    const auto windows = static_cast<double>(count.size());
    const double mean = sum / windows;
    return (square / windows - mean * mean) / mean;
  };
  // Of 20,000 points: within five deviations, of which the clusters' are 1.4 %.
  EXPECT_NEAR(poisson.back() / kCount, 3, 0.1);
  EXPECT_NEAR(excited.back() / kCount, 3, 0.2);
  EXPECT_NEAR(dispersion(poisson), 1, 0.25);
  EXPECT_GT(dispersion(excited), 1.5);
}

// --- FeatureDecoder ---

TEST(FeatureDecoderTest, FeaturesAreFiniteAndMove) {
  FeatureDecoder decoder(kSymbols);
  std::vector<float> lowest(kNumFeatures, 9), highest(kNumFeatures, -9);
  for (const std::string& text : SomeMessages(6000)) {
    const auto row = decoder.Decode(text);
    ASSERT_THAT(row, IsOk());
    for (int64_t i = 0; i < kNumFeatures; ++i) {
      ASSERT_TRUE(std::isfinite(row->features[i])) << i;
      lowest[i] = std::min(lowest[i], row->features[i]);
      highest[i] = std::max(highest[i], row->features[i]);
    }
  }
  for (int64_t i = 0; i < kNumFeatures; ++i) {
    EXPECT_LT(lowest[i], highest[i]) << i;
    EXPECT_GE(lowest[i], -8) << i;
    EXPECT_LE(highest[i], 8) << i;
  }
}

// A book of 300 at 99.95 against 100 at 100.05, of which a buyer takes 60; then
// a better bid: by hand.
TEST(FeatureDecoderTest, FeaturesOfAHandMadeBook) {
  FeatureDecoder decoder(1);
  const auto first = decoder.Decode(FormatMessage(OpeningMessage()));
  ASSERT_THAT(first, IsOk());
  // Behind four windows of 12: (300 - 100) / (300 + 100).
  EXPECT_NEAR(first->features[48], 0.5, 1e-6);
  EXPECT_NEAR(first->features[52], 1e3 * 10 / 10000, 1e-6);  // The spread.

  const auto trade = decoder.Decode(FormatMessage(Message(
      2, {Entry(FeedEntry::Action::kNew, FeedEntry::Kind::kTrade, 10005, 60),
          Entry(FeedEntry::Action::kChange, FeedEntry::Kind::kOffer, 10005,
                40)})));
  ASSERT_THAT(trade, IsOk());
  EXPECT_NEAR(trade->features[5], 60.0 / 61, 1e-6);  // Of the flow.
  EXPECT_NEAR(trade->features[48], (300.0 - 40) / 340, 1e-6);

  const auto bid = decoder.Decode(FormatMessage(Message(
      3, {Entry(FeedEntry::Action::kNew, FeedEntry::Kind::kBid, 9999, 10)})));
  ASSERT_THAT(bid, IsOk());
  const double move = std::log(10002.0 / 10000);
  const double scale = std::sqrt(move * move / 128) + 1e-6;
  EXPECT_NEAR(bid->features[0], std::min(8.0, move / scale), 1e-4);
  EXPECT_NEAR(bid->features[4], 1.0 / 8, 1e-6);  // One rise in eight ticks.
}

TEST(FeatureDecoderTest, ErrorsNameWhatIsWrong) {
  const auto decode = [](FeedMessage second) {
    FeatureDecoder decoder(1);
    EXPECT_THAT(decoder.Decode(FormatMessage(OpeningMessage())), IsOk());
    return decoder.Decode(FormatMessage(second)).status();
  };
  EXPECT_THAT(decode(Message(3, {})), StatusIs(absl::StatusCode::kDataLoss,
                                               HasSubstr("3 comes after 1")));
  FeedMessage of_other = Message(2, {});
  of_other.symbol = "ZZZ";
  EXPECT_THAT(decode(of_other),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ZZZ")));
  EXPECT_THAT(decode(Message(2, {Entry(FeedEntry::Action::kDelete,
                                       FeedEntry::Kind::kBid, 9995, 0)})),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty")));
}

// --- TradingModel, TradingEngine ---

// Fusion, folding, planning, threads and company change no bit of a score: more
// ticks than a session has, so that histories begin anew too.
TEST(TradingModelTest, ScoresAreTheSameBits) {
  std::vector<TickRow> rows;
  FeatureDecoder decoder(kSymbols);
  for (const std::string& text : SomeMessages(2400)) {
    rows.push_back(*decoder.Decode(text));
  }
  const auto scores = [&](const TradingModelOptions& options, size_t ticks) {
    const auto model = MakeModel(options);
    std::vector<float> all;
    std::vector<Decision> decisions(ticks);
    for (size_t i = 0; i < rows.size(); i += ticks) {
      EXPECT_THAT(model->Decide(absl::MakeConstSpan(rows).subspan(i, ticks),
                                decisions.data()),
                  IsOk());
      all.insert(all.end(), model->scores().begin(), model->scores().end());
    }
    return all;
  };
  const std::vector<float> want = scores(Options(/*ours=*/false, 1), 1);
  ASSERT_EQ(want.size(), 3 * rows.size());
  for (const size_t ticks : {1, 2, 5, 24}) {
    EXPECT_TRUE(scores(Options(/*ours=*/true, 1), ticks) == want) << ticks;
    EXPECT_TRUE(scores(Options(/*ours=*/true, 3), ticks) == want) << ticks;
  }
  TradingModelOptions folded = Options(/*ours=*/false, 1);
  folded.fold = true;
  EXPECT_TRUE(scores(folded, 24) == want);
}

TEST(TradingEngineTest, DecisionsAreTheSameInAllModes) {
  const auto messages = SomeMessages(1500);
  const auto plain = MakeModel(Options(/*ours=*/false, 1));
  const auto want =
      RunTrading(TradingMode::kSerial, *plain, kSymbols, messages, {});
  ASSERT_THAT(want, IsOk());
  EXPECT_EQ(want->decisions.size(), messages.size());
  Random random(/*seed=*/1, HashName("arrivals"));
  const auto arrivals = PoissonArrivals(
      1500, 1e6 * want->seconds / static_cast<double>(messages.size()), random);
  const auto fused = MakeModel(Options(/*ours=*/true, 2));
  EXPECT_LT(fused->program().plan().arena_bytes,
            plain->program().plan().arena_bytes / 3);
  for (const TradingMode mode :
       {TradingMode::kSerial, TradingMode::kBatched, TradingMode::kPipelined}) {
    for (const auto& at : {std::vector<double>(), arrivals}) {
      const auto got = RunTrading(mode, *fused, kSymbols, messages, at);
      ASSERT_THAT(got, IsOk());
      EXPECT_TRUE(got->decisions == want->decisions);
      EXPECT_GT(
          *std::min_element(got->latency_us.begin(), got->latency_us.end()), 0);
    }
  }
}

TEST(TradingEngineTest, ADamagedMessageEndsEveryMode) {
  auto messages = SomeMessages(300);
  messages[200] = "nonsense";
  const auto model = MakeModel(Options(/*ours=*/true, 1));
  for (const TradingMode mode :
       {TradingMode::kSerial, TradingMode::kBatched, TradingMode::kPipelined}) {
    EXPECT_THAT(
        RunTrading(mode, *model, kSymbols, messages, {}),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nonsense")));
  }
}

}  // namespace
}  // namespace strata
