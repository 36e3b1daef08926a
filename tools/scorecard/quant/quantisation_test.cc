#include "tools/scorecard/quant/quantisation.h"

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/model/config.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/tiny_study.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {
namespace {

// Experts whose rows are whole groups of 32.
ModelConfig Model() {
  ModelConfig config = TinyModel();
  config.set_d_model(32);
  config.mutable_attention()->set_head_dim(32);
  config.mutable_moe()->set_expert_width(32);
  return config;
}

TEST(QuantisationTest, MeasuresEachVariantOfATrainedModel) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/quantisation");
  std::filesystem::remove_all(folder);
  const Corpus corpus = TinyCorpus();
  const auto trainer = Trainer::Create(Model(), TinyTraining(), &corpus, 1);
  ASSERT_THAT(trainer, IsOk());
  while (!(*trainer)->done()) ASSERT_THAT((*trainer)->Step(), IsOk());
  QuantStudyOptions options;
  const auto saved = (*trainer)->SaveCheckpoint(folder, nlohmann::json());
  ASSERT_THAT(saved, IsOk());
  options.model = *saved;
  options.folder = folder;
  options.calibration_tokens = options.held_out_tokens = 512;

  const auto run = RunQuantStudy(corpus, options, {}, [] { return false; });
  ASSERT_THAT(run, IsOk());
  ASSERT_EQ(run->outcomes.size(), QuantVariants().size());
  const auto error = [&](size_t i) {
    const QuantError& e = run->outcomes[i].error;
    return e.output_error / e.output;
  };
  EXPECT_EQ(run->outcomes[2].variant, "nearest-group");
  EXPECT_EQ(run->outcomes[2].bits_per_weight, 4.5);  // 16 bits / 32 columns.
  EXPECT_EQ(run->outcomes[5].variant, "learned-group");
  EXPECT_LT(error(5), error(2));
  EXPECT_LE(error(5), error(0));
  // Packed weights are less than a third of BF16's; so are caches in INT8 of
  // F32's, beside which are the gates' biases.
  EXPECT_LT(run->ours.weights, run->baseline.weights);
  EXPECT_LT(run->ours.caches, 2 * run->baseline.caches);
  EXPECT_GT(run->ours.arena, 0);

  const ClaimResult b4 = LearnedCompensation({*run});
  EXPECT_EQ(b4.id, "B4");
  EXPECT_EQ(b4.measures[0].ratio.mean, error(5) / error(0));
  const ClaimResult b1 = QuantisedWeights({*run});
  EXPECT_EQ(b1.measures[0].ratio.mean,
            static_cast<double>(run->baseline.total()) /
                static_cast<double>(run->ours.total()));
  EXPECT_EQ(b1.measures[0].reached(), b1.measures[0].ratio.mean >= 2.89);

  // B1 alone has no energies, and the same of all else.
  options.all_variants = false;
  const auto b1_alone =
      RunQuantStudy(corpus, options, {}, [] { return false; });
  ASSERT_THAT(b1_alone, IsOk());
  ASSERT_EQ(b1_alone->outcomes.size(), 2);
  EXPECT_EQ(b1_alone->outcomes[0].variant, "nearest-row");
  EXPECT_EQ(b1_alone->outcomes[1].variant, "learned-group");
  EXPECT_EQ(b1_alone->outcomes[1].accuracy, run->outcomes[5].accuracy);
  EXPECT_EQ(b1_alone->outcomes[1].error.weight, 0);
  EXPECT_FALSE(ToJson(*b1_alone)["outcomes"][1].contains("output_error"));
  EXPECT_EQ(QuantisedWeights({*b1_alone}).measures[0].ratio.mean,
            b1.measures[0].ratio.mean);
}

TEST(QuantisationTest, StopsBetweenLayers) {
  const std::string folder =
      absl::StrCat(testing::TempDir(), "/quantisation.stopped");
  std::filesystem::remove_all(folder);
  const Corpus corpus = TinyCorpus();
  const auto trainer = Trainer::Create(Model(), TinyTraining(), &corpus, 1);
  ASSERT_THAT(trainer, IsOk());
  QuantStudyOptions options;
  const auto saved = (*trainer)->SaveCheckpoint(folder, nlohmann::json());
  ASSERT_THAT(saved, IsOk());
  options.model = *saved;
  options.folder = folder;
  EXPECT_THAT(
      RunQuantStudy(corpus, options, {}, [] { return true; }),
      StatusIs(absl::StatusCode::kCancelled, testing::HasSubstr("stopped")));
}

}  // namespace
}  // namespace strata
