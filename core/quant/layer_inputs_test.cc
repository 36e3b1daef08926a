#include "core/quant/layer_inputs.h"

#include <cstdint>
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
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.h"
#include "core/model/init.h"
#include "core/quant/input_moments.h"
#include "core/quant/input_taps.h"
#include "core/quant/packed_parameters.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Four of the demo's layers of two tiers, after each of which tokens may leave,
// or with flat gates; with an output projection of its own.
ModelConfig Demo(bool flat) {
  ModelConfig config = *ModelPreset("demo");
  config.set_num_layers(4);
  config.set_tie_embeddings(false);
  if (flat) {
    config.mutable_moe()->mutable_flat()->set_num_experts(8);
    config.mutable_moe()->mutable_flat()->set_k(2);
  }
  return config;
}

// Two sequences, then one.
std::vector<TokenBatch> Batches() {
  Random random(/*seed=*/9, /*stream=*/0);
  std::vector<TokenBatch> batches;
  for (const int64_t tokens : {64, 32}) {
    TokenBatch batch;
    batch.seq_len = 32;
    for (int64_t i = 0; i < tokens; ++i) {
      batch.ids.push_back(static_cast<int32_t>(random.UniformInt(96)));
      batch.targets.push_back(static_cast<int32_t>(random.UniformInt(96)));
    }
    batches.push_back(batch);
  }
  return batches;
}

class LayerInputsTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const auto graph = EvaluationOf(config_, batches_);
    ASSERT_THAT(graph, IsOk());
    ASSERT_THAT(state_.Declare(*graph), IsOk());
    InitializeParameters(config_, /*seed=*/1, state_);
    const auto names = ParametersToQuantize(config_);
    ASSERT_THAT(names, IsOk());
    names_ = *names;
    auto inputs = LayerInputs::Create(config_, batches_, backend_, state_);
    ASSERT_THAT(inputs, IsOk());
    inputs_ = *std::move(inputs);
  }

  // Matrices of layer `i`; of -1, those of none.
  std::set<std::string> NamesOf(int64_t i) const {
    const std::string prefix =
        i < 0 ? "lm_head" : absl::StrCat("model.layers.", i, ".");
    std::set<std::string> names;
    for (const std::string& name : names_) {
      if (absl::StartsWith(name, prefix)) names.insert(name);
    }
    EXPECT_FALSE(names.empty()) << prefix;
    return names;
  }
  absl::StatusOr<MomentsByName> Moments(const std::set<std::string>& names) {
    return MomentsOf(
        [&](SeeInputs see) { return inputs_->ForInputs(names, see); }, pool_);
  }
  absl::Status See(const std::set<std::string>& names) {
    return Moments(names).status();
  }

  const ModelConfig config_ = Demo(GetParam());
  const std::vector<TokenBatch> batches_ = Batches();
  CpuBackend backend_{2, AllCpuKernels()};
  ThreadPool pool_{3};
  StateStore state_{backend_};
  std::set<std::string> names_;
  std::unique_ptr<LayerInputs> inputs_;
};

// Bit for bit, with weights that change behind each layer; one is passed over.
TEST_P(LayerInputsTest, AreThoseOfTheWholeModelAsItIs) {
  ThreadPool one(1);
  for (const int64_t layer : {0, 1, 3, -1}) {
    const std::set<std::string> names = NamesOf(layer);
    const auto got = Moments(names);
    const auto want =
        CollectMoments(config_, names, batches_, backend_, state_, one);
    ASSERT_THAT(got, IsOk());
    ASSERT_THAT(want, IsOk());
    ASSERT_EQ(got->size(), names.size());
    for (const auto& [name, moments] : *want) {
      const std::vector<InputMoments>& own = got->at(name);
      ASSERT_EQ(own.size(), moments.size()) << name;
      for (size_t e = 0; e < own.size(); ++e) {
        EXPECT_EQ(own[e].count, moments[e].count) << name;
        EXPECT_EQ(own[e].sum, moments[e].sum) << name;
      }
    }
    for (const std::string& name : names) {
      for (float& w : state_.Get(name).span<float>()) w *= 0.75f;
    }
  }
}

// x x^T is symmetric, and its trace the energy of x.
TEST_P(LayerInputsTest, MomentsAreSumsOfWhatIsSeen) {
  const std::set<std::string> names = NamesOf(2);
  const auto moments = Moments(names);
  ASSERT_THAT(moments, IsOk());
  std::map<std::string, double> energy;
  ASSERT_THAT(inputs_->ForInputs(
                  names,
                  [&](const std::vector<std::string>& weights, int64_t,
                      absl::Span<const float> x, absl::Span<const int32_t>) {
                    for (const std::string& name : weights) {
                      for (const float v : x) energy[name] += double{v} * v;
                    }
                    return absl::OkStatus();
                  }),
              IsOk());
  for (const auto& [name, of_name] : *moments) {
    double trace = 0;
    for (const InputMoments& m : of_name) {
      for (int64_t i = 0; i < m.columns; ++i) {
        trace += m.sum[i * (m.columns + 1)];
        EXPECT_EQ(m.sum[i * m.columns], m.sum[i]) << name;
      }
    }
    EXPECT_NEAR(trace, energy.at(name), 1e-4 * trace) << name;
  }
}

TEST_P(LayerInputsTest, WantsLayersInTheirOrder) {
  std::set<std::string> two = NamesOf(0);
  for (const std::string& name : NamesOf(1)) two.insert(name);
  EXPECT_THAT(See(two), StatusIs(kInvalid, HasSubstr("in 2 layers")));
  EXPECT_THAT(See(NamesOf(1)), IsOk());
  EXPECT_THAT(See(NamesOf(0)),
              StatusIs(kInvalid, HasSubstr("first in 0; want one, from layer 1 "
                                           "on")));
  // By which nothing is multiplied.
  EXPECT_THAT(See({"model.norm.weight"}), IsOk());
  EXPECT_THAT(LayerInputs::Create(config_, {}, backend_, state_).status(),
              StatusIs(kInvalid, HasSubstr("no calibration data")));
}

INSTANTIATE_TEST_SUITE_P(All, LayerInputsTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Flat" : "TwoTiers";
                         });

}  // namespace
}  // namespace strata
