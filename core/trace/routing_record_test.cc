#include "core/trace/routing_record.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "core/trace/check_record.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_trace.pb.h"
#include "core/trace/trace_example.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

RoutingLayout Layout(const ExampleTrace& trace) {
  auto layout = RoutingLayout::Create(ExampleHeader(trace));
  EXPECT_THAT(layout, IsOk());
  return *layout;
}

// One layer of two tiers of 3 and 2 experts; 5 tokens, of which tokens 1 and 4
// leave at once and token 2 at the second tier.
//
//   token       0      1   2    3      4
//   rank of 2   0      0   1    1      1       2 = 5 * 1 / 2
//   tier 0      2, 0   -   1    0, 1   -
//   tier 1      1          -    0
struct HandWorked {
  std::vector<int32_t> expert0 = {2, 0, -1, -1, 1, -1, 0, 1, -1, -1};
  std::vector<float> weight0 = {0.75, 0.25, 0, 0, 1, 0, 0.5, 0.5, 0, 0};
  std::vector<uint8_t> considered0 = {1, 0, 1, 1, 1, 1, 0, 1,
                                      1, 1, 1, 0, 0, 0, 1};
  std::vector<int32_t> expert1 = {1, -1, -1, -1, 0, -1};
  std::vector<float> weight1 = {1, 0, 0, 0, 0.125, 0};
  std::vector<uint8_t> considered1 = {1, 1, 0, 1, 1, 0};

  std::vector<GateChoices> Gates() const {
    return {{5, expert0, weight0, considered0},
            {3, expert1, weight1, considered1}};
  }
};

ExampleTrace HandWorkedTrace() {
  ExampleTrace trace;
  trace.experts = {{3, 2}};
  trace.k_max = 2;
  return trace;
}

TEST(EncodeChoicesTest, CountsTokensExitsAndRowsOfEachRank) {
  const RoutingLayout layout = Layout(HandWorkedTrace());
  const HandWorked example;
  RoutingRecord record;

  ASSERT_THAT(EncodeChoices(layout, example.Gates(), record), IsOk());

  EXPECT_THAT(record.tokens(), ElementsAre(2, 3, 1, 2));
  EXPECT_THAT(record.exits(), ElementsAre(1, 1, 0, 1));
  EXPECT_THAT(record.rows(), ElementsAre(1, 0, 1, 1, 2, 0,  // Tier 0.
                                         0, 1, 1, 0));
  EXPECT_THAT(CheckRecord(layout, record), IsOk());
  EXPECT_EQ(GateTokens(layout, record, 1), 3);
  EXPECT_EQ(GateExits(layout, record, 0), 2);
  EXPECT_EQ(GateRows(layout, record, 0), 5);
  EXPECT_THAT(RankRows(layout, record, 1, 1), ElementsAre(1, 0));
}

TEST(EncodeChoicesTest, PacksTokensAsTheFormatSays) {
  const RoutingLayout layout = Layout(HandWorkedTrace());
  const HandWorked example;
  RoutingRecord record;

  ASSERT_THAT(EncodeChoices(layout, example.Gates(), record), IsOk());

  EXPECT_THAT(record.chosen(), ElementsAre(3, 1, 0, 0, 2, 0, 1, 2, 0, 0,  //
                                           2, 0, 0, 0, 1, 0));
  EXPECT_EQ(record.weight().size(), 2u * 7);
  // 0.75 is 0x3f400000, of which bfloat16 keeps 0x3f40.
  EXPECT_EQ(record.weight().substr(0, 2), "\x40\x3f");
  EXPECT_THAT(record.considered(),
              ElementsAre(0b101, 0b111, 0b110, 0b011, 0b100,  //
                          0b11, 0b10, 0b01));
  EXPECT_THAT(record.left(), ElementsAre(0b10010, 0b010));
}

TEST(DecodeChoicesTest, GivesBackWhatWasChosenAtEachGate) {
  // A layer of 300 experts takes two bytes an id; the other one.
  const RoutingLayout layout = Layout(ExampleTrace());
  Random random(1, 2);
  for (const int64_t num_tokens : {1, 7, 8, 9, 100}) {
    const ExampleChoices choices = MakeChoices(layout, num_tokens, random);
    RoutingRecord record;
    ASSERT_THAT(EncodeChoices(layout, choices.Spans(layout), record), IsOk());
    ASSERT_THAT(CheckRecord(layout, record), IsOk());
    for (size_t g = 0; g < layout.gates.size(); ++g) {
      const auto got = DecodeChoices(layout, record, g);
      ASSERT_THAT(got, IsOk());
      EXPECT_EQ(got->expert, choices.expert[g]);
      EXPECT_EQ(got->considered, choices.considered[g]);
      ASSERT_EQ(got->weight.size(), choices.weight[g].size());
      for (size_t s = 0; s < got->weight.size(); ++s) {
        // Half a unit of the last of 8 bits.
        EXPECT_NEAR(got->weight[s], choices.weight[g][s],
                    std::ldexp(choices.weight[g][s], -8));
      }
      int64_t num_left = 0;
      for (int64_t i = 0; i < got->num_tokens; ++i) {
        num_left += got->left[i];
        EXPECT_EQ(got->left[i], got->expert[i * 3] < 0);
      }
      EXPECT_EQ(num_left, GateExits(layout, record, g));
    }
  }
}

TEST(DecodeChoicesTest, NeedsATraceWithTokens) {
  ExampleTrace trace;
  trace.has_tokens = false;
  const RoutingLayout layout = Layout(trace);
  Random random(1, 2);
  const RoutingRecord record = ExampleRecord(layout, 1, 10, random);
  EXPECT_THAT(CheckRecord(layout, record), IsOk());
  EXPECT_TRUE(record.chosen().empty());
  EXPECT_THAT(DecodeChoices(layout, record, 0),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("--record-tokens")));
}

TEST(EncodeChoicesTest, RanksAddUpToOneWhateverTheirNumber) {
  ExampleTrace trace;
  trace.num_ranks = 1;
  const RoutingLayout one = Layout(trace);
  Random random(3, 2);
  const ExampleChoices choices = MakeChoices(one, 50, random);
  RoutingRecord whole;
  ASSERT_THAT(EncodeChoices(one, choices.Spans(one), whole), IsOk());
  for (const int num_ranks : {2, 3, 50, 51}) {
    trace.num_ranks = num_ranks;
    const RoutingLayout layout = Layout(trace);
    RoutingRecord record;
    ASSERT_THAT(EncodeChoices(layout, choices.Spans(layout), record), IsOk());
    ASSERT_THAT(CheckRecord(layout, record), IsOk());
    EXPECT_EQ(record.chosen(), whole.chosen());
    for (size_t g = 0; g < layout.gates.size(); ++g) {
      EXPECT_EQ(GateTokens(layout, record, g), whole.tokens(g));
      EXPECT_EQ(GateExits(layout, record, g), whole.exits(g));
      for (int64_t e = 0; e < layout.gates[g].num_experts; ++e) {
        uint32_t rows = 0;
        for (int r = 0; r < num_ranks; ++r) {
          rows += RankRows(layout, record, g, r)[e];
        }
        EXPECT_EQ(rows, RankRows(one, whole, g, 0)[e]);
      }
    }
  }
}

TEST(EncodeChoicesTest, NobodyLeavesWhereAllReachTheNextTier) {
  // Token 0 has no expert at the first tier, and yet goes on.
  const RoutingLayout layout = Layout(HandWorkedTrace());
  const std::vector<int32_t> expert0 = {-1, -1, 1, -1};
  const std::vector<int32_t> expert1 = {0, -1, 1, -1};
  const std::vector<float> weight = {1, 1, 1, 1};
  const std::vector<uint8_t> considered(6, 1);
  RoutingRecord record;

  ASSERT_THAT(
      EncodeChoices(layout,
                    {{2, expert0, weight, considered},
                     {2, expert1, weight, absl::MakeSpan(considered).first(4)}},
                    record),
      IsOk());

  EXPECT_THAT(record.exits(), ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(record.left(), ElementsAre(0, 0));
  EXPECT_THAT(CheckRecord(layout, record), IsOk());
}

TEST(EncodeChoicesTest, RefusesTokensThatAreMissingWithoutHavingLeft) {
  const RoutingLayout layout = Layout(HandWorkedTrace());
  HandWorked example;
  example.expert0[2] = 1;  // Token 1 has an expert, but did not reach tier 1.
  RoutingRecord record;
  EXPECT_THAT(EncodeChoices(layout, example.Gates(), record),
              StatusIs(absl::StatusCode::kInternal,
                       HasSubstr("gate 1.0 had 5 tokens, 1 of them without an "
                                 "expert; 3 reached the next tier")));
}

class CheckRecordTest : public testing::Test {
 protected:
  CheckRecordTest() : layout_(Layout(HandWorkedTrace())) {
    const HandWorked example;
    EXPECT_THAT(EncodeChoices(layout_, example.Gates(), record_), IsOk());
    record_.add_sequence_tokens(5);
    record_.add_sequence_domain(1);
    EXPECT_THAT(CheckRecord(layout_, record_), IsOk());
  }

  void ExpectDamage(const char* words) const {
    EXPECT_THAT(CheckRecord(layout_, record_),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(words)));
  }

  RoutingLayout layout_;
  RoutingRecord record_;
};

TEST_F(CheckRecordTest, WantsTokensOfEachGateAndRank) {
  record_.add_tokens(1);
  ExpectDamage("tokens has 5 entries; want 4");
}
TEST_F(CheckRecordTest, WantsExitsOfEachGateAndRank) {
  record_.mutable_exits()->RemoveLast();
  ExpectDamage("exits has 3 entries; want 4");
}
TEST_F(CheckRecordTest, WantsRowsOfEachGateRankAndExpert) {
  record_.clear_rows();
  ExpectDamage("rows has 0 entries; want 10");
}
TEST_F(CheckRecordTest, WantsAllTokensThatStayedAtTheNextTier) {
  record_.set_tokens(3, 3);
  ExpectDamage("gate 1.1 of rank 1 has 3 tokens, 1 of which left; 2 were");
}
TEST_F(CheckRecordTest, WantsNoMoreExitsThanTokens) {
  record_.set_exits(3, 3);
  ExpectDamage("gate 1.1 of rank 1 has 2 tokens, 3 of which left");
}
TEST_F(CheckRecordTest, WantsNoMoreRowsThanTokensCanMake) {
  record_.set_rows(0, 4294967295u);
  ExpectDamage("gate 1.0 of rank 0 has 4294967296 rows; 1 tokens");
}
TEST_F(CheckRecordTest, WantsKnownDomains) {
  record_.set_sequence_domain(0, 2);
  ExpectDamage("a sequence is of domain 2 of 2");
}
TEST_F(CheckRecordTest, WantsADomainOfEachSequence) {
  record_.clear_sequence_domain();
  ExpectDamage("sequence_domain has 0 entries; want 1");
}
TEST_F(CheckRecordTest, WantsSequencesToHaveTheBatchsTokens) {
  record_.set_sequence_tokens(0, 4);
  ExpectDamage("sequences have 4 tokens, the first gate 5");
}
TEST_F(CheckRecordTest, WantsAChoiceOfEachToken) {
  record_.mutable_chosen()->pop_back();
  ExpectDamage("chosen has 15 entries; want 16");
}
TEST_F(CheckRecordTest, WantsAWeightOfEachRow) {
  record_.mutable_weight()->append(2, '\0');
  ExpectDamage("weight has 16 entries; want 14");
}
TEST_F(CheckRecordTest, WantsTheSurvivorsOfEachToken) {
  record_.clear_considered();
  ExpectDamage("considered has 0 entries; want 8");
}
TEST_F(CheckRecordTest, WantsAFlagOfEachToken) {
  record_.mutable_left()->push_back('\0');
  ExpectDamage("left has 3 entries; want 2");
}
TEST_F(CheckRecordTest, WantsFlagsToBeTheExits) {
  (*record_.mutable_left())[0] = 0b10;
  ExpectDamage("left bits has 1 entries; want 2");
}
TEST_F(CheckRecordTest, WantsExpertsThatThereAre) {
  (*record_.mutable_chosen())[0] = 4;
  ExpectDamage("token 0 of gate 1.0 has expert 3 of 3 as its choice 0");
}
TEST_F(CheckRecordTest, WantsNoGapBeforeAChoice) {
  (*record_.mutable_chosen())[4] = 0;
  (*record_.mutable_chosen())[5] = 2;
  ExpectDamage("token 2 of gate 1.0 has expert 1 of 3 as its choice 1");
}
TEST_F(CheckRecordTest, WantsWhoLeftToHaveNoExpert) {
  (*record_.mutable_left())[0] = 0b10001;
  ExpectDamage("token 0 of gate 1.0 left and has an expert");
}
TEST_F(CheckRecordTest, WantsAsManyChoicesAsRows) {
  (*record_.mutable_chosen())[1] = 0;
  ExpectDamage("gate 1.0 has 4 choices, but 5 rows");
}

}  // namespace
}  // namespace strata
