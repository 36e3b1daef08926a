#include "core/checkpoint/model_files.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/sha256.h"
#include "core/base/staged_directory.h"
#include "core/checkpoint/safetensors.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kGateBias[] = "model.layers.0.mlp.tier.0.gate.bias";
constexpr char kCorrection[] =
    "model.layers.1.mlp.gate.e_score_correction_bias";

// Sources such as a decoder has: two parameters, two biases, a cache, what the
// load controller remembers, a moment of the optimizer.
Graph ModelGraph() {
  GraphBuilder b;
  b.Parameter("embedding.weight", {Static(4), Static(3)});
  b.Parameter("norm.weight", {Static(3)});
  b.State(kGateBias, DType::kF32, {Static(5)});
  b.State(kCorrection, DType::kF32, {Static(2)});
  b.State("model.layers.0.mlp.tier.0.gate.load_ema", DType::kF32, {Static(5)});
  b.State("cache.0.k", DType::kF32, {Static(8), Static(2)});
  b.State("adam.m.norm.weight", DType::kF32, {Static(3)});
  return *b.Finish();
}

// A store that holds ModelGraph(), its floats counting up from `first`.
class Store {
 public:
  explicit Store(float first)
      : backend_(1, KernelRegistry()), state_(backend_) {
    EXPECT_THAT(state_.Declare(graph_), IsOk());
    for (const std::string& name : state_.names()) {
      for (float& x : state_.Get(name).span<float>()) x = first++;
    }
  }

  std::vector<std::string> names() const { return ModelTensorNames(graph_); }
  StateStore& operator*() { return state_; }
  std::vector<float> Values(const std::string& name) {
    const auto values = state_.Get(name).span<float>();
    return {values.begin(), values.end()};
  }

 private:
  const Graph graph_ = ModelGraph();
  CpuBackend backend_;
  StateStore state_;
};

class ModelFilesTest : public ::testing::Test {
 protected:
  ModelFilesTest() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    dir_ = absl::StrCat(::testing::TempDir(), "/", test->name());
  }

  // Writes a checkpoint of `store` with these tensors and this config.
  void Save(Store& store, const std::vector<std::string>& names,
            const std::string& config = "{}") {
    auto staged = StagedDirectory::Create(dir_);
    ASSERT_THAT(staged, IsOk());
    ASSERT_THAT(SaveTensors(*store, names, kWeightsFile, *staged), IsOk());
    ASSERT_THAT(staged->WriteFile(kConfigFile, config), IsOk());
    ASSERT_THAT(staged->Commit(), IsOk());
  }

  std::string Weights() const { return absl::StrCat(dir_, "/", kWeightsFile); }

  std::string dir_;
};

TEST(ModelTensorNamesTest, AreParametersAndBiasesAndNoOtherState) {
  EXPECT_THAT(
      ModelTensorNames(ModelGraph()),
      ElementsAre("embedding.weight", "norm.weight", kGateBias, kCorrection));
}

TEST_F(ModelFilesTest, WhatIsSavedIsLoaded) {
  Store saved(1);
  Save(saved, saved.names());
  Store loaded(100);

  ASSERT_THAT(LoadTensors(Weights(), loaded.names(), *loaded), IsOk());

  for (const std::string& name : saved.names()) {
    EXPECT_EQ(loaded.Values(name), saved.Values(name)) << name;
  }
  EXPECT_NE(loaded.Values("cache.0.k"), saved.Values("cache.0.k"));
}

TEST_F(ModelFilesTest, SavedWeightsSayWhatHuggingFaceWantsToHear) {
  Store store(1);
  Save(store, store.names());

  const auto file = SafetensorsFile::Open(Weights());

  ASSERT_THAT(file, IsOk());
  EXPECT_EQ(file->metadata().at("format"), "pt");
}

// Each of the tests below must leave what was in the store.
class RefusedTest : public ModelFilesTest {
 protected:
  void ExpectRefused(const std::vector<std::string>& texts) {
    const std::vector<std::string> names = store_.names();
    std::vector<std::vector<float>> before;
    for (const std::string& name : names) before.push_back(store_.Values(name));

    const absl::Status status = LoadTensors(Weights(), names, *store_);

    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    for (const std::string& text : texts) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    }
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(Weights()), Not(HasSubstr("\n"))));
    for (size_t i = 0; i < names.size(); ++i) {
      EXPECT_EQ(store_.Values(names[i]), before[i]) << names[i];
    }
  }

  // Writes `tensors` of a store that goes on counting from 50.
  void Write(std::vector<NamedTensor> tensors) {
    ASSERT_THAT(MakeFolders(dir_), IsOk());
    ASSERT_THAT(WriteSafetensors(Weights(), tensors), IsOk());
  }
  std::vector<NamedTensor> Tensors() {
    std::vector<NamedTensor> tensors;
    for (const std::string& name : other_.names()) {
      tensors.push_back({name, (*other_).Get(name)});
    }
    return tensors;
  }

  Store store_{1};
  Store other_{50};
};

TEST_F(RefusedTest, AMissingTensor) {
  auto tensors = Tensors();
  tensors.erase(tensors.begin() + 2);
  Write(tensors);

  ExpectRefused(
      {absl::StrCat("tensor \"", kGateBias, "\" is missing"), "want F32[5]"});
}

TEST_F(RefusedTest, ATensorThatTheModelLacks) {
  auto tensors = Tensors();
  tensors.push_back({"lm_head.weight", (*other_).Get("cache.0.k")});
  Write(tensors);

  ExpectRefused({"tensor \"lm_head.weight\" (F32[8, 2]) belongs to another"});
}

TEST_F(RefusedTest, ATensorOfAnotherShape) {
  auto tensors = Tensors();
  tensors[0].tensor.shape = {3, 4};
  Write(tensors);

  ExpectRefused({"tensor \"embedding.weight\" is F32[3, 4]; want F32[4, 3]"});
}

TEST_F(RefusedTest, ATensorOfAnotherDtype) {
  auto tensors = Tensors();
  tensors[1].tensor.dtype = DType::kI32;
  Write(tensors);

  ExpectRefused({"tensor \"norm.weight\" is I32[3]; want F32[3]"});
}

TEST_F(RefusedTest, ATruncatedFile) {
  Write(Tensors());
  const std::string bytes = *ReadFile(Weights());
  for (const size_t size : {bytes.size() - 1, bytes.size() / 2, size_t{9},
                            size_t{8}, size_t{3}, size_t{0}}) {
    SCOPED_TRACE(size);
    ASSERT_THAT(WriteFileAtomically(Weights(), bytes.substr(0, size)), IsOk());

    ExpectRefused({});
  }
}

TEST_F(RefusedTest, AFileThatIsNoSafetensors) {
  Write(Tensors());
  ASSERT_THAT(WriteFileAtomically(Weights(), "PK\x03\x04 something else"),
              IsOk());

  ExpectRefused({});
}

TEST_F(ModelFilesTest, WeightsThatAreNotThereAreNotFound) {
  Store store(1);

  EXPECT_THAT(LoadTensors(Weights(), store.names(), *store),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(Weights())));
}

TEST_F(ModelFilesTest, ConfigsGoThroughConfigJson) {
  Store store(1);
  const ModelConfig config = *ModelPreset("demo");
  Save(store, store.names(), ToJson(config));

  const auto loaded = LoadModelConfig(dir_);

  ASSERT_THAT(loaded, IsOk());
  EXPECT_EQ(loaded->SerializeAsString(), config.SerializeAsString());
}

TEST_F(ModelFilesTest, AFolderWithoutConfigIsNotFoundAndSaysWhatWasExpected) {
  const auto not_found = StatusIs(
      absl::StatusCode::kNotFound,
      AllOf(StartsWith(dir_), HasSubstr("want a folder that holds config.json "
                                        "and model.safetensors")));

  EXPECT_THAT(LoadModelConfig(dir_), not_found);  // No folder at all.
  ASSERT_THAT(MakeFolders(dir_), IsOk());
  EXPECT_THAT(LoadModelConfig(dir_), not_found);
}

TEST_F(ModelFilesTest, AFileInPlaceOfTheFolderIsNotFound) {
  ASSERT_THAT(WriteFileAtomically(dir_, "a file"), IsOk());

  EXPECT_THAT(LoadModelConfig(dir_), StatusIs(absl::StatusCode::kNotFound,
                                              HasSubstr("is no checkpoint")));
}

TEST_F(ModelFilesTest, AForeignConfigIsInvalidAndNamesTheFile) {
  Store store(1);
  for (const std::string& text :
       {std::string("{\"architectures\": [\"LlamaForCausalLM\"]}"),
        std::string("{}"), std::string("not JSON"), std::string()}) {
    SCOPED_TRACE(text);
    Save(store, store.names(), text);

    EXPECT_THAT(LoadModelConfig(dir_),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(StartsWith(absl::StrCat(dir_, "/config.json: ")),
                               Not(HasSubstr("\n")))));
  }
}

TEST_F(ModelFilesTest, TheHashIsThatOfTheWeightsFile) {
  Store store(1);
  Save(store, store.names());

  const auto hash = HashWeights(dir_);

  ASSERT_THAT(hash, IsOk());
  EXPECT_EQ(*hash, Sha256Hex(*ReadFile(Weights())));
}

TEST_F(ModelFilesTest, TheHashTellsWeightsApart) {
  Store one(1);
  Save(one, one.names());
  const std::string hash = *HashWeights(dir_);

  Save(one, one.names());
  EXPECT_EQ(*HashWeights(dir_), hash);
  Store two(2);
  Save(two, two.names());
  EXPECT_NE(*HashWeights(dir_), hash);
}

TEST_F(ModelFilesTest, NoWeightsHaveNoHash) {
  EXPECT_THAT(HashWeights(dir_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(kWeightsFile)));
}

}  // namespace
}  // namespace strata
