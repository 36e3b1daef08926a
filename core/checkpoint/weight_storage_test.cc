#include "core/checkpoint/weight_storage.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/checkpoint/convert_model.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/tiny_checkpoints.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/decoder.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A fresh folder of the running test.
std::string Folder(const std::string& name) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string folder =
      absl::StrCat(::testing::TempDir(), "/storage.",
                   absl::StrReplaceAll(test->name(), {{"/", "_"}}), ".", name);
  std::filesystem::remove_all(folder);
  return folder;
}

struct Loaded {
  std::map<std::string, std::vector<float>> numbers;
  std::map<std::string, DType> dtype;
};

Loaded Load(const std::string& folder, WeightStorage storage) {
  CpuBackend backend(1, AllCpuKernels());
  StateStore state(backend);
  const auto config = LoadModelConfig(folder);
  EXPECT_THAT(config, IsOk());
  EXPECT_THAT(LoadModelWeights(folder, *config, state, nullptr, storage),
              IsOk());
  Loaded loaded;
  for (const std::string& name : state.names()) {
    const TensorView& view = state.Get(name);
    loaded.dtype[name] = view.dtype;
    std::vector<float>& numbers = loaded.numbers[name];
    if (view.dtype == DType::kBF16) {
      for (const BFloat16 x : view.span<BFloat16>()) {
        numbers.push_back(Widen(x));
      }
    } else {
      const auto values = view.span<float>();
      numbers.assign(values.begin(), values.end());
    }
  }
  return loaded;
}

class EveryTinyCheckpoint : public ::testing::TestWithParam<TinyConfig> {};

// The numbers are those that F32 has, whichever way they lie on disk: experts
// in tensors of their own, or, converted, all in one.
TEST_P(EveryTinyCheckpoint, HoldsTheSameNumbersInBFloat16) {
  const std::string text = GetParam().json;
  const std::string folder = Folder("public"), own = Folder("own");
  WriteCheckpoint(folder, text, RandomWeights(text, DType::kBF16),
                  /*max_shard_bytes=*/4000);
  const auto source = OpenModelSource(folder);
  ASSERT_THAT(source, IsOk());
  ConvertOptions options;
  options.to = ModelFormat::kStrata;
  ASSERT_THAT(ConvertModel(*source, own, options), IsOk());

  const Loaded wide = Load(folder, WeightStorage::kF32);
  int num_narrow = 0;
  for (const std::string& from : {folder, own}) {
    for (const WeightStorage storage :
         {WeightStorage::kAsStored, WeightStorage::kBF16}) {
      const Loaded narrow = Load(from, storage);
      EXPECT_EQ(narrow.numbers, wide.numbers);
      for (const auto& [name, dtype] : narrow.dtype) {
        // Not vectors, and not what absorbed attention takes apart.
        const bool is_wide = absl::StrContains(name, "norm") ||
                             absl::EndsWith(name, "bias") ||
                             absl::StrContains(name, "kv_b_proj");
        EXPECT_EQ(dtype, is_wide ? DType::kF32 : DType::kBF16) << name;
        num_narrow += dtype == DType::kBF16;
      }
    }
  }
  EXPECT_GT(num_narrow, 0);
}

TEST_P(EveryTinyCheckpoint, StaysWideWhereTheFileIs) {
  const std::string text = GetParam().json;
  const std::string folder = Folder("wide");
  WriteCheckpoint(folder, text, RandomWeights(text, DType::kF32));
  for (const auto& [name, dtype] :
       Load(folder, WeightStorage::kAsStored).dtype) {
    EXPECT_EQ(dtype, DType::kF32) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Storage, EveryTinyCheckpoint,
                         ::testing::ValuesIn(TinyConfigs()),
                         [](const auto& info) {
                           return std::string(info.param.name);
                         });

TEST(WeightStorageTest, ReadsInPlaceWhatLiesInOrder) {
  const std::string text = TinyConfigText("llama");
  const std::string folder = Folder("mapped");
  WriteCheckpoint(folder, text, RandomWeights(text, DType::kBF16));
  const auto config = LoadModelConfig(folder);
  ASSERT_THAT(config, IsOk());
  auto opened = WeightFiles::Open(folder);
  ASSERT_THAT(opened, IsOk());
  const auto files = std::make_shared<const WeightFiles>(*std::move(opened));
  CpuBackend backend(1, AllCpuKernels());
  StateStore state(backend);

  const WeightParts in_order = {
      "together", {40, 24}, {"lm_head.weight"}, {40, 24}};
  // The file has them in the order of their names.
  const std::string mlp = "model.layers.0.mlp.";
  const WeightParts apart = {"apart",
                             {40, 24},
                             {mlp + "up_proj.weight", mlp + "gate_proj.weight"},
                             {20, 24}};
  AdoptInPlace({in_order, apart}, {"together", "apart"}, files, state);

  ASSERT_TRUE(state.Has("together"));
  EXPECT_EQ(state.Get("together").data,
            files->tensors().at("lm_head.weight").view.data);
  EXPECT_FALSE(state.Has("apart"));
}

TEST(WeightStorageTest, RefusesNumbersThatAreNotFinite) {
  const std::string text = TinyConfigText("llama");
  for (const auto& [bits, what] : std::vector<std::pair<uint16_t, std::string>>{
           {0x7FC0, "a NaN"}, {0xFF80, "an infinity"}}) {
    for (const std::string& name :
         {std::string("lm_head.weight"), std::string("model.norm.weight")}) {
      TinyTensors tensors = RandomWeights(text, DType::kBF16);
      std::string& bytes = tensors[name].bytes;
      bytes[10] = static_cast<char>(bits & 255);
      bytes[11] = static_cast<char>(bits >> 8);
      const std::string folder = Folder("broken");
      WriteCheckpoint(folder, text, tensors);
      const auto config = LoadModelConfig(folder);
      ASSERT_THAT(config, IsOk());
      CpuBackend backend(1, AllCpuKernels());
      StateStore state(backend);
      EXPECT_THAT(LoadModelWeights(folder, *config, state, nullptr,
                                   WeightStorage::kAsStored),
                  StatusIs(absl::StatusCode::kInvalidArgument,
                           AllOf(HasSubstr(name), HasSubstr(what),
                                 HasSubstr("at element 5"))));
    }
  }
}

// Absorbed attention takes this matrix apart by heads, which only F32 can be.
TEST(WeightStorageTest, AProgramThatCannotReadBFloat16SaysSo) {
  const std::string text = TinyConfigText("deepseek_v2");
  const std::string folder = Folder("absorbed");
  WriteCheckpoint(folder, text, RandomWeights(text, DType::kF32));
  const auto config = LoadModelConfig(folder);
  ASSERT_THAT(config, IsOk());
  CpuBackend backend(1, AllCpuKernels());
  StateStore state(backend);
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kGenerate;
  options.max_tokens = 1;
  BuildDecoder(builder, *config, options);
  auto graph = builder.Finish();
  ASSERT_THAT(graph, IsOk());
  const std::string name = "model.layers.0.self_attn.kv_b_proj.weight";
  TensorView view;
  view.dtype = DType::kBF16;
  for (const Dim& dim : graph->value(graph->FindSource(name)).type.dims) {
    view.shape.push_back(dim.bound);
  }
  auto memory = backend.Allocate(view.num_bytes());
  ASSERT_THAT(memory, IsOk());
  view.data = (*memory)->data();
  state.Adopt(name, view, Role::kParameter, *std::move(memory));
  EXPECT_THAT(Program::Compile(*std::move(graph), backend, state),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr(name), HasSubstr("BF16"))));
}

}  // namespace
}  // namespace strata
