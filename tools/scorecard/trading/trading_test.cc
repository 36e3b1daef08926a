#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/scorecard/trading/market_feed.h"
#include "tools/scorecard/trading/trading_engine.h"
#include "tools/scorecard/trading/trading_model.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSymbols = 7, kTicks = 24;

std::vector<std::vector<std::string>> SomeBursts(int64_t count) {
  MarketFeed feed(/*seed=*/3, kSymbols);
  std::vector<std::vector<std::string>> bursts;
  for (int64_t i = 0; i < count; ++i) bursts.push_back(feed.NextBurst(kTicks));
  return bursts;
}

std::unique_ptr<TradingModel> MakeModel(bool fuse, bool plan, int threads) {
  TradingModelOptions options;
  options.num_symbols = kSymbols;
  options.max_ticks = kTicks;
  options.fuse = fuse;
  options.plan = plan;
  options.num_threads = threads;
  auto model = TradingModel::Create(options);
  EXPECT_THAT(model, IsOk());
  return model.ok() ? *std::move(model) : nullptr;
}

TEST(MarketFeedTest, IsAFunctionOfItsSeed) {
  EXPECT_EQ(SomeBursts(3), SomeBursts(3));
  MarketFeed other(/*seed=*/4, kSymbols);
  EXPECT_NE(other.NextBurst(kTicks), SomeBursts(1)[0]);
}

TEST(FeatureDecoderTest, FeaturesAreFiniteAndMove) {
  FeatureDecoder decoder(kSymbols);
  double most = 0;
  for (const auto& burst : SomeBursts(40)) {
    for (const std::string& line : burst) {
      const auto row = decoder.Decode(line);
      ASSERT_THAT(row, IsOk());
      for (const float x : row->features) {
        ASSERT_TRUE(std::isfinite(x));
        most = std::max<double>(most, std::abs(x));
      }
    }
  }
  EXPECT_GT(most, 1);
  EXPECT_LE(most, 8);
}

// A price that rises by 1 % after a still one: by hand.
TEST(FeatureDecoderTest, AReturnIsThatOfTwoPrices) {
  const auto line = [](const std::string& body) {
    int sum = 0;
    for (const char c : body) sum += static_cast<unsigned char>(c);
    return body + "|10=" + std::to_string(sum % 256);
  };
  FeatureDecoder decoder(1);
  ASSERT_THAT(decoder.Decode(line("35=X|55=0|60=0|270=100|271=200|54=1")),
              IsOk());
  const auto row = decoder.Decode(line("35=X|55=0|60=9|270=101|271=100|54=2"));
  ASSERT_THAT(row, IsOk());
  const double r = std::log(1.01), scale = std::sqrt(r * r / 64) + 1e-6;
  EXPECT_NEAR(row->features[0], r / scale, 1e-5);
  EXPECT_NEAR(row->features[9], (200.0 - 100) / 301, 1e-6);  // Of the flow.
  EXPECT_EQ(row->features[13], -1);                          // A sale.
}

TEST(FeatureDecoderTest, DamagedLinesAreErrors) {
  FeatureDecoder decoder(kSymbols);
  std::string line = SomeBursts(1)[0][0];
  ASSERT_THAT(decoder.Decode(line), IsOk());
  line[8] = line[8] == '1' ? '2' : '1';
  EXPECT_THAT(decoder.Decode(line), StatusIs(absl::StatusCode::kInvalidArgument,
                                             HasSubstr("checksum")));
  for (const char* bad : {"", "|10=", "35=X", "35=X|10=299"}) {
    EXPECT_THAT(decoder.Decode(bad),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")));
  }
}

// However it is run, a tick's decision is the same: more ticks than a session
// has, so that histories begin anew too.
TEST(TradingEngineTest, DecisionsAreTheSameInAllModes) {
  const auto bursts = SomeBursts(120);
  const auto plain = MakeModel(/*fuse=*/false, /*plan=*/false, /*threads=*/1);
  const auto want =
      RunTrading(TradingMode::kSerial, *plain, kSymbols, bursts, {});
  ASSERT_THAT(want, IsOk());
  EXPECT_EQ(want->decisions.size(), bursts.size() * kTicks);
  for (const TradingMode mode :
       {TradingMode::kSerial, TradingMode::kByTick, TradingMode::kPipelined}) {
    const auto fused = MakeModel(/*fuse=*/true, /*plan=*/true, /*threads=*/2);
    EXPECT_LT(fused->program().plan().arena_bytes,
              plain->program().plan().arena_bytes / 3);
    const auto got = RunTrading(mode, *fused, kSymbols, bursts, {});
    ASSERT_THAT(got, IsOk());
    EXPECT_EQ(got->decisions, want->decisions);
    EXPECT_EQ(got->latency_us.size(), want->latency_us.size());
  }
}

TEST(TradingEngineTest, ADamagedLineEndsEveryMode) {
  auto bursts = SomeBursts(20);
  bursts[9][3] = "nonsense";
  for (const TradingMode mode :
       {TradingMode::kSerial, TradingMode::kByTick, TradingMode::kPipelined}) {
    const auto model = MakeModel(/*fuse=*/true, /*plan=*/true, /*threads=*/1);
    EXPECT_THAT(
        RunTrading(mode, *model, kSymbols, bursts, {}),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nonsense")));
  }
}

}  // namespace
}  // namespace strata
