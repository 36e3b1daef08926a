#include "training/quant/code_learning.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/model/config.pb.h"
#include "core/quant/format.h"
#include "core/quant/quantize_model.h"
#include "core/quant/quantized_matrix.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/data/corpus.h"
#include "training/quant/router_tuning.h"
#include "training/quant/tuning_fixture.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Rates for so few steps.
TuningOptions LearningSteps(int64_t steps) {
  TuningOptions options = TinySteps(steps);
  options.learning_rate = 0.1;
  options.decays_weights = CodeLearningOptions().decays_weights;
  return options;
}

using LearnHook =
    std::function<absl::Status(const StateStore&, QuantizedParameters&)>;

// Learns for so many steps.
LearnHook Learning(const std::string& folder, const Corpus& corpus,
                   int64_t steps, LearnedCodes& learned, int threads = 1,
                   std::function<bool()> stop = nullptr) {
  return [=, &corpus, &learned](const StateStore& model,
                                QuantizedParameters& matrices) -> absl::Status {
    TuningOptions options = LearningSteps(steps);
    options.num_threads = threads;
    const auto trainer = TuningTrainer(folder, corpus, options);
    if (!trainer.ok()) return trainer.status();
    const auto result = LearnCodes(**trainer, model, matrices, stop);
    if (!result.ok()) return result.status();
    learned = *result;
    return absl::OkStatus();
  };
}

// The formats of a folder's quantised tensors, by name.
std::map<std::string, std::string> Formats(const std::string& folder) {
  std::map<std::string, std::string> formats;
  const auto files = WeightFiles::Open(folder);
  EXPECT_THAT(files, IsOk());
  for (const auto& [name, tensor] : files->tensors()) {
    if (tensor.packing != StoredTensor::Packing::kGroups) continue;
    formats[name] = ToText(tensor.groups.format);
  }
  return formats;
}

// Two tiers in our own layout, experts in one tensor; and flat gates in a
// public one, where an expert's matrix lies in two.
class CodeLearningTest : public ::testing::TestWithParam<bool> {
 protected:
  CodeLearningTest()
      : model_(GetParam() ? TinyFlat() : TinyHierarchical()),
        folder_(GetParam() ? PublicFolder(model_, corpus_)
                           : TrainedFolder(model_, corpus_)) {}

  const Corpus corpus_ = TinyCorpus();
  const ModelConfig model_;
  const std::string folder_;
};

TEST_P(CodeLearningTest, ImprovesTheQuantisedMatricesAndChangesNothingElse) {
  const auto batches = TinyBatches(model_, corpus_);
  QuantizeOptions options = TwoBits();
  const std::string plain = TestFolder("plain"), out = TestFolder("learned");
  ASSERT_THAT(QuantizeModel(folder_, plain, batches, options), IsOk());
  LearnedCodes learned;
  options.learn = Learning(folder_, corpus_, 20, learned);

  const auto result = QuantizeModel(folder_, out, batches, options);

  ASSERT_THAT(result, IsOk());
  EXPECT_LT(learned.after.bits_per_byte, learned.before.bits_per_byte);
  EXPECT_GT(learned.share_moved, 0.01);
  EXPECT_LT(learned.share_moved, 0.9);
  EXPECT_EQ(Formats(out), Formats(plain));
  EXPECT_THAT(Formats(out), Not(IsEmpty()));
  const std::vector<std::string> differences = DifferencesOf(plain, out);
  EXPECT_THAT(differences, Not(IsEmpty()));
  for (const std::string& line : differences) {
    EXPECT_FALSE(absl::StrContains(line, ".gate.") ||
                 absl::StrContains(line, "norm") ||
                 absl::StrContains(line, "embed"))
        << line;
  }
  // What was measured is what the folders hold.
  EXPECT_EQ(BitsPerByte(plain, folder_, corpus_), learned.before.bits_per_byte);
  EXPECT_EQ(BitsPerByte(out, folder_, corpus_), learned.after.bits_per_byte);
}

TEST_P(CodeLearningTest, LearnsExpertsOfSeveralFormats) {
  const auto batches = TinyBatches(model_, corpus_);
  QuantizeOptions options = TwoBits();
  const auto least =
      QuantizeModel(folder_, TestFolder("least"), batches, options);
  ASSERT_THAT(least, IsOk());
  options.budget_bytes = least->num_bytes + 12000;
  const std::string plain = TestFolder("plain"), out = TestFolder("learned");
  ASSERT_THAT(QuantizeModel(folder_, plain, batches, options), IsOk());
  LearnedCodes learned;
  options.learn = Learning(folder_, corpus_, 20, learned);

  const auto result = QuantizeModel(folder_, out, batches, options);

  ASSERT_THAT(result, IsOk());
  EXPECT_LE(result->num_bytes, options.budget_bytes);
  EXPECT_LT(learned.after.bits_per_byte, learned.before.bits_per_byte);
  EXPECT_EQ(Formats(out), Formats(plain));
  EXPECT_EQ(BitsPerByte(out, folder_, corpus_), learned.after.bits_per_byte);
}

TEST_P(CodeLearningTest, IsTheSameForAnyNumberOfThreads) {
  const auto batches = TinyBatches(model_, corpus_);
  QuantizeOptions options = TwoBits();
  const std::string one = TestFolder("one"), three = TestFolder("three");
  LearnedCodes learned;
  options.learn = Learning(folder_, corpus_, 3, learned, /*threads=*/1);
  ASSERT_THAT(QuantizeModel(folder_, one, batches, options), IsOk());
  options.learn = Learning(folder_, corpus_, 3, learned, /*threads=*/3);
  ASSERT_THAT(QuantizeModel(folder_, three, batches, options), IsOk());
  EXPECT_THAT(DifferencesOf(one, three), IsEmpty());
}

TEST_P(CodeLearningTest, AStoppedRunKeepsItsLayersAndLearnsAnew) {
  const auto batches = TinyBatches(model_, corpus_);
  QuantizeOptions options = TwoBits();
  const std::string out = TestFolder("stopped"), whole = TestFolder("whole");
  LearnedCodes learned;
  int64_t asked = 0;
  options.learn = Learning(folder_, corpus_, 4, learned, 1,
                           [&asked] { return ++asked > 2; });
  EXPECT_THAT(QuantizeModel(folder_, out, batches, options),
              StatusIs(absl::StatusCode::kCancelled,
                       HasSubstr("2 of 4 steps that learn codes")));
  EXPECT_FALSE(fs::exists(out));

  options.learn = Learning(folder_, corpus_, 4, learned);
  const auto resumed = QuantizeModel(folder_, out, batches, options);

  ASSERT_THAT(resumed, IsOk());
  EXPECT_GT(resumed->layers_resumed, 0);
  ASSERT_THAT(QuantizeModel(folder_, whole, batches, options), IsOk());
  EXPECT_THAT(DifferencesOf(out, whole), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, CodeLearningTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "PublicInBf16" : "TwoTiers";
                         });

}  // namespace
}  // namespace strata
