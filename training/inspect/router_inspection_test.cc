#include "training/inspect/router_inspection.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/model/config.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

InspectOptions FewShuffles() {
  InspectOptions options;
  options.num_shuffles = 20;
  return options;
}

// Two windows of each of two domains.
InspectedGate Gate(int64_t layer, int64_t tier, const RowCounts& windows,
                   const std::vector<int64_t>& reached) {
  return InspectGate(layer, tier, {{0, 0, 1, 1}, windows}, reached,
                     FewShuffles());
}

TEST(InspectGateTest, SumsWindowsAndSaysWhatExpertsServe) {
  // Expert 0 serves the first domain, expert 1 the second, expert 2 nobody,
  // expert 3 both.
  const InspectedGate gate = Gate(
      /*layer=*/1, /*tier=*/0,
      {{3, 0, 0, 1}, {1, 0, 0, 3}, {0, 2, 0, 2}, {0, 2, 0, 2}}, {4, 4});

  EXPECT_THAT(gate.rows,
              ElementsAre(ElementsAre(4, 0, 0, 4), ElementsAre(0, 4, 0, 4)));
  EXPECT_EQ(gate.specialisation.bits, 0.5);  // Half of the load tells all.
  EXPECT_EQ(gate.num_domains, 2);
  EXPECT_EQ(gate.relative_load(3), 2);
  EXPECT_EQ(gate.relative_share(0, 0), 2);
  EXPECT_EQ(gate.relative_share(0, 1), 0);
  EXPECT_EQ(gate.relative_share(3, 1), 1);
  EXPECT_EQ(gate.num_starved(), 1);
  EXPECT_TRUE(gate.starved(2));
  EXPECT_EQ(gate.shuffled_bits.size(), 20);
  // Each deal puts the first domain's windows together or apart: all 0.5 bits,
  // or less.
  EXPECT_LE(gate.null.upper, 0.5);
}

TEST(InspectGateTest, ExpectsAnEvenShareOfTheDomainsThatCame) {
  const InspectedGate gate =
      Gate(0, 1, {{0, 0}, {0, 0}, {3, 1}, {2, 2}}, {0, 8});

  EXPECT_EQ(gate.num_domains, 1);
  EXPECT_EQ(gate.relative_share(0, 1), 1);
  EXPECT_EQ(gate.specialisation.bits, 0);
}

TEST(MostSpecialisedTest, SortsATierByBitsAndLeavesOutTheStarved) {
  const std::vector<InspectedGate> gates = {
      Gate(0, 0, {{30, 20}, {30, 20}, {30, 20}, {30, 20}}, {100, 100}),
      Gate(0, 1, {{9, 0}, {9, 0}, {0, 9}, {0, 9}}, {18, 18}),
      // Expert 1 is the first domain's alone, and has 1 row of 200.
      Gate(1, 0, {{49, 1}, {50, 0}, {50, 0}, {50, 0}}, {100, 100})};

  const std::vector<ExpertPlace> most = MostSpecialised(gates, /*tier=*/0, 2);
  const std::vector<ExpertPlace> starved = Starved(gates, /*tier=*/0);

  ASSERT_EQ(most.size(), 2);
  EXPECT_EQ(most[0].gate, &gates[2]);
  EXPECT_EQ(most[0].expert, 0);
  EXPECT_EQ(most[0].top_domain(), 1);
  EXPECT_EQ(most[1].gate, &gates[0]);
  EXPECT_EQ(MostSpecialised(gates, 0, 9).size(), 3);
  ASSERT_EQ(starved.size(), 1);
  EXPECT_EQ(starved[0].gate, &gates[2]);
  EXPECT_EQ(starved[0].expert, 1);
  EXPECT_THAT(Starved(gates, 1), IsEmpty());
}

TEST(AverageTiersTest, AveragesTheLayersThatTokensReached) {
  const std::vector<InspectedDomain> domains = {{"a", 2, 40}, {"b", 2, 40}};
  const RowCounts nothing(4, {0, 0});
  const RowCounts apart = {{10, 0}, {10, 0}, {0, 10}, {0, 10}};
  const RowCounts alike = {{5, 5}, {5, 5}, {5, 5}, {5, 5}};
  const std::vector<InspectedGate> gates = {
      Gate(0, 0, apart, {40, 40}), Gate(0, 1, apart, {20, 10}),
      Gate(1, 0, alike, {40, 40}), Gate(1, 1, nothing, {0, 0})};

  const std::vector<InspectedTier> tiers = AverageTiers(gates, domains);

  ASSERT_EQ(tiers.size(), 2);
  EXPECT_EQ(tiers[0].specialisation.bits, 0.5);
  EXPECT_EQ(tiers[0].bound_bits, 1);
  EXPECT_THAT(tiers[0].reached, ElementsAre(1, 1));
  // The layer that nobody reached has no information to average ...
  EXPECT_EQ(tiers[1].specialisation.bits, 1);
  EXPECT_EQ(tiers[1].num_layers, 2);
  // ... but counts for how many came.
  EXPECT_THAT(tiers[1].reached, ElementsAre(DoubleEq(0.25), DoubleEq(0.125)));
  EXPECT_EQ(tiers[1].num_experts, 4);
  // Shuffles of the two layers go together, so the null of their mean is half
  // that of the one that can vary.
  EXPECT_NEAR(tiers[0].null.mean, gates[0].null.mean / 2, 1e-12);
}

class InspectRouterTest : public ::testing::Test {
 protected:
  InspectRouterTest()
      : corpus_(*MakeCorpus(
            {{"letters", {{"a", Text('a')}}}, {"digits", {{"a", Text('0')}}}})),
        model_(*ModelPreset("demo")),
        train_(*TrainPreset("demo")) {
    model_.set_d_model(32);
    model_.set_num_layers(2);
    model_.mutable_moe()->set_expert_width(8);
    model_.mutable_moe()->mutable_hierarchical()->set_energy_groups(8);
    train_.set_seq_len(16);
    train_.set_batch_size(2);
    train_.set_validation_tokens(100);
  }

  static std::string Text(char first) {
    std::string text;
    for (int i = 0; i < 5000; ++i) {
      text += static_cast<char>(first + i * i % 7);
    }
    return text;
  }

  // A checkpoint of fresh weights.
  std::string Save() {
    auto trainer = Trainer::Create(model_, train_, &corpus_, 1);
    EXPECT_THAT(trainer, IsOk());
    const auto folder = (*trainer)->SaveCheckpoint(
        absl::StrCat(
            ::testing::TempDir(), "/inspect_",
            ::testing::UnitTest::GetInstance()->current_test_info()->name()),
        nlohmann::json::object());
    EXPECT_THAT(folder, IsOk());
    return *folder;
  }

  InspectOptions Options() {
    InspectOptions options = FewShuffles();
    options.tokens_per_domain = 100;
    return options;
  }

  Corpus corpus_;
  ModelConfig model_;
  TrainConfig train_;
};

TEST_F(InspectRouterTest, CountsWhatValidationCounts) {
  const std::string folder = Save();

  const auto inspection = InspectRouter(folder, corpus_, Options());
  auto trainer = Trainer::Create(model_, train_, &corpus_, 1);
  ASSERT_THAT(trainer, IsOk());
  const auto metrics = (*trainer)->Validate();  // The seed's weights are those.

  ASSERT_THAT(inspection, IsOk());
  ASSERT_THAT(metrics, IsOk());
  ASSERT_EQ(inspection->domains.size(), 2);
  int64_t tokens = 0;
  for (int d = 0; d < 2; ++d) {
    EXPECT_EQ(inspection->domains[d].name, metrics->domains[d].name);
    EXPECT_EQ(inspection->domains[d].tokens, metrics->domains[d].tokens);
    EXPECT_EQ(inspection->domains[d].windows, 6);  // 96 of 100 tokens.
    tokens += inspection->domains[d].tokens;
  }
  const int64_t num_tiers = model_.moe().hierarchical().tier_experts_size();
  ASSERT_EQ(inspection->gates.size(), 2 * num_tiers);
  ASSERT_EQ(inspection->tiers.size(), num_tiers);
  int64_t rows = 0;
  int64_t experts = 0;
  for (const InspectedGate& gate : inspection->gates) {
    experts += static_cast<int64_t>(gate.experts.size());
    for (const auto& domain : gate.rows) {
      for (const int64_t count : domain) rows += count;
    }
  }
  EXPECT_DOUBLE_EQ(
      static_cast<double>(rows) / static_cast<double>(tokens * experts),
      metrics->experts.active_share);
  for (const InspectedTier& tier : inspection->tiers) {
    EXPECT_NEAR((tier.reached[0] + tier.reached[1]) / 2,
                metrics->experts.tier_tokens[tier.tier], 1e-12);
  }
}

TEST_F(InspectRouterTest, GivesTheSameForAnyNumberOfThreads) {
  const std::string folder = Save();
  InspectOptions three = Options();
  three.num_threads = 3;

  auto one = ToJson(*InspectRouter(folder, corpus_, Options()));
  auto other = ToJson(*InspectRouter(folder, corpus_, three));

  one["manifest"].erase("date");
  other["manifest"].erase("date");
  EXPECT_EQ(one, other);
  EXPECT_EQ(one["gates"][0]["rows"].size(), 2);
  EXPECT_TRUE(one["manifest"].contains("weights_hash"));
}

TEST_F(InspectRouterTest, SaysThatExpertChoiceCannotTell) {
  FlatRouterConfig* flat = model_.mutable_moe()->mutable_flat();
  flat->set_num_experts(8);
  flat->set_k(2);
  flat->set_choice(FlatRouterConfig::EXPERT_CHOICE);

  const auto inspection = InspectRouter(Save(), corpus_, Options());

  ASSERT_THAT(inspection, IsOk());
  ASSERT_EQ(inspection->tiers.size(), 1);
  EXPECT_EQ(inspection->tiers[0].specialisation.bits, 0);
  EXPECT_THAT(inspection->notes, ElementsAre(HasSubstr("by construction")));
}

TEST_F(InspectRouterTest, RefusesModelsWithoutExperts) {
  model_.set_num_dense_layers(2);
  model_.set_dense_width(16);
  model_.clear_moe();
  const std::string folder = Save();

  EXPECT_THAT(InspectRouter(folder, corpus_, Options()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr(folder), HasSubstr("no experts"),
                             HasSubstr("2 layers are dense"))));
}

TEST_F(InspectRouterTest, RefusesOneDomain) {
  const std::string folder = Save();
  corpus_.domains.pop_back();

  EXPECT_THAT(InspectRouter(folder, corpus_, Options()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("1 domain; want at least 2")));
}

}  // namespace
}  // namespace strata
