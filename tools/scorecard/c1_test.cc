// C1's measures by hand, and the whole of it in small.

#include "tools/scorecard/c1.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/workload/expert_loads.h"
#include "tools/scorecard/c1_balance.h"
#include "tools/scorecard/c1_layouts.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/skewed_routing.h"
#include "tools/scorecard/tiny_study.h"
#include "training/data/corpus.h"

namespace strata {
namespace {

using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

sim::LoadWindow Window(int64_t step, std::vector<double> load) {
  sim::LoadWindow window;
  window.first_step = window.last_step = step;
  double sum = 0;
  for (const double l : load) sum += l;
  window.load.push_back(std::move(load));
  window.tokens.push_back(sum);
  return window;
}

TEST(MeasureBalanceTest, FollowsLoadsThatMove) {
  // Four experts on two ranks without spare slots. The profile has 0 and 1 hot,
  // which are then kept apart; from window 2 on 0 and 2 are. In window 2
  // dynamic knows no more than fixed does; in 3 it parts them.
  std::vector<sim::LoadWindow> windows = {
      Window(0, {4, 4, 1, 1}), Window(1, {4, 4, 1, 1}), Window(2, {4, 1, 4, 1}),
      Window(3, {4, 1, 4, 1}), Window(4, {4, 1, 4, 1})};
  BalanceOptions options;
  options.ranks = 2;
  options.spare_per_rank = 0;

  const auto outcome = MeasureBalance(windows, options);

  ASSERT_THAT(outcome, IsOk());
  ASSERT_THAT(outcome->windows, SizeIs(4));
  // In order 0 and 1 share a rank: 8 and 2 rows, of the busiest 1 and 1/4:
  // mean 5/8, deviation 3/8.
  EXPECT_DOUBLE_EQ(outcome->windows[0].plain.mean, 0.625);
  EXPECT_DOUBLE_EQ(outcome->windows[0].plain.spread, 0.375);
  EXPECT_DOUBLE_EQ(outcome->windows[0].fixed.spread, 0);
  EXPECT_DOUBLE_EQ(outcome->windows[0].dynamic.spread, 0);
  EXPECT_EQ(outcome->windows[1].fixed.spread,
            outcome->windows[1].dynamic.spread);
  EXPECT_DOUBLE_EQ(outcome->windows[3].dynamic.spread, 0);
  EXPECT_LE(outcome->dynamic.spread, outcome->fixed.spread);
}

TEST(MeasureBalanceTest, RejectsWhatCannotBePlaced) {
  EXPECT_THAT(
      MeasureBalance({Window(0, {1, 1})}, {}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("two at least")));
  BalanceOptions options;
  options.ranks = 3;
  EXPECT_THAT(MeasureBalance({Window(0, {1, 1}), Window(1, {1, 1})}, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("slots")));
}

TEST(SkewedCorpusTest, HasOneDomainFiveTimes) {
  const Corpus corpus = TinyCorpus();
  const Corpus skewed = SkewedCorpus(corpus, /*seed=*/1);
  ASSERT_THAT(skewed.domains, SizeIs(6));
  int same = 0;
  for (const Domain& domain : skewed.domains) {
    same += domain.train == corpus.domains[1].train;
  }
  EXPECT_EQ(same, 5);
}

// A recorded trace of a real training, on both sides of both measures.
TEST(RunC1Test, MeasuresBothSidesOnARecordedTrace) {
  const Corpus corpus = [] {
    std::string text;
    for (int i = 0; i < 4000; ++i) absl::StrAppend(&text, "one two three ", i);
    return *MakeCorpus({{"a", {{"a", text}}}, {"b", {{"b", text + "!"}}}});
  }();
  C1Options options;
  options.seeds = {3};
  options.steps = 6;
  options.folder = absl::StrCat(::testing::TempDir(), "/c1");
  options.layouts.model =
      "layers=4 hidden=4096 heads=32 vocab=1000 experts=64 top_k=4 "
      "expert_ffn=2560";
  options.layouts.clusters = {{"h100x16", "gbs32,seq4096"},
                              {"a3highx16", "gbs32,seq4096"}};
  options.layouts.timed_windows = 2;
  options.layouts.finalists = 3;
  int64_t steps = 0;
  C1Observer observer;
  observer.on_step = [&](int64_t done, int64_t all) {
    steps = done;
    EXPECT_EQ(all, 6);
  };

  const auto runs = RunC1(corpus, options, observer, [] { return false; });

  ASSERT_THAT(runs, IsOk());
  ASSERT_THAT(*runs, SizeIs(1));
  EXPECT_EQ(steps, 6);
  const C1Run& run = (*runs)[0];
  EXPECT_THAT(run.balance.windows, SizeIs(5));
  EXPECT_GT(run.balance.plain.spread, 0);
  EXPECT_EQ(run.balance.known.cases, 5 * 2);  // Two layers.
  EXPECT_LE(run.balance.known.worst_ratio, 1);
  EXPECT_GE(run.balance.known.ours, 1);
  EXPECT_GE(run.balance.known.eplb, run.balance.known.ours);
  ASSERT_THAT(run.layouts, SizeIs(2));
  for (const LayoutsOutcome& layouts : run.layouts) {
    SCOPED_TRACE(layouts.cluster);
    // Each side is the best of what it may choose from, and 3-D may do all that
    // 2-D does.
    EXPECT_GT(layouts.three_d.sweep.tried, layouts.two_d.sweep.tried);
    EXPECT_LE(layouts.three_d.sweep.points[0].seconds,
              layouts.two_d_dynamic.sweep.points[0].seconds);
    // A side that may not shard weights chooses among fewer.
    EXPECT_GE(layouts.two_d_zero1.sweep.points[0].seconds,
              layouts.two_d.sweep.points[0].seconds);
    EXPECT_GE(layouts.three_d_zero1.sweep.points[0].seconds,
              layouts.three_d.sweep.points[0].seconds);
    EXPECT_THAT(layouts.two_d_zero1_plain.layout, Not(HasSubstr("zero3")));
    EXPECT_THAT(layouts.two_d.seconds_of_windows, SizeIs(2));
    EXPECT_GE(layouts.two_d.seconds, layouts.two_d.seconds_even);
    EXPECT_THAT(layouts.two_d.layout, Not(HasSubstr("pp")));
  }
  EXPECT_GT(run.layouts[1].two_d.seconds, run.layouts[0].two_d.seconds)
      << "a quarter of the bandwidth between nodes";

  const ClaimResult claim = BalancedParallelism(*runs);
  EXPECT_EQ(claim.id, "C1");
  EXPECT_THAT(claim.measures, Contains(Field(&Measure::promised, 2.41)));
  EXPECT_THAT(claim.notes, SizeIs(4));
  EXPECT_TRUE(ToJson(run)["balance"]["windows"][0].contains("fixed"));

  // The trace that was recorded gives the same again.
  options.routing = run.trace;
  const auto again = RunC1(corpus, options, {}, [] { return false; });
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ((*again)[0].balance.dynamic.spread, run.balance.dynamic.spread);
  EXPECT_EQ((*again)[0].layouts[1].three_d.seconds,
            run.layouts[1].three_d.seconds);

  EXPECT_THAT(RunC1(corpus, C1Options(options), {}, [] { return true; }),
              IsOk())
      << "nothing is trained where a trace is given";
  options.routing.clear();
  EXPECT_THAT(RunC1(corpus, options, {}, [] { return true; }),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped")));
}

}  // namespace
}  // namespace strata
