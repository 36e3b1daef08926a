#include "core/quant/quantize_model.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/base/staged_directory.h"
#include "core/checkpoint/compare_weights.h"
#include "core/checkpoint/convert_model.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/weight_map.h"
#include "core/checkpoint/weight_storage.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/model/config.h"
#include "core/model/decoder.h"
#include "core/model/init.h"
#include "core/quant/calibrate.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// A fresh path of the running test.
std::string Folder(const std::string& name) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string folder =
      absl::StrCat(::testing::TempDir(), "/quantize.", test->name(), ".", name);
  std::filesystem::remove_all(folder);
  std::filesystem::remove_all(folder + ".partial");
  return folder;
}

// Two layers of 4 experts; with an output projection of its own.
ModelConfig Config(bool hierarchical) {
  ModelConfig config;
  config.set_name("tiny");
  config.set_vocab_size(96);
  config.set_d_model(64);
  config.set_num_layers(2);
  config.set_max_seq_len(32);
  config.set_norm_eps(1e-5);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(2);
  attention.set_num_kv_heads(1);
  attention.set_head_dim(32);
  attention.set_rope_theta(10000);
  MoeConfig& moe = *config.mutable_moe();
  moe.set_expert_width(32);
  if (!hierarchical) {
    moe.mutable_flat()->set_num_experts(4);
    moe.mutable_flat()->set_k(2);
    moe.mutable_flat()->set_normalize(true);
    return config;
  }
  ModelConfig demo = *ModelPreset("demo");
  *moe.mutable_hierarchical() = demo.moe().hierarchical();
  HierarchicalRouterConfig& router = *moe.mutable_hierarchical();
  router.set_tier_experts(0, 4);
  router.set_tier_experts(1, 4);
  router.set_k_max(2);
  router.set_fine_width(16);
  router.set_energy_groups(8);
  return config;
}

// A folder with a model of random weights; `change` may spoil them.
std::string SavedModel(const ModelConfig& config, const std::string& name,
                       const std::function<void(StateStore&)>& change = {}) {
  CpuBackend backend(1, AllCpuKernels());
  StateStore state(backend);
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kEvaluate;
  options.max_tokens = 1;
  BuildDecoder(builder, config, options);
  const auto graph = builder.Finish();
  EXPECT_THAT(graph, IsOk());
  EXPECT_THAT(state.Declare(*graph), IsOk());
  InitializeParameters(config, /*seed=*/1, state);
  if (change) change(state);
  const std::string folder = Folder(name);
  auto staged = StagedDirectory::Create(folder);
  EXPECT_THAT(staged, IsOk());
  EXPECT_THAT(staged->WriteFile(kConfigFile, ToJson(config)), IsOk());
  EXPECT_THAT(
      SaveTensors(state, ModelTensorNames(*graph), kWeightsFile, *staged),
      IsOk());
  EXPECT_THAT(staged->Commit(), IsOk());
  return folder;
}

std::vector<TokenBatch> Batches(int64_t count) {
  Random random(/*seed=*/9, /*stream=*/0);
  std::vector<TokenBatch> batches(count);
  for (TokenBatch& batch : batches) {
    batch.seq_len = 32;
    for (int i = 0; i < 64; ++i) {
      batch.ids.push_back(static_cast<int32_t>(random.UniformInt(96)));
      batch.targets.push_back(static_cast<int32_t>(random.UniformInt(96)));
    }
  }
  return batches;
}

struct Output {
  std::vector<float> logits;
  std::set<std::string> packed;
  int64_t parameter_bytes = 0;
};

// Logits of a few tokens.
Output RunModel(const std::string& folder, WeightStorage storage) {
  CpuBackend backend(2, AllCpuKernels());
  StateStore state(backend);
  const auto config = LoadModelConfig(folder);
  EXPECT_THAT(config, IsOk());
  EXPECT_THAT(LoadModelWeights(folder, *config, state, nullptr, storage),
              IsOk());
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kLogits;
  options.max_tokens = options.max_logits = 8;
  BuildDecoder(builder, *config, options);
  auto graph = builder.Finish();
  EXPECT_THAT(graph, IsOk());
  const auto program = Program::Compile(*std::move(graph), backend, state);
  EXPECT_THAT(program, IsOk());
  const auto set = [&](const char* name, const std::vector<int32_t>& values) {
    std::copy(values.begin(), values.end(),
              (*program)->Input(name).as<int32_t>());
  };
  set("num_tokens", {8});
  set("num_logits", {8});
  set("ids", {5, 17, 80, 3, 3, 41, 9, 60});
  set("position", {0, 1, 2, 3, 4, 5, 6, 7});
  set("logit_row", {0, 1, 2, 3, 4, 5, 6, 7});
  set("seq_start", {0, 8});
  EXPECT_THAT((*program)->Run(), IsOk());
  const auto logits = (*program)->Output("logits").span<float>();
  Output output = {{logits.begin(), logits.end()}, {}, state.num_bytes()};
  for (const std::string& name : state.names()) {
    if (state.Get(name).dtype == DType::kU8) output.packed.insert(name);
  }
  return output;
}

double RelativeDistance(const std::vector<float>& a,
                        const std::vector<float>& b) {
  double distance = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    distance += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{a[i]} * a[i];
  }
  return std::sqrt(distance / size);
}

// Of a quantised model in `folder`: what is packed runs as what is widened, in
// one format a matrix too, and takes at most `share` of its memory.
void ExpectRunsPacked(const std::string& folder, size_t weights, double share) {
  const Output packed = RunModel(folder, WeightStorage::kAsStored);
  const Output alike = RunModel(folder, WeightStorage::kAlike);
  const Output wide = RunModel(folder, WeightStorage::kF32);
  EXPECT_EQ(packed.packed.size(), weights);
  EXPECT_EQ(alike.packed, packed.packed);
  EXPECT_LT(packed.parameter_bytes, share * wide.parameter_bytes);
  EXPECT_LE(packed.parameter_bytes, alike.parameter_bytes);
  EXPECT_LT(alike.parameter_bytes, wide.parameter_bytes);
  // As in WritesAModelThatRunsPackedAsItDoesInFloat; the numbers are the same,
  // and so are their products in integers.
  EXPECT_LT(RelativeDistance(wide.logits, packed.logits), 0.05);
  EXPECT_LT(RelativeDistance(packed.logits, alike.logits), 1e-5);
  const auto same = CompareWeights(folder, folder, nullptr);
  ASSERT_THAT(same, IsOk());
  EXPECT_THAT(same->differences, IsEmpty());
}

TEST(QuantizeModelTest, WritesAModelThatRunsPackedAsItDoesInFloat) {
  for (const bool hierarchical : {false, true}) {
    const std::string folder = SavedModel(Config(hierarchical), "float");
    const std::string out = Folder("int4");
    QuantizeOptions options;
    const auto result = QuantizeModel(folder, out, Batches(8), options);
    ASSERT_THAT(result, IsOk());
    EXPECT_FALSE(std::filesystem::exists(out + ".partial"));

    const Output packed = RunModel(out, WeightStorage::kAsStored);
    const Output wide = RunModel(out, WeightStorage::kF32);
    EXPECT_TRUE(packed.packed.count("lm_head.weight") > 0);
    EXPECT_EQ(packed.packed.size(), result->weights.size());
    for (const std::string& name : packed.packed) {
      EXPECT_FALSE(absl::StrContains(name, ".gate.")) << name;
    }
    EXPECT_THAT(wide.packed, IsEmpty());
    EXPECT_LT(packed.parameter_bytes, 0.45 * wide.parameter_bytes);
    // Activations in 8 bits are off by 0.5 % of each product's size (2e-5 of
    // its energy), in some ten products one behind another.
    EXPECT_LT(RelativeDistance(wide.logits, packed.logits), 0.05);
    // Far less than what the weights themselves lose.
    const Output before = RunModel(folder, WeightStorage::kF32);
    EXPECT_LT(RelativeDistance(wide.logits, packed.logits),
              0.5 * RelativeDistance(before.logits, wide.logits));
  }
}

TEST(QuantizeModelTest, GivesPublicAndOwnLayoutsTheSameIntegers) {
  const std::string own = SavedModel(Config(false), "own");
  const std::string other = Folder("public");
  const auto source = OpenModelSource(own);
  ASSERT_THAT(source, IsOk());
  ConvertOptions convert;
  convert.to = ModelFormat::kHuggingFace;
  ASSERT_THAT(ConvertModel(*source, other, convert), IsOk());
  const std::string own_out = Folder("own.int4");
  const std::string other_out = Folder("public.int4");
  QuantizeOptions options;
  options.format = {4, 32, false};
  ASSERT_THAT(QuantizeModel(own, own_out, Batches(4), options), IsOk());
  ASSERT_THAT(QuantizeModel(other, other_out, Batches(4), options), IsOk());
  EXPECT_EQ(RunModel(own_out, WeightStorage::kAsStored).logits,
            RunModel(other_out, WeightStorage::kAsStored).logits);

  // And back: our quantised folder as a public one, its numbers in float.
  const auto quantised = OpenModelSource(own_out);
  ASSERT_THAT(quantised, IsOk());
  const std::string back = Folder("back");
  ASSERT_THAT(ConvertModel(*quantised, back, convert), IsOk());
  const auto compared = CompareWeights(back, other_out, nullptr);
  ASSERT_THAT(compared, IsOk());
  EXPECT_THAT(compared->differences, IsEmpty());
}

TEST(QuantizeModelTest, SaysInTheConfigWhatItDid) {
  const std::string folder = SavedModel(Config(false), "float");
  const std::string out = Folder("int4");
  QuantizeOptions options;
  options.method = CalibrationMethod::kNearest;
  ASSERT_THAT(QuantizeModel(folder, out, {}, options), IsOk());
  const auto text = ReadFile(out + "/config.json");
  ASSERT_THAT(text, IsOk());
  const auto json = nlohmann::json::parse(*text)["quantization_config"];
  EXPECT_EQ(json["quant_method"], "compressed-tensors");
  EXPECT_EQ(json["format"], "pack-quantized");
  const auto weights = json["config_groups"]["group_0"]["weights"];
  EXPECT_EQ(weights["num_bits"], 4);
  EXPECT_EQ(weights["group_size"], 32);
  EXPECT_EQ(json["config_groups"]["group_0"]["targets"][0], "Linear");
  const auto head = json["config_groups"]["group_1"];
  EXPECT_EQ(head["weights"]["num_bits"], 8);
  EXPECT_EQ(head["targets"][0], "lm_head");
  EXPECT_THAT(json["ignore"].dump(), HasSubstr("model.layers.0.mlp.gate"));
}

int64_t NumOf(const QuantizedWeight& w, int bits) {
  const auto it = w.num_of_bits.find(bits);
  return it == w.num_of_bits.end() ? 0 : it->second;
}

// Of both layouts: ours, whose experts lie in one tensor, and a public one.
TEST(QuantizeModelTest, SpendsABudgetOnExpertsAndRunsThemPacked) {
  for (const bool hierarchical : {true, false}) {
    const std::string own = SavedModel(Config(hierarchical), "float");
    std::string folder = own;
    if (!hierarchical) {
      const auto source = OpenModelSource(own);
      ASSERT_THAT(source, IsOk());
      folder = Folder("public");
      ConvertOptions convert;
      convert.to = ModelFormat::kHuggingFace;
      ASSERT_THAT(ConvertModel(*source, folder, convert), IsOk());
    }
    QuantizeOptions options;
    options.method = CalibrationMethod::kClip;
    const auto least =
        QuantizeModel(folder, Folder("int4"), Batches(4), options);
    ASSERT_THAT(least, IsOk());
    options.budget_bytes = least->num_bytes + 30000;
    const std::string out = Folder("mixed");
    const auto mixed = QuantizeModel(folder, out, Batches(4), options);
    ASSERT_THAT(mixed, IsOk());

    EXPECT_LE(mixed->num_bytes, options.budget_bytes);
    // An expert's three matrices have 3 * 32 * 64 codes, 3 KB more each.
    EXPECT_GT(mixed->num_bytes, options.budget_bytes - 3500);
    int64_t some_of_a_layer = 0;
    for (const QuantizedWeight& w : mixed->weights) {
      if (w.num_experts == 0) continue;
      const int64_t wide = NumOf(w, 8);
      EXPECT_EQ(NumOf(w, 4) + wide, w.num_experts);
      some_of_a_layer += wide > 0 && wide < w.num_experts;
      EXPECT_NEAR(w.bits_per_weight,
                  4.5 + 4.0 * static_cast<double>(wide) /
                            static_cast<double>(w.num_experts),
                  1e-9);
    }
    EXPECT_GT(some_of_a_layer, 0);
    ExpectRunsPacked(out, mixed->weights.size(), 0.55);
    EXPECT_THAT(ReadFile(out + "/config.json").value(),
                AllOf(HasSubstr("\"num_bits\": 8"), HasSubstr("experts.")));

    // What all in 8 bits would take buys all; less than 4 bits cannot be.
    options.budget_bytes = int64_t{1} << 40;
    const auto all = QuantizeModel(folder, Folder("all"), Batches(4), options);
    ASSERT_THAT(all, IsOk());
    for (const QuantizedWeight& w : all->weights) {
      if (w.name == "lm_head.weight") continue;
      EXPECT_EQ(NumOf(w, 8), std::max<int64_t>(1, w.num_experts)) << w.name;
    }
    options.budget_bytes = 1000;
    EXPECT_THAT(QuantizeModel(folder, Folder("none"), Batches(4), options),
                StatusIs(kInvalid, HasSubstr("the smallest possible is ")));
  }
}

// Symmetric and asymmetric: all in 2 bits, and experts of three formats.
TEST(QuantizeModelTest, RunsTwoBitsPackedAndSpendsABudgetInSteps) {
  const std::string folder = SavedModel(Config(true), "float");
  for (const bool symmetric : {true, false}) {
    QuantizeOptions options;
    options.format = {2, 32, symmetric};
    const std::string two = Folder("int2"), four = Folder("int4");
    const auto least = QuantizeModel(folder, two, Batches(4), options);
    ASSERT_THAT(least, IsOk());
    for (const QuantizedWeight& w : least->weights) {
      if (w.name == "lm_head.weight") continue;
      EXPECT_EQ(w.bits_per_weight, symmetric ? 2.5 : 2.5625) << w.name;
    }
    options.format.bits = 4;
    const auto most = QuantizeModel(folder, four, Batches(4), options);
    ASSERT_THAT(most, IsOk());
    EXPECT_LT(least->num_bytes, most->num_bytes);

    options.format.bits = 2;
    options.budget_bytes = (least->num_bytes + most->num_bytes) / 2;
    const std::string mixed = Folder("mixed");
    const auto spent = QuantizeModel(folder, mixed, Batches(4), options);
    ASSERT_THAT(spent, IsOk());
    EXPECT_LE(spent->num_bytes, options.budget_bytes);
    int64_t in_two = 0, in_more = 0;
    for (const QuantizedWeight& w : spent->weights) {
      in_two += NumOf(w, 2);
      in_more += NumOf(w, 4) + NumOf(w, 8);
    }
    EXPECT_GT(in_two, 0);
    EXPECT_GT(in_more, 0);
    for (const std::string& out : {two, mixed}) {
      ExpectRunsPacked(out, spent->weights.size(), 0.5);
      EXPECT_THAT(ReadFile(out + "/config.json").value(),
                  HasSubstr("\"num_bits\": 2"));
    }
  }
  QuantizeOptions options;
  options.format.bits = 8;
  options.budget_bytes = 1 << 20;
  EXPECT_THAT(QuantizeModel(folder, Folder("no"), Batches(4), options),
              StatusIs(kInvalid, HasSubstr("want no format of 8")));
}

// A weight of 1 for each output.
OutputWeights AllOnes(const QuantizeResult& result, const std::string& folder) {
  const auto source = OpenModelSource(folder);
  EXPECT_THAT(source, IsOk());
  OutputWeights weights;
  for (const WeightParts& entry : source->layout.map) {
    for (const QuantizedWeight& w : result.weights) {
      if (w.name != entry.name) continue;
      weights[w.name].assign(w.num_weights / entry.shape.back(), 1);
    }
  }
  return weights;
}

TEST(QuantizeModelTest, SpendsItsBytesWhereOutputsCount) {
  const std::string folder = SavedModel(Config(false), "float");
  QuantizeOptions options;
  options.method = CalibrationMethod::kClip;
  const auto least = QuantizeModel(folder, Folder("int4"), Batches(4), options);
  ASSERT_THAT(least, IsOk());
  options.budget_bytes = least->num_bytes + 15000;
  const std::string matrix = "model.layers.1.self_attn.v_proj.weight";
  const std::string experts = "model.layers.0.mlp.experts.down_proj.weight";
  OutputWeights weights = AllOnes(*least, folder);
  for (auto& [name, of_outputs] : weights) {
    std::fill(of_outputs.begin(), of_outputs.end(), 0);
  }
  std::fill(weights[matrix].begin(), weights[matrix].end(), 1);
  // Of four experts the third; each has 64 outputs here.
  std::fill_n(weights[experts].begin() + 2 * 64, 64, 1);
  int asked = 0;
  options.output_weights = [&]() -> absl::StatusOr<OutputWeights> {
    ++asked;
    return weights;
  };

  const std::string out = Folder("mixed");
  const auto chosen = QuantizeModel(folder, out, Batches(4), options);

  ASSERT_THAT(chosen, IsOk());
  EXPECT_EQ(asked, 1);
  const auto source = OpenModelSource(out);
  ASSERT_THAT(source, IsOk());
  const auto bits_of = [&](const std::string& tensor) {
    return source->tensors.at(tensor).groups.format.bits;
  };
  EXPECT_EQ(bits_of(matrix), 8);
  EXPECT_EQ(bits_of("model.layers.0.mlp.experts.2.down_proj.weight"), 8);
  // An expert's matrices go up together.
  EXPECT_EQ(bits_of("model.layers.0.mlp.experts.2.gate_up_proj.weight"), 8);

  // Other weights, another run; the same ones go on.
  std::fill(weights[matrix].begin(), weights[matrix].end(), 0);
  const std::string stopped = Folder("stopped");
  int steps = 0;
  options.stop = [&] { return ++steps > 4; };  // 3 are of the choice.
  EXPECT_THAT(QuantizeModel(folder, stopped, Batches(4), options),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("1 of 3")));
  options.stop = nullptr;
  EXPECT_EQ(QuantizeModel(folder, stopped, Batches(4), options)->layers_resumed,
            1);
  std::filesystem::remove_all(stopped);
  steps = 0;
  options.stop = [&] { return ++steps > 4; };
  EXPECT_FALSE(QuantizeModel(folder, stopped, Batches(4), options).ok());
  options.stop = nullptr;
  weights[experts][0] = 1;
  EXPECT_EQ(QuantizeModel(folder, stopped, Batches(4), options)->layers_resumed,
            0);

  // What is missing is named, and what fails is told before any work.
  weights.erase(experts);
  EXPECT_THAT(QuantizeModel(folder, Folder("no"), Batches(4), options),
              StatusIs(kInvalid, HasSubstr(experts)));
  options.output_weights = []() -> absl::StatusOr<OutputWeights> {
    return absl::UnavailableError("none today");
  };
  const std::string none = Folder("none");
  EXPECT_THAT(
      QuantizeModel(folder, none, Batches(4), options),
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("none today")));
  EXPECT_FALSE(std::filesystem::exists(none + ".partial"));
}

TEST(QuantizeModelTest, GoesOnBehindTheLastFinishedLayer) {
  const std::string folder = SavedModel(Config(true), "float");
  const std::string whole = Folder("whole"), stopped = Folder("stopped");
  QuantizeOptions options;
  ASSERT_THAT(QuantizeModel(folder, whole, Batches(4), options), IsOk());
  int asked = 0;
  options.stop = [&] { return ++asked > 1; };
  EXPECT_THAT(
      QuantizeModel(folder, stopped, Batches(4), options),
      StatusIs(absl::StatusCode::kCancelled, HasSubstr("1 of 3 layers")));
  EXPECT_FALSE(std::filesystem::exists(stopped));
  options.stop = nullptr;
  const auto resumed = QuantizeModel(folder, stopped, Batches(4), options);
  ASSERT_THAT(resumed, IsOk());
  EXPECT_EQ(resumed->layers_resumed, 1);
  EXPECT_EQ(ReadFile(whole + "/model.safetensors").value(),
            ReadFile(stopped + "/model.safetensors").value());

  // Other tokens, another run: nothing is taken from it.
  std::filesystem::remove_all(stopped);
  asked = 0;
  options.stop = [&] { return ++asked > 1; };
  EXPECT_FALSE(QuantizeModel(folder, stopped, Batches(4), options).ok());
  options.stop = nullptr;
  const auto anew = QuantizeModel(folder, stopped, Batches(5), options);
  ASSERT_THAT(anew, IsOk());
  EXPECT_EQ(anew->layers_resumed, 0);
}

TEST(QuantizeModelTest, RunsOnTheBackendThatItIsGiven) {
  const std::string folder = SavedModel(Config(true), "model");
  const std::string out = Folder("out"), refused = Folder("refused");
  int made = 0;
  QuantizeOptions options;
  options.backend = [&made]() -> absl::StatusOr<std::unique_ptr<Backend>> {
    if (++made > 1) return absl::UnavailableError("there is one alone");
    return std::make_unique<CpuBackend>(1, AllCpuKernels());
  };
  ASSERT_THAT(QuantizeModel(folder, out, Batches(2), options), IsOk());
  EXPECT_EQ(made, 1);
  EXPECT_THAT(QuantizeModel(folder, refused, Batches(2), options),
              StatusIs(absl::StatusCode::kUnavailable, "there is one alone"));
  EXPECT_FALSE(std::filesystem::exists(refused));
}

TEST(QuantizeModelTest, CountsTheTokensOfExperts) {
  const std::string folder = SavedModel(Config(false), "float");
  const auto result =
      QuantizeModel(folder, Folder("int4"), Batches(1), QuantizeOptions());
  ASSERT_THAT(result, IsOk());
  for (const QuantizedWeight& w : result->weights) {
    if (!absl::StrContains(w.name, ".experts.gate_up")) continue;
    // 64 tokens go to 2 of 4 experts each: 32 on average, of 64 columns.
    EXPECT_EQ(w.num_experts, 4);
    EXPECT_LE(w.fewest_inputs, 32);
    EXPECT_GE(w.num_blended, 1);
  }
}

TEST(QuantizeModelTest, RefusesWhatItCannotDo) {
  const std::string folder = SavedModel(Config(false), "float");
  const std::string out = Folder("int4");
  QuantizeOptions options;
  options.format.group = 64;  // Experts have rows of 32 columns.
  EXPECT_THAT(
      QuantizeModel(folder, out, Batches(1), options),
      StatusIs(kInvalid, AllOf(HasSubstr("down_proj"), HasSubstr("64"))));
  options.rows_where_indivisible = true;
  // Without data, all columns are alike.
  const auto rows = QuantizeModel(folder, out, {}, options);
  ASSERT_THAT(rows, IsOk());
  for (const QuantizedWeight& w : rows->weights) {
    EXPECT_EQ(w.format.group, absl::StrContains(w.name, "down_proj") ? 0 : 64);
  }
  EXPECT_THAT(QuantizeModel(folder, out, Batches(1), options),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(out)));
  EXPECT_THAT(QuantizeModel(out, Folder("again"), Batches(1), options),
              StatusIs(kInvalid, HasSubstr("quantised already")));
}

TEST(QuantizeModelTest, NamesTheTensorThatHoldsANaN) {
  const std::string name = "model.layers.1.self_attn.v_proj.weight";
  const std::string folder =
      SavedModel(Config(false), "float", [&](StateStore& state) {
        state.Get(name).as<float>()[3] =
            std::numeric_limits<float>::quiet_NaN();
      });
  QuantizeOptions options;
  options.method = CalibrationMethod::kNearest;
  EXPECT_THAT(QuantizeModel(folder, Folder("int4"), {}, options),
              StatusIs(kInvalid, AllOf(HasSubstr(name), HasSubstr("NaN"))));
}

}  // namespace
}  // namespace strata
