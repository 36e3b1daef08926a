#include "training/quant/tuning_fixture.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/staged_directory.h"
#include "core/checkpoint/compare_weights.h"
#include "core/checkpoint/convert_model.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/weight_files.h"
#include "core/model/config.pb.h"
#include "core/quant/calibrate.h"
#include "core/quant/input_moments.h"
#include "core/quant/quantize_model.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/data/calibration_batches.h"
#include "training/data/corpus.h"
#include "training/quant/router_tuning.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

std::string TestFolder(const std::string& name) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  // A parameter's name has a slash before it.
  std::string of_test = test->name();
  for (char& c : of_test) {
    if (c == '/') c = '.';
  }
  const std::string folder =
      absl::StrCat(::testing::TempDir(), "/", of_test, ".", name);
  fs::remove_all(folder);
  fs::remove_all(folder + ".partial");
  return folder;
}

std::string TrainedFolder(const ModelConfig& model, const Corpus& corpus) {
  auto trainer = Trainer::Create(model, TinyTrain(), &corpus, 1);
  EXPECT_THAT(trainer, IsOk());
  while (!(*trainer)->done()) EXPECT_THAT((*trainer)->Step(), IsOk());
  const auto folder =
      (*trainer)->SaveCheckpoint(TestFolder("run"), nlohmann::json::object());
  EXPECT_THAT(folder, IsOk());
  return *folder;
}

std::string PublicFolder(const ModelConfig& model, const Corpus& corpus) {
  const auto source = OpenModelSource(TrainedFolder(model, corpus));
  EXPECT_THAT(source, IsOk());
  const std::string folder = TestFolder("public");
  ConvertOptions convert;
  convert.to = ModelFormat::kHuggingFace;
  EXPECT_THAT(ConvertModel(*source, folder, convert), IsOk());
  StoreInBf16(folder);
  return folder;
}

TuningOptions TinySteps(int64_t steps) {
  TuningOptions options;
  options.steps = steps;
  options.learning_rate = 0.01;
  options.validation_tokens = TinyTrain().validation_tokens();
  return options;
}

QuantizeOptions TwoBits() {
  QuantizeOptions options;
  options.format = {2, 0, false};
  options.method = CalibrationMethod::kClip;
  return options;
}

std::vector<TokenBatch> TinyBatches(const ModelConfig& model,
                                    const Corpus& corpus) {
  auto batches = CalibrationBatches(corpus, model, 512, /*seed=*/3);
  EXPECT_THAT(batches, IsOk());
  return *std::move(batches);
}

std::vector<std::string> DifferencesOf(const std::string& a,
                                       const std::string& b) {
  const auto compared = CompareWeights(a, b);
  EXPECT_THAT(compared, IsOk());
  return compared->differences;
}

double BitsPerByte(const std::string& folder, const std::string& of,
                   const Corpus& corpus) {
  const auto trainer = TuningTrainer(of, corpus, TinySteps(1));
  EXPECT_THAT(trainer, IsOk());
  EXPECT_THAT(
      LoadModelWeights(folder, (*trainer)->model_config(), (*trainer)->state()),
      IsOk());
  const auto metrics = (*trainer)->Validate();
  EXPECT_THAT(metrics, IsOk());
  return metrics->bits_per_byte;
}

}  // namespace strata
