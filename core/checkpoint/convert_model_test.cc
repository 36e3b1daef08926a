#include "core/checkpoint/convert_model.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/files.h"
#include "core/checkpoint/compare_weights.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/tiny_checkpoints.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::TestParamInfo;
using ::testing::TestWithParam;
using ::testing::ValuesIn;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// A fresh folder of the running test.
std::string Folder(const std::string& name) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string folder =
      absl::StrCat(::testing::TempDir(), "/",
                   absl::StrReplaceAll(test->name(), {{"/", "_"}}), ".", name);
  std::filesystem::remove_all(folder);
  return folder;
}

absl::StatusOr<ConvertResult> Convert(const std::string& from,
                                      const std::string& to, ModelFormat format,
                                      int64_t max_shard_bytes = 1 << 30) {
  const auto source = OpenModelSource(from);
  if (!source.ok()) return source.status();
  ConvertOptions options;
  options.to = format;
  options.max_shard_bytes = max_shard_bytes;
  return ConvertModel(*source, to, options);
}

// All parameters of a model folder, one after another.
std::vector<float> Loaded(const std::string& folder,
                          std::vector<UnusedTensor>* unused = nullptr) {
  CpuBackend backend(1, KernelRegistry());
  StateStore state(backend);
  const auto config = LoadModelConfig(folder);
  EXPECT_THAT(config, IsOk());
  EXPECT_THAT(LoadModelWeights(folder, *config, state, unused), IsOk());
  std::vector<float> numbers;
  for (const std::string& name : state.names()) {
    const auto values = state.Get(name).span<float>();
    numbers.insert(numbers.end(), values.begin(), values.end());
  }
  return numbers;
}

void ExpectSameTensors(const std::string& a, const std::string& b) {
  const auto result = CompareWeights(a, b);
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->differences, IsEmpty());
  EXPECT_GT(result->num_equal, 0);
}

class EveryTinyCheckpoint : public TestWithParam<TinyConfig> {};

TEST_P(EveryTinyCheckpoint, ComesBackByteForByteInEveryDType) {
  const std::string text = GetParam().json;
  const bool fp8 = absl::StrContains(text, "fp8");
  for (const DType dtype :
       {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    if (dtype == DType::kF8E4M3 && !fp8) continue;
    SCOPED_TRACE(Name(dtype));
    const std::string original = Folder("original");
    const std::string own = Folder("own"), back = Folder("back");
    TinyTensors tensors = RandomWeights(text, dtype);
    // What the model has no use for.
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] =
        FloatTensor({2}, {1, 0.5f});
    tensors["model.layers.9.enorm.weight"] = FloatTensor({2}, {3, 4});
    WriteCheckpoint(original, text, tensors, /*max_shard_bytes=*/4000);

    const auto result =
        Convert(original, own, ModelFormat::kStrata, /*max_shard_bytes=*/5000);
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->unused.size(), 2);
    ASSERT_THAT(Convert(own, back, ModelFormat::kHuggingFace), IsOk());

    ExpectSameTensors(original, back);
    EXPECT_EQ(*ReadFile(absl::StrCat(back, "/config.json")), text);
    EXPECT_EQ(ToJson(*LoadModelConfig(own)),
              ToJson(*LoadModelConfig(original)));
    std::vector<UnusedTensor> unused;
    const std::vector<float> numbers = Loaded(original, &unused);
    EXPECT_EQ(unused.size(), 2);
    EXPECT_EQ(Loaded(own), numbers);
    EXPECT_EQ(Loaded(back), numbers);

    // And on from ours to ours.
    const std::string copy = Folder("copy");
    ASSERT_THAT(Convert(own, copy, ModelFormat::kStrata), IsOk());
    ExpectSameTensors(own, copy);
  }
}

INSTANTIATE_TEST_SUITE_P(ConvertModelTest, EveryTinyCheckpoint,
                         ValuesIn(TinyConfigs()),
                         [](const TestParamInfo<TinyConfig>& info) {
                           return std::string(info.param.name);
                         });

// A whole module for multi-token prediction is loaded, as a part of the model.
TEST(ConvertModelTest, LoadsThePredictionModuleIfItIsWhole) {
  const std::string text = TinyConfigText("deepseek_v3");
  // The module of the layer behind the last is like a fourth layer's.
  TinyTensors tensors = RandomWeights(
      absl::StrReplaceAll(
          text, {{"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"}}),
      DType::kBF16);
  const auto add = [&](const std::string& name, Shape shape) {
    TinyTensor tensor;
    tensor.bytes = std::string(NumElements(shape) * 4, '\0');
    tensor.shape = std::move(shape);
    tensors[absl::StrCat("model.layers.3.", name)] = tensor;
  };
  for (const char* const norm : {"enorm", "hnorm", "shared_head.norm"}) {
    add(absl::StrCat(norm, ".weight"), {24});
  }
  add("eh_proj.weight", {24, 48});
  add("embed_tokens.weight", {40, 24});
  add("shared_head.head.weight", {40, 24});
  const std::string whole = Folder("whole"), own = Folder("own");
  const std::string back = Folder("back"), cut = Folder("cut");
  WriteCheckpoint(whole, text, tensors);

  EXPECT_EQ(LoadModelConfig(whole)->mtp().num_layers(), 1);
  std::vector<UnusedTensor> unused;
  Loaded(whole, &unused);
  EXPECT_EQ(unused.size(), 2);  // The copies of embedding and output.
  ASSERT_THAT(Convert(whole, own, ModelFormat::kStrata), IsOk());
  EXPECT_EQ(LoadModelConfig(own)->mtp().num_layers(), 1);
  ASSERT_THAT(Convert(own, back, ModelFormat::kHuggingFace), IsOk());
  ExpectSameTensors(whole, back);
  EXPECT_EQ(*ReadFile(absl::StrCat(back, "/config.json")), text);

  tensors.erase("model.layers.3.mlp.experts.5.up_proj.weight");
  WriteCheckpoint(cut, text, tensors);
  EXPECT_EQ(LoadModelConfig(cut)->mtp().num_layers(), 0);
  Loaded(cut, &unused);
  EXPECT_GT(unused.size(), 30);
}

class BadCheckpointTest : public ::testing::Test {
 protected:
  BadCheckpointTest()
      : text_(TinyConfigText("mixtral")),
        tensors_(RandomWeights(text_, DType::kF32)) {}

  // Loading and converting fail alike, and leave nothing behind.
  void ExpectRefused(const std::string& message) {
    const std::string original = Folder("original"), own = Folder("own");
    WriteCheckpoint(original, text_, tensors_);
    const auto config = LoadModelConfig(original);
    ASSERT_THAT(config, IsOk());
    CpuBackend backend(1, KernelRegistry());
    StateStore state(backend);
    EXPECT_THAT(LoadModelWeights(original, *config, state),
                StatusIs(kInvalid, HasSubstr(message)));
    EXPECT_THAT(Convert(original, own, ModelFormat::kStrata),
                StatusIs(kInvalid, HasSubstr(message)));
    EXPECT_FALSE(std::filesystem::exists(own));
  }

  std::string text_;
  TinyTensors tensors_;
};

constexpr char kExpert[] =
    "model.layers.1.block_sparse_moe.experts.2.w3.weight";

TEST_F(BadCheckpointTest, NamesAMissingTensor) {
  tensors_.erase(kExpert);
  ExpectRefused(absl::StrCat("\"", kExpert, "\""));
}

TEST_F(BadCheckpointTest, NamesATensorOfAnotherShape) {
  TinyTensor& tensor = tensors_.at(kExpert);
  std::swap(tensor.shape[0], tensor.shape[1]);
  ExpectRefused(
      absl::StrCat("tensor \"", kExpert, "\" is F32[24, 12]; want [12, 24]"));
}

TEST_F(BadCheckpointTest, NamesATensorOfIntegers) {
  tensors_.at(kExpert).dtype = DType::kI32;
  ExpectRefused("is I32[12, 24]; want [12, 24] of F32, F64, F16");
}

TEST_F(BadCheckpointTest, NamesATensorWithANaN) {
  const float nan = NAN;
  std::memcpy(&tensors_.at(kExpert).bytes[4 * 5], &nan, sizeof(nan));
  ExpectRefused(
      absl::StrCat("tensor \"", kExpert, "\" holds a NaN at element 5"));
}

TEST_F(BadCheckpointTest, NamesFp8WithoutScales) {
  text_ = TinyConfigText("deepseek_v3_fp8");
  tensors_ = RandomWeights(text_, DType::kF8E4M3);
  const std::string name = "model.layers.1.mlp.experts.3.down_proj.weight";
  const std::string scale = absl::StrCat(name, "_scale_inv");
  TinyTensor& tensor = tensors_.at(scale);
  // 24 x 12 in blocks of 8 x 16.
  EXPECT_THAT(tensor.shape, ElementsAre(3, 1));
  tensor.shape = {1, 3};
  ExpectRefused(
      absl::StrCat("tensor \"", scale, "\" is F32[1, 3]; want F32[3, 1]"));
  tensors_.erase(scale);
  ExpectRefused(absl::StrCat("tensor \"", name, "\" is F8_E4M3; want"));
}

TEST_F(BadCheckpointTest, UnusedTensorsAreListedWithTheReason) {
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] =
      FloatTensor({1}, {1});
  tensors_["model.layers.2.mlp.gate.weight"] = FloatTensor({1}, {1});
  tensors_["model.layers.0.self_attn.q_proj.bias"] = FloatTensor({1}, {1});
  const std::string folder = Folder("original");
  WriteCheckpoint(folder, text_, tensors_);
  std::vector<UnusedTensor> unused;
  Loaded(folder, &unused);
  EXPECT_THAT(
      DescribeUnused(unused),
      ElementsAre(
          AllOf(HasSubstr("1 tensor is not used: a rotary table"),
                HasSubstr("\"model.layers.0.self_attn.rotary_emb.inv_freq\"")),
          HasSubstr("of layer 2, beyond the 2 of the model"),
          AllOf(HasSubstr("have no tensor of that name"),
                HasSubstr("q_proj.bias"))));
}

TEST(ConvertModelTest, TiedOutputIsListed) {
  const std::string text = TinyConfigText("llama_tied");
  TinyTensors tensors = RandomWeights(text, DType::kF32);
  EXPECT_EQ(tensors.count("lm_head.weight"), 0);
  tensors["lm_head.weight"] = FloatTensor({1}, {1});
  const std::string folder = Folder("original");
  WriteCheckpoint(folder, text, tensors);
  std::vector<UnusedTensor> unused;
  Loaded(folder, &unused);
  EXPECT_THAT(DescribeUnused(unused),
              ElementsAre(HasSubstr("tie_word_embeddings")));
}

TEST(ConvertModelTest, KeepsWhatIsThereAlready) {
  const std::string text = TinyConfigText("llama");
  const std::string original = Folder("original"), there = Folder("there");
  WriteCheckpoint(original, text, RandomWeights(text, DType::kF32));
  ASSERT_THAT(MakeFolders(there), IsOk());
  EXPECT_THAT(Convert(original, there, ModelFormat::kStrata),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       HasSubstr("is there already")));
}

TEST(ConvertModelTest, CopiesTheTokenizer) {
  const std::string text = TinyConfigText("llama");
  const std::string original = Folder("original"), own = Folder("own");
  WriteCheckpoint(original, text, RandomWeights(text, DType::kF32));
  ASSERT_THAT(
      WriteFileAtomically(absl::StrCat(original, "/tokenizer.json"), "{}"),
      IsOk());
  ASSERT_THAT(Convert(original, own, ModelFormat::kStrata), IsOk());
  EXPECT_EQ(*ReadFile(absl::StrCat(own, "/tokenizer.json")), "{}");
}

// A config changed after the conversion is written anew.
TEST(ConvertModelTest, WritesTheConfigOfAChangedModel) {
  const std::string text = TinyConfigText("llama");
  const std::string original = Folder("original");
  const std::string own = Folder("own"), back = Folder("back");
  WriteCheckpoint(original, text, RandomWeights(text, DType::kBF16));
  ASSERT_THAT(Convert(original, own, ModelFormat::kStrata), IsOk());
  auto config = LoadModelConfig(own);
  ASSERT_THAT(config, IsOk());
  config->mutable_attention()->set_rope_theta(123);
  ASSERT_THAT(
      WriteFileAtomically(absl::StrCat(own, "/config.json"), ToJson(*config)),
      IsOk());
  ASSERT_THAT(Convert(own, back, ModelFormat::kHuggingFace), IsOk());
  EXPECT_EQ(LoadModelConfig(back)->attention().rope_theta(), 123);
  EXPECT_THAT(*ReadFile(absl::StrCat(back, "/config.json")),
              HasSubstr("\"torch_dtype\": \"bfloat16\""));
  ExpectSameTensors(original, back);
}

}  // namespace
}  // namespace strata
