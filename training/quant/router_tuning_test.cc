#include "training/quant/router_tuning.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/model/config.pb.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/quantize_model.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/data/corpus.h"
#include "training/quant/loss_weights.h"
#include "training/quant/model_numbers.h"
#include "training/quant/tuning_fixture.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

ModelNumbers Those(const StateStore& state, bool of_gates) {
  return NumbersOf(state, [&](const std::string& name) {
    return IsOfGate(name) == of_gates;
  });
}

// The bytes of a folder's tensors, of gates or of all else.
std::vector<std::string> Bytes(const std::string& folder, bool of_gates) {
  std::vector<std::string> bytes;
  const auto files = WeightFiles::Open(folder);
  EXPECT_THAT(files, IsOk());
  for (const auto& [name, tensor] : files->tensors()) {
    if (IsOfGate(name) != of_gates) continue;
    if (tensor.packing != StoredTensor::Packing::kNone) continue;
    bytes.push_back(absl::StrCat(
        name, " ",
        absl::string_view(static_cast<const char*>(tensor.view.data),
                          tensor.view.num_bytes())));
  }
  return bytes;
}

// Two tiers; and flat gates in a public layout, where gates lie in BF16.
class RouterTuningTest : public ::testing::TestWithParam<bool> {
 protected:
  RouterTuningTest()
      : model_(GetParam() ? TinyFlat() : TinyHierarchical()),
        folder_(GetParam() ? PublicFolder(model_, corpus_)
                           : TrainedFolder(model_, corpus_)) {}

  std::unique_ptr<Trainer> Tuner(int64_t steps) {
    auto tuner = TuningTrainer(folder_, corpus_, TinySteps(steps));
    EXPECT_THAT(tuner, IsOk());
    return *std::move(tuner);
  }

  const Corpus corpus_ = TinyCorpus();
  const ModelConfig model_;
  const std::string folder_;
};

TEST_P(RouterTuningTest, ChangesTheGatesOfTheFolderAndNothingElse) {
  const auto batches = TinyBatches(model_, corpus_);
  QuantizeOptions options = TwoBits();
  const std::string plain = TestFolder("plain");
  ASSERT_THAT(QuantizeModel(folder_, plain, batches, options), IsOk());

  const auto tuner = Tuner(4);
  TunedRouter tuned;
  options.retune = [&](StateStore& model) -> absl::Status {
    const auto result = TuneRouter(*tuner, model, nullptr);
    if (!result.ok()) return result.status();
    tuned = *result;
    return absl::OkStatus();
  };
  const std::string out = TestFolder("tuned");
  ASSERT_THAT(QuantizeModel(folder_, out, batches, options), IsOk());

  EXPECT_NE(tuned.before.bits_per_byte, tuned.after.bits_per_byte);
  const std::vector<std::string> differences = DifferencesOf(plain, out);
  EXPECT_THAT(differences, Not(IsEmpty()));
  for (const std::string& line : differences) {
    EXPECT_THAT(line, HasSubstr(".gate.")) << line;
  }
  EXPECT_EQ(Bytes(plain, false), Bytes(out, false));
  EXPECT_NE(Bytes(plain, true), Bytes(out, true));
  const auto files = WeightFiles::Open(out);
  ASSERT_THAT(files, IsOk());
  for (const auto& [name, tensor] : files->tensors()) {
    if (!IsOfGate(name)) continue;
    EXPECT_EQ(tensor.view.dtype, DType::kF32) << name;
  }
  EXPECT_THAT(DifferencesOf(out, out), IsEmpty());

  // What was measured is what the folders hold: the same numbers again.
  EXPECT_EQ(BitsPerByte(plain, folder_, corpus_), tuned.before.bits_per_byte);
  EXPECT_EQ(BitsPerByte(out, folder_, corpus_), tuned.after.bits_per_byte);
}

TEST_P(RouterTuningTest, KeepsTheLayersOfARunThatWasStopped) {
  const auto batches = TinyBatches(model_, corpus_);
  QuantizeOptions options = TwoBits();
  const auto least =
      QuantizeModel(folder_, TestFolder("least"), batches, options);
  ASSERT_THAT(least, IsOk());
  // Gates that are F32 afterwards count as such.
  options.budget_bytes = least->num_bytes + 12000;
  const std::string out = TestFolder("stopped"), whole = TestFolder("whole");
  int64_t asked = 0;
  std::function<bool()> stop = [&] { return ++asked > 2; };
  options.retune = [&](StateStore& model) {
    const auto tuner = Tuner(4);
    return TuneRouter(*tuner, model, stop).status();
  };
  EXPECT_THAT(
      QuantizeModel(folder_, out, batches, options),
      StatusIs(absl::StatusCode::kCancelled, HasSubstr("2 of 4 steps")));
  EXPECT_FALSE(fs::exists(out));
  stop = nullptr;

  const auto resumed = QuantizeModel(folder_, out, batches, options);

  ASSERT_THAT(resumed, IsOk());
  EXPECT_GT(resumed->layers_resumed, 0);
  EXPECT_LE(resumed->num_bytes, options.budget_bytes);
  const auto at_once = QuantizeModel(folder_, whole, batches, options);
  ASSERT_THAT(at_once, IsOk());
  EXPECT_EQ(at_once->layers_resumed, 0);
  EXPECT_THAT(DifferencesOf(out, whole), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, RouterTuningTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "PublicInBf16" : "TwoTiers";
                         });

// With a module that predicts a token further, whose experts and gate are like
// a layer's, and one table for embedding and output.
TEST(JointTest, ChoosesAndTunesWithAModuleAndATiedTable) {
  const Corpus corpus = TinyCorpus();
  ModelConfig model = WithFlatGates(TinyHierarchical());
  model.mutable_mtp()->set_num_layers(1);
  model.mutable_mtp()->set_loss_weight(0.3);
  model.set_tie_embeddings(true);
  const std::string folder = TrainedFolder(model, corpus);
  const auto batches = TinyBatches(model, corpus);
  QuantizeOptions options = TwoBits();
  const auto least =
      QuantizeModel(folder, TestFolder("least"), batches, options);
  ASSERT_THAT(least, IsOk());
  options.budget_bytes = least->num_bytes + 8000;
  options.output_weights = [&]() -> absl::StatusOr<OutputWeights> {
    const auto trainer = TuningTrainer(folder, corpus, TinySteps(3));
    const auto names = ParametersToQuantize(model);
    if (!trainer.ok()) return trainer.status();
    return LossWeights(**trainer, *names, batches, 3, nullptr);
  };
  options.retune = [&](StateStore& state) {
    const auto trainer = TuningTrainer(folder, corpus, TinySteps(3));
    return TuneRouter(**trainer, state, nullptr).status();
  };

  const auto result =
      QuantizeModel(folder, TestFolder("out"), batches, options);

  ASSERT_THAT(result, IsOk());
  EXPECT_GT(result->num_bytes, least->num_bytes);
  int64_t in_more = 0;
  for (const QuantizedWeight& w : result->weights) {
    for (const auto& [bits, count] : w.num_of_bits) in_more += bits > 2;
  }
  EXPECT_GT(in_more, 0);
}

TEST(TuneGatesTest, MovesGatesAndTheirBiasAlone) {
  const Corpus corpus = TinyCorpus();
  for (const ModelConfig& model :
       {TinyHierarchical(), WithFlatGates(TinyHierarchical())}) {
    auto trainer =
        TuningTrainer(TrainedFolder(model, corpus), corpus, TinySteps(3));
    ASSERT_THAT(trainer, IsOk());
    EXPECT_THAT(CheckHasGates(**trainer), IsOk());
    const StateStore& state = (*trainer)->state();
    const ModelNumbers gates = Those(state, true), others = Those(state, false);

    ASSERT_THAT(TuneGates(**trainer, nullptr), IsOk());

    EXPECT_EQ(Those(state, false), others);
    int64_t moved = 0;
    for (const auto& [name, numbers] : Those(state, true)) {
      moved += numbers != gates.at(name);
      if (absl::EndsWith(name, ".bias") || absl::EndsWith(name, "_bias")) {
        EXPECT_NE(numbers, gates.at(name)) << name;
      }
    }
    EXPECT_GT(moved, 2);
  }
}

TEST(TuneGatesTest, WantsGatesAndEnoughText) {
  const Corpus corpus = TinyCorpus();
  ModelConfig dense = TinyHierarchical();
  dense.clear_moe();
  dense.set_num_dense_layers(2);
  dense.set_dense_width(32);
  const std::string folder = TrainedFolder(dense, corpus);
  const auto trainer = TuningTrainer(folder, corpus, TinySteps(3));
  ASSERT_THAT(trainer, IsOk());
  EXPECT_THAT(CheckHasGates(**trainer),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("no router to be tuned")));
  const auto little = MakeCorpus({{"short", {{"a", "twelve bytes"}}}});
  ASSERT_THAT(little, IsOk());
  EXPECT_THAT(TuningTrainer(folder, *little, TinySteps(3)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("\"short\" is too small")));
}

}  // namespace
}  // namespace strata
