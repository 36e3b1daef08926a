#include "tools/scorecard/quant/cache_study.h"

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/quant/cache_format.h"
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

TEST(CacheStudyTest, MeasuresEachCacheOfATrainedModel) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/cache_study");
  std::filesystem::remove_all(folder);
  const Corpus corpus = TinyCorpus();
  const auto trainer = Trainer::Create(TinyModel(), TinyTraining(), &corpus, 1);
  ASSERT_THAT(trainer, IsOk());
  while (!(*trainer)->done()) ASSERT_THAT((*trainer)->Step(), IsOk());
  const auto saved = (*trainer)->SaveCheckpoint(folder, nlohmann::json());
  ASSERT_THAT(saved, IsOk());

  const auto outcomes = RunCacheStudy(corpus, *saved, 512, 1);
  ASSERT_THAT(outcomes, IsOk());
  const std::vector<CacheVariant> variants = CacheVariants();
  ASSERT_EQ(outcomes->size(), variants.size());
  EXPECT_EQ((*outcomes)[0].variant, "f32");
  EXPECT_EQ((*outcomes)[0].logit_error, 0);
  for (size_t v = 1; v < variants.size(); ++v) {
    const CacheOutcome& o = (*outcomes)[v];
    EXPECT_GT(o.logit_error, 0) << o.variant;
    EXPECT_LT(o.logit_error, 0.5) << o.variant;
    EXPECT_NEAR(o.bits_per_token, (*outcomes)[0].bits_per_token, 0.3);
  }
  // Fewer bits of a cache, and of probabilities, are further away.
  const auto error = [&](const std::string& name) {
    for (const CacheOutcome& o : *outcomes) {
      if (o.variant == name) return o.logit_error;
    }
    return -1.0;
  };
  EXPECT_LT(error("int8"), error("int4"));
  EXPECT_LT(error("int8"), error("int8, 4 bits"));
  EXPECT_LT(error("int8, 6 bits"), error("int8, 4 bits"));

  AttentionShape shape;
  shape.context = 100;
  const auto attention = MeasureAttention(shape, 1);
  ASSERT_THAT(attention, IsOk());
  const ClaimResult b3 =
      LogDomainAttention({{1, *saved, *outcomes}}, shape, *attention);
  EXPECT_EQ(b3.id, "B3");
  EXPECT_EQ(b3.measures[0].ours.mean, (*outcomes)[1].bits_per_token);
}

TEST(CacheStudyTest, ErrorsOfAttentionAreThoseOfItsBits) {
  AttentionShape shape;
  shape.context = 700;
  shape.spread = 1;
  const auto outcomes = MeasureAttention(shape, 2);
  ASSERT_THAT(outcomes, IsOk());
  const std::vector<CacheVariant> variants = CacheVariants();
  ASSERT_EQ(outcomes->size(), variants.size());
  EXPECT_EQ((*outcomes)[0].error, 0);
  EXPECT_EQ((*outcomes)[0].bytes_per_token, 2 * 4 * 64 * 4);
  for (size_t v = 1; v < variants.size(); ++v) {
    const AttentionOutcome& o = (*outcomes)[v];
    EXPECT_EQ(o.microseconds.size(), 2);
    EXPECT_EQ(o.bytes_per_token,
              2 * 4 * CacheHeadBytes(variants[v].cache.format, 64));
    // Values are noise, whose mean is near zero: an error of each weight by a
    // factor of up to 1.41 is one of 20 % in the root mean square.
    EXPECT_LT(o.error, 0.35) << o.variant;
  }
  EXPECT_LT((*outcomes)[2].error, 0.02);  // INT8.
}

}  // namespace
}  // namespace strata
