#include "training/quant/router_tuning.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/staged_directory.h"
#include "core/checkpoint/compare_weights.h"
#include "core/checkpoint/convert_model.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/model/config.pb.h"
#include "core/quant/calibrate.h"
#include "core/quant/input_moments.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/quantize_model.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/data/calibration_batches.h"
#include "training/data/corpus.h"
#include "training/quant/loss_weights.h"
#include "training/quant/model_numbers.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string Folder(const std::string& name) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string folder =
      absl::StrCat(::testing::TempDir(), "/", test->name(), ".", name);
  fs::remove_all(folder);
  fs::remove_all(folder + ".partial");
  return folder;
}

std::string Trained(const ModelConfig& model, const Corpus& corpus) {
  auto trainer = Trainer::Create(model, TinyTrain(), &corpus, 1);
  EXPECT_THAT(trainer, IsOk());
  while (!(*trainer)->done()) EXPECT_THAT((*trainer)->Step(), IsOk());
  const auto folder =
      (*trainer)->SaveCheckpoint(Folder("run"), nlohmann::json::object());
  EXPECT_THAT(folder, IsOk());
  return *folder;
}

TuningOptions Steps(int64_t steps) {
  TuningOptions options;
  options.steps = steps;
  options.learning_rate = 0.01;
  options.validation_tokens = 320;
  return options;
}

QuantizeOptions TwoBits() {
  QuantizeOptions options;
  options.format = {2, 0, false};
  options.method = CalibrationMethod::kClip;
  return options;
}

std::vector<TokenBatch> BatchesOf(const ModelConfig& model,
                                  const Corpus& corpus) {
  auto batches = CalibrationBatches(corpus, model, 512, /*seed=*/3);
  EXPECT_THAT(batches, IsOk());
  return *std::move(batches);
}

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

// Rounds all tensors of the folder.
void StoreInBf16(const std::string& folder) {
  const auto files = WeightFiles::Open(folder);
  ASSERT_THAT(files, IsOk());
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : files->tensors()) {
    const TensorView view = tensor.view;
    tensors.push_back(
        {name, DType::kBF16, view.shape, [view](TensorToWrite::Append append) {
           std::vector<BFloat16> narrow;
           for (const float x : view.span<float>()) {
             narrow.push_back(RoundToBFloat16(x));
           }
           return append(
               absl::string_view(reinterpret_cast<const char*>(narrow.data()),
                                 narrow.size() * sizeof(BFloat16)));
         }});
  }
  auto staged = StagedDirectory::Create(folder);
  ASSERT_THAT(staged, IsOk());
  const auto config = ReadFile(folder + "/config.json");
  ASSERT_THAT(config, IsOk());
  ASSERT_THAT(staged->WriteFile("config.json", *config), IsOk());
  ASSERT_THAT(WriteWeights(staged->path(), tensors, {}), IsOk());
  ASSERT_THAT(staged->Commit(), IsOk());
}

// What of two folders is not the same, by name.
std::vector<std::string> Differences(const std::string& a,
                                     const std::string& b) {
  const auto compared = CompareWeights(a, b);
  EXPECT_THAT(compared, IsOk());
  return compared->differences;
}

// Two tiers; and flat gates in a public layout, where gates lie in BF16.
class RouterTuningTest : public ::testing::TestWithParam<bool> {
 protected:
  RouterTuningTest() {
    model_ = is_public() ? TinyFlat() : TinyHierarchical();
    folder_ = Trained(model_, corpus_);
    if (!is_public()) return;
    const auto source = OpenModelSource(folder_);
    EXPECT_THAT(source, IsOk());
    folder_ = Folder("public");
    ConvertOptions convert;
    convert.to = ModelFormat::kHuggingFace;
    EXPECT_THAT(ConvertModel(*source, folder_, convert), IsOk());
    StoreInBf16(folder_);
  }

  bool is_public() const { return GetParam(); }

  std::unique_ptr<Trainer> Tuner(int64_t steps) {
    auto tuner = TuningTrainer(folder_, corpus_, Steps(steps));
    EXPECT_THAT(tuner, IsOk());
    return *std::move(tuner);
  }

  const Corpus corpus_ = TinyCorpus();
  ModelConfig model_;
  std::string folder_;
};

TEST_P(RouterTuningTest, ChangesTheGatesOfTheFolderAndNothingElse) {
  const auto batches = BatchesOf(model_, corpus_);
  QuantizeOptions options = TwoBits();
  const std::string plain = Folder("plain");
  ASSERT_THAT(QuantizeModel(folder_, plain, batches, options), IsOk());

  const auto tuner = Tuner(4);
  TunedRouter tuned;
  options.retune = [&](StateStore& model) -> absl::Status {
    const auto result = TuneRouter(*tuner, model, nullptr);
    if (!result.ok()) return result.status();
    tuned = *result;
    return absl::OkStatus();
  };
  const std::string out = Folder("tuned");
  ASSERT_THAT(QuantizeModel(folder_, out, batches, options), IsOk());

  EXPECT_NE(tuned.before.bits_per_byte, tuned.after.bits_per_byte);
  const std::vector<std::string> differences = Differences(plain, out);
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
  EXPECT_THAT(Differences(out, out), IsEmpty());

  // What was measured is what the folders hold: the same numbers again.
  for (const auto& [made, metrics] :
       {std::pair(plain, tuned.before), std::pair(out, tuned.after)}) {
    const auto loaded = Tuner(1);
    ASSERT_THAT(LoadModelWeights(made, model_, loaded->state()), IsOk());
    const auto again = loaded->Validate();
    ASSERT_THAT(again, IsOk());
    EXPECT_EQ(again->bits_per_byte, metrics.bits_per_byte);
  }
}

TEST_P(RouterTuningTest, KeepsTheLayersOfARunThatWasStopped) {
  const auto batches = BatchesOf(model_, corpus_);
  QuantizeOptions options = TwoBits();
  const auto least = QuantizeModel(folder_, Folder("least"), batches, options);
  ASSERT_THAT(least, IsOk());
  // Gates that are F32 afterwards count as such.
  options.budget_bytes = least->num_bytes + 12000;
  const std::string out = Folder("stopped"), whole = Folder("whole");
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
  EXPECT_THAT(Differences(out, whole), IsEmpty());
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
  const std::string folder = Trained(model, corpus);
  const auto batches = BatchesOf(model, corpus);
  QuantizeOptions options = TwoBits();
  const auto least = QuantizeModel(folder, Folder("least"), batches, options);
  ASSERT_THAT(least, IsOk());
  options.budget_bytes = least->num_bytes + 8000;
  options.output_weights = [&]() -> absl::StatusOr<OutputWeights> {
    const auto trainer = TuningTrainer(folder, corpus, Steps(3));
    const auto names = ParametersToQuantize(model);
    if (!trainer.ok()) return trainer.status();
    return LossWeights(**trainer, *names, batches, 3, nullptr);
  };
  options.retune = [&](StateStore& state) {
    const auto trainer = TuningTrainer(folder, corpus, Steps(3));
    return TuneRouter(**trainer, state, nullptr).status();
  };

  const auto result = QuantizeModel(folder, Folder("out"), batches, options);

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
    auto trainer = TuningTrainer(Trained(model, corpus), corpus, Steps(3));
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
  const std::string folder = Trained(dense, corpus);
  const auto trainer = TuningTrainer(folder, corpus, Steps(3));
  ASSERT_THAT(trainer, IsOk());
  EXPECT_THAT(CheckHasGates(**trainer),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("no router to be tuned")));
  const auto little = MakeCorpus({{"short", {{"a", "twelve bytes"}}}});
  ASSERT_THAT(little, IsOk());
  EXPECT_THAT(TuningTrainer(folder, *little, Steps(3)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("\"short\" is too small")));
}

}  // namespace
}  // namespace strata
