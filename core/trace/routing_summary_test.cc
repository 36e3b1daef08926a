#include "core/trace/routing_summary.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_reader.h"
#include "core/trace/routing_recorder.h"
#include "core/trace/routing_trace.pb.h"
#include "core/trace/trace_example.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr double kRounding = 1e-12;  // Of some ten operations near 1.

// One flat layer of four experts, one expert a token, counts alone.
RoutingLayout FourExperts() {
  ExampleTrace trace;
  trace.experts = {{4}};
  trace.k_max = 1;
  trace.num_ranks = 1;
  trace.has_tokens = false;
  return *RoutingLayout::Create(ExampleHeader(trace));
}

RoutingRecord Record(int64_t step, const std::vector<uint32_t>& rows) {
  RoutingRecord record;
  record.set_step(step);
  uint32_t tokens = 0;
  for (const uint32_t n : rows) {
    record.add_rows(n);
    tokens += n;
  }
  record.add_tokens(tokens);
  record.add_exits(0);
  return record;
}

TEST(RoutingSummaryTest, TellsTheWholesBalanceFromThatOfEachRecord) {
  // Each record is as uneven as can be, together they are even.
  RoutingSummarizer summarizer(FourExperts());
  for (int step = 1; step <= 4; ++step) {
    std::vector<uint32_t> rows(4, 0);
    rows[step - 1] = 8;
    summarizer.Add(Record(step, rows));
  }

  const RoutingSummary summary = summarizer.Finish();

  ASSERT_THAT(summary.gates, SizeIs(1));
  const GateSummary& gate = summary.gates[0];
  EXPECT_EQ(gate.whole.gini, 0);
  EXPECT_EQ(gate.whole.max_over_mean, 1);
  EXPECT_EQ(gate.per_record.gini, 0.75);  // 1 - 1 / experts.
  EXPECT_EQ(gate.per_record.max_over_mean, 4);
  EXPECT_EQ(gate.per_record.utilisation, 0.25);
  EXPECT_EQ(gate.per_record.starved_share, 0.75);
  EXPECT_EQ(gate.active_share, 0.25);  // One of four experts a token.
  EXPECT_EQ(summary.tokens, 32);
  EXPECT_EQ(summary.first_step, 1);
  EXPECT_EQ(summary.last_step, 4);
  // No two records share an expert.
  EXPECT_EQ(gate.drift.mean, 1);
  EXPECT_EQ(gate.drift.max, 1);
  EXPECT_EQ(gate.drift.first_to_last, 1);
}

TEST(RoutingSummaryTest, MeasuresDriftAsTotalVariation) {
  RoutingSummarizer summarizer(FourExperts());
  summarizer.Add(Record(1, {4, 4, 0, 0}));
  summarizer.Add(Record(2, {2, 2, 2, 2}));      // Half has moved.
  summarizer.Add(Record(3, {20, 20, 20, 20}));  // The same shares.
  summarizer.Add(Record(4, {0, 0, 0, 0}));      // Says nothing.
  summarizer.Add(Record(5, {1, 1, 1, 5}));      // 3/8 more in one.

  const LoadDrift drift = summarizer.Finish().gates[0].drift;

  EXPECT_THAT(drift.mean, DoubleNear((0.5 + 0 + 0.375) / 3, kRounding));
  EXPECT_EQ(drift.max, 0.5);
  // Shares 1/2, 1/2, 0, 0 against 1/8, 1/8, 1/8, 5/8.
  EXPECT_EQ(drift.first_to_last, 0.75);
}

TEST(RoutingSummaryTest, JoinsWindowsSoThatTheirNumberIsBounded) {
  // On both sides of 32 windows, and of the joins at 32 and 64 records.
  for (const int num_records : {1, 2, 31, 32, 33, 34, 63, 64, 65, 66, 1000}) {
    RoutingSummarizer summarizer(FourExperts());
    for (int step = 1; step <= num_records; ++step) {
      summarizer.Add(Record(step, {1, 2, 3, static_cast<uint32_t>(step)}));
    }

    const RoutingSummary summary = summarizer.Finish();

    int64_t records = 0;
    double rows = 0;
    for (const WindowSummary& window : summary.windows) {
      EXPECT_EQ(window.first_step, records + 1);
      records += window.num_records;
      rows += window.load.total;
    }
    EXPECT_EQ(records, num_records);
    EXPECT_EQ(rows, num_records * 6 + num_records * (num_records + 1) / 2);
    EXPECT_EQ(rows, summary.gates[0].whole.total);
    EXPECT_LE(summary.windows.size(), 32u);
    EXPECT_GE(summary.windows.size(), std::min<size_t>(num_records, 16));
    // Only the last has another length, and that is no shorter.
    for (const WindowSummary& window : summary.windows) {
      EXPECT_GE(window.num_records, summary.windows[0].num_records);
    }
  }
}

TEST(RoutingSummaryTest, AveragesOverGatesAndLeavesOutThoseWithoutLoad) {
  // Two tiers of two experts: of 8 tokens 6 leave at the first, 2 at the
  // second, whose experts have nothing to do.
  ExampleTrace trace;
  trace.experts = {{2, 2}};
  trace.k_max = 1;
  trace.num_ranks = 1;
  trace.has_tokens = false;
  RoutingSummarizer summarizer(*RoutingLayout::Create(ExampleHeader(trace)));
  RoutingRecord record;
  record.set_step(1);
  for (const int tokens : {8, 2}) record.add_tokens(tokens);
  for (const int exits : {6, 2}) record.add_exits(exits);
  for (const int rows : {2, 0, 0, 0}) record.add_rows(rows);
  summarizer.Add(record);

  const RoutingSummary summary = summarizer.Finish();

  EXPECT_EQ(summary.gates[0].exit_rate, 0.75);
  EXPECT_EQ(summary.gates[1].exit_rate, 1);
  EXPECT_EQ(summary.mean.exit_rate, 0.8);  // 8 of 10 visits ended there.
  EXPECT_EQ(summary.mean.whole.gini, 0.5);
  EXPECT_EQ(summary.mean.per_record.max_over_mean, 2);
  EXPECT_EQ(summary.mean.active_share, 2.0 / (8 * 4));
  EXPECT_THAT(summary.tier_tokens, ElementsAre(1, 0.25));
}

TEST(RoutingSummaryTest, OfNothingHasNoNumbersThatAreNotNumbers) {
  const RoutingSummary summary = RoutingSummarizer(FourExperts()).Finish();
  EXPECT_EQ(summary.num_records, 0);
  EXPECT_THAT(summary.windows, IsEmpty());
  EXPECT_EQ(summary.gates[0].active_share, 0);
  EXPECT_EQ(summary.mean.exit_rate, 0);
  EXPECT_THAT(summary.tier_tokens, ElementsAre(0));
  EXPECT_THAT(ToJson(summary).dump(), testing::Not(HasSubstr("nan")));
}

TEST(RoutingSummaryTest, SumsUpWhatStandsBeforeTheDamage) {
  const std::string path = testing::TempDir() + "/damaged.gz";
  const RoutingTraceHeader header = ExampleHeader({});
  const RoutingLayout layout = *RoutingLayout::Create(header);
  {
    auto recorder = RoutingRecorder::Create(path, header, true);
    ASSERT_THAT(recorder, IsOk());
    Random random(1, 1);
    for (int step = 1; step <= 5; ++step) {
      ASSERT_THAT(recorder->Append(ExampleRecord(layout, step, 9, random)),
                  IsOk());
    }
  }
  auto reader = RoutingReader::Open(path);
  ASSERT_THAT(reader, IsOk());

  const RoutingSummary summary = Summarize(*reader);

  EXPECT_EQ(summary.num_records, 5);
  EXPECT_EQ(summary.tokens, 45);
  EXPECT_THAT(summary.damage.message(), HasSubstr("without its end mark"));
  const nlohmann::json json = ToJson(summary);
  EXPECT_THAT(json["damage"].get<std::string>(), HasSubstr("end mark"));
  EXPECT_EQ(json["gates"].size(), 3);
  EXPECT_EQ(ToJson(reader->header())["gates"][1]["experts"], 300);
}

}  // namespace
}  // namespace strata
