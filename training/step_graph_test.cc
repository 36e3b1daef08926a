// The whole model's gradient, through every operator, against differences.

#include "training/step_graph.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.h"
#include "core/model/count.h"
#include "core/model/gate.h"
#include "core/model/init.h"
#include "core/ops/collective.h"
#include "core/ops/collective_rows.h"
#include "core/ops/fused_gate.h"
#include "core/ops/optimizer.h"
#include "core/ops/tier_route.h"
#include "core/passes/bf16_training.h"
#include "core/passes/bring_together.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/config.pb.h"

namespace strata {
namespace {

using ::testing::DoubleNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;

constexpr int64_t kSequences = 2;
constexpr int64_t kSeqLen = 12;

ModelConfig Base() {
  ModelConfig config = *ModelPreset("demo");
  config.set_vocab_size(40);
  config.set_d_model(16);
  config.set_num_layers(2);
  config.set_num_dense_layers(0);
  config.mutable_attention()->set_num_heads(2);
  config.mutable_attention()->set_num_kv_heads(1);
  config.mutable_attention()->set_head_dim(8);
  config.mutable_moe()->set_expert_width(8);
  return config;
}

ModelConfig Hierarchical() {
  ModelConfig config = Base();
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.clear_tier_experts();
  gate.add_tier_experts(6);
  gate.add_tier_experts(4);
  gate.set_k_max(2);
  gate.set_energy_groups(4);
  gate.set_energy_dim(0);
  gate.set_add_coarse(false);
  gate.set_fine_width(8);
  gate.set_coarse_keep(0.5);
  gate.set_exit_threshold(0.6);  // Some tokens leave softly.
  // The distillation loss takes the fine scores as constants on purpose, which
  // differences cannot know; core/cpu/gate_loss_test.cc checks its gradient.
  gate.set_distill_weight(0);
  gate.set_cost_weight(0.2);
  return config;
}

ModelConfig Flat() {
  ModelConfig config = Base();
  FlatRouterConfig& gate = *config.mutable_moe()->mutable_flat();
  gate.set_num_experts(6);
  gate.set_k(2);
  gate.set_normalize(true);
  return config;
}

ModelConfig DeepSeek() {
  ModelConfig config = Base();
  config.set_num_dense_layers(1);
  config.set_dense_width(24);
  config.set_tie_embeddings(false);
  LatentAttentionConfig& latent = *config.mutable_attention()->mutable_latent();
  latent.set_q_rank(12);
  latent.set_kv_rank(8);
  latent.set_nope_dim(6);
  latent.set_rope_dim(4);
  latent.set_value_dim(6);
  config.mutable_moe()->set_shared_width(8);
  FlatRouterConfig& gate = *config.mutable_moe()->mutable_flat();
  gate.set_num_experts(8);
  gate.set_k(2);
  gate.set_score(FlatRouterConfig::SIGMOID);
  gate.set_normalize(true);
  gate.set_scale(2.5);
  gate.set_correction_bias(true);
  gate.set_num_groups(4);
  gate.set_top_groups(2);
  return config;
}

class ModelGradientTest : public ::testing::Test {
 protected:
  void Build(const ModelConfig& config, bool fused = false,
             bool together = false) {
    config_ = config;
    auto step = BuildGradientGraph(config, kSequences, kSeqLen, DType::kF64,
                                   RouteSource::kGate, MeshPlace(),
                                   GradientSums(), fused);
    ASSERT_THAT(step, IsOk());
    if (together) step->graph = BringTogether(step->graph);
    auto program = Program::Compile(std::move(step->graph), backend_, state_);
    ASSERT_THAT(program, IsOk());
    program_ = *std::move(program);
    InitializeParameters(config, /*seed=*/3, state_);
    FeedTiers();
    FillInputs(config);
  }

  // What feeds a tier begins at zero, where nothing flows back through it.
  void FeedTiers() {
    for (const std::string& name : state_.names()) {
      if (state_.role(name) != Role::kParameter ||
          !absl::EndsWith(name, ".feed.weight")) {
        continue;
      }
      for (double& x : state_.Get(name).span<double>()) {
        EXPECT_EQ(x, 0) << name;
        x = 0.5;
      }
    }
  }

  void FillInputs(const ModelConfig& config) {
    if (program_->HasInput("tau")) *program_->Input("tau").as<double>() = 0.4;
    *program_->Input("num_tokens").as<int32_t>() = kSequences * kSeqLen;
    *program_->Input("keep").as<double>() = 0;
    for (int64_t i = 0; i < kSequences * kSeqLen; ++i) {
      program_->Input("ids").as<int32_t>()[i] =
          static_cast<int32_t>((i * 7 + 3) % config.vocab_size());
      program_->Input("target").as<int32_t>()[i] =
          static_cast<int32_t>((i * 7 + 10) % config.vocab_size());
      program_->Input("position").as<int32_t>()[i] =
          static_cast<int32_t>(i % kSeqLen);
    }
    for (int64_t s = 0; s <= kSequences; ++s) {
      program_->Input("seq_start").as<int32_t>()[s] =
          static_cast<int32_t>(s * kSeqLen);
    }
  }

  // Of a run, by the names of sums; the losses beside them.
  std::map<std::string, std::vector<double>> Gradients() {
    std::map<std::string, std::vector<double>> all = {
        {"total_loss", {Loss()}},
        {"loss", {*program_->Output("loss").as<double>()}}};
    for (const std::string& name : state_.names()) {
      if (!absl::StartsWith(name, "grad.")) continue;
      const auto grad = state_.Get(name).span<double>();
      all[name].assign(grad.begin(), grad.end());
    }
    return all;
  }

  double Loss() {
    EXPECT_THAT(program_->Run(), IsOk());
    return *program_->Output("total_loss").as<double>();
  }

  // Compares a few elements of every parameter. Choices of experts are hard, so
  // a difference taken across one is not a derivative: such an element, seen by
  // one-sided slopes that disagree, is left out, but few may be.
  void CheckAllParameters() {
    constexpr double kStep = 1e-6;
    constexpr double kTolerance = 2e-5;
    Loss();
    int compared = 0;
    int left_out = 0;
    for (const std::string& name : state_.names()) {
      if (state_.role(name) != Role::kParameter) continue;
      const TensorView view = state_.Get(name);
      if (!state_.Has("grad." + name)) {
        // Where the coarse score is no part of the affinity, distillation,
        // which is off here, is all that teaches it.
        EXPECT_THAT(name, HasSubstr("gate.key.weight"));
        EXPECT_FALSE(config_.moe().hierarchical().add_coarse());
        continue;
      }
      double* x = view.as<double>();
      for (int64_t i = 0; i < view.num_elements();
           i += 1 + view.num_elements() / 5) {
        const double here = Loss();
        const double grad = state_.Get("grad." + name).as<double>()[i];
        const double kept = x[i];
        x[i] = kept + kStep;
        const double above = Loss();
        x[i] = kept - kStep;
        const double below = Loss();
        x[i] = kept;
        const double right = (above - here) / kStep;
        const double left = (here - below) / kStep;
        if (std::abs(right - left) > 1e-3 * std::max(1.0, std::abs(right))) {
          ++left_out;
          continue;
        }
        ++compared;
        EXPECT_NEAR(grad, (above - below) / (2 * kStep), kTolerance)
            << name << "[" << i << "]";
      }
    }
    EXPECT_GT(compared, 80);
    EXPECT_LT(left_out, compared / 20);
  }

  // Sums of a few hundred terms of at most some units, in other orders, go
  // through a few dozen operators to a gradient: 1e-12 is 5,000 roundings of 1.
  void CheckFused(const ModelConfig& config) {
    Build(config);
    const auto want = Gradients();
    const size_t nodes = program_->graph().nodes().size();
    Build(config, /*fused=*/true);
    const auto got = Gradients();
    EXPECT_LT(program_->graph().nodes().size(), nodes);
    ASSERT_EQ(got.size(), want.size());
    for (const auto& [name, grad] : want) {
      EXPECT_THAT(got.at(name), Pointwise(DoubleNear(1e-12), grad)) << name;
    }
  }

  ModelConfig config_;
  CpuBackend backend_{/*num_threads=*/2, AllCpuKernels()};
  StateStore state_{backend_};
  std::unique_ptr<Program> program_;
};

TEST_F(ModelGradientTest, Hierarchical) {
  Build(Hierarchical());
  CheckAllParameters();
  // In training no token leaves, so that what would have made it stay is
  // learned.
  EXPECT_EQ(*program_->Output("router.0.1.tokens").as<int32_t>(),
            kSequences * kSeqLen);
}

TEST_F(ModelGradientTest, HierarchicalWithLearnedSubspaces) {
  ModelConfig config = Hierarchical();
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.set_energy_dim(2);
  gate.set_add_coarse(true);
  Build(config);
  CheckAllParameters();
}

TEST_F(ModelGradientTest, HierarchicalWhoseTiersReadTheUpdatedStream) {
  ModelConfig config = Hierarchical();
  config.mutable_moe()->set_shared_width(8);
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.set_tier_input(HierarchicalRouterConfig::UPDATED);
  gate.set_balance_weight(0);
  Build(config);
  CheckAllParameters();
}

// Every option that ablations switch; the graph has as many parameters as the
// closed form counts.
TEST_F(ModelGradientTest, HierarchicalOverSlotsWithoutAFineStage) {
  ModelConfig config = Hierarchical();
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.set_combine(HierarchicalRouterConfig::CONCAT);
  gate.set_k_max(3);
  gate.set_coarse_keep(1);
  gate.set_fine_width(0);
  gate.set_add_coarse(true);
  gate.set_energy_dim(2);
  gate.set_scale(2);
  Build(config);
  CheckAllParameters();
  EXPECT_EQ(CountElements(program_->graph(), Role::kParameter),
            CountParameters(config));
}

TEST_F(ModelGradientTest, HierarchicalWeighedBySoftmax) {
  ModelConfig config = Hierarchical();
  config.mutable_moe()->mutable_hierarchical()->set_weigh_by(
      HierarchicalRouterConfig::SOFTMAX);
  Build(config);
  CheckAllParameters();
}

TEST_F(ModelGradientTest, HierarchicalWithTheBiasOnTheWeightsAndTauAnInput) {
  ModelConfig config = Hierarchical();
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.set_bias_use(HierarchicalRouterConfig::WEIGHT);
  gate.set_tau(0.2);
  gate.set_tau_start(0.9);
  gate.set_tau_anneal(0.5);
  Build(config);
  CheckAllParameters();
}

TEST_F(ModelGradientTest, FlatWithEachLossAndTopP) {
  ModelConfig config = Flat();
  FlatRouterConfig& gate = *config.mutable_moe()->mutable_flat();
  gate.set_choice(FlatRouterConfig::TOP_P);
  gate.set_top_p(0.6);
  gate.set_k(4);
  gate.set_balance_weight(0.2);
  gate.set_balance_per_sequence(true);
  gate.set_z_weight(0.1);
  Build(config);
  CheckAllParameters();
}

TEST_F(ModelGradientTest, FlatExpertChoice) {
  ModelConfig config = Flat();
  config.mutable_moe()->mutable_flat()->set_choice(
      FlatRouterConfig::EXPERT_CHOICE);
  Build(config);
  CheckAllParameters();
}

TEST_F(ModelGradientTest, FlatSoftmax) {
  Build(Flat());
  CheckAllParameters();
}

TEST_F(ModelGradientTest, LatentAttentionDenseLayerAndGroupLimitedSigmoid) {
  Build(DeepSeek());
  CheckAllParameters();
}

TEST_F(ModelGradientTest, FusedOperatorsFindTheSameAsThoseTheyStandFor) {
  ModelConfig config = Hierarchical();
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.set_distill_weight(0.3);
  gate.set_balance_weight(0.1);
  CheckFused(config);
}

// Of more columns than TierRoute takes, of which the CPU has no kernel:
// cuda/ops/route:tier_route_test holds it to the operators here.
TEST_F(ModelGradientTest, FusedOperatorsOverLearnedSubspacesToo) {
  ModelConfig config = Hierarchical();
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.set_energy_groups(TierRouteLimits::kEnergies / 3 + 1);
  gate.set_energy_dim(3);
  gate.set_add_coarse(true);
  CheckFused(config);
}

// To the bit: each operator is given what it was given before.
TEST_F(ModelGradientTest, OperatorsInAnotherOrderFindTheSame) {
  for (const bool fused : {false, true}) {
    Build(Hierarchical(), fused);
    const auto want = Gradients();
    Build(Hierarchical(), fused, /*together=*/true);
    EXPECT_EQ(Gradients(), want);
    const Graph& graph = program_->graph();
    EXPECT_EQ(graph.nodes()[0].op == &kExpertContext, fused);
    EXPECT_EQ(graph.nodes().back().op, &kAccumulate);
  }
}

// Else the memory of a large model's step is that of all its gradients.
TEST(GradientGraphTest, AccumulatesEachGradientBeforeTheNextButOne) {
  const auto step = BuildGradientGraph(DeepSeek(), kSequences, kSeqLen);
  ASSERT_THAT(step, IsOk());
  const Graph& graph = step->graph;
  std::vector<ValueId> waiting;
  size_t most_waiting = 0;
  int num_accumulated = 0;
  for (const Node& node : graph.nodes()) {
    if (node.op->name == kAccumulate.name) {
      const auto it = std::find(waiting.begin(), waiting.end(), node.inputs[1]);
      ASSERT_NE(it, waiting.end());
      waiting.erase(it);
      ++num_accumulated;
    } else if (node.phase == Phase::kWeightGrad) {
      waiting.push_back(node.outputs[0]);
      most_waiting = std::max(most_waiting, waiting.size());
    }
  }

  EXPECT_EQ(
      num_accumulated,
      static_cast<int>(std::count_if(
          graph.values().begin(), graph.values().end(),
          [](const Value& value) { return value.role == Role::kParameter; })));
  EXPECT_LE(most_waiting, 2);
  EXPECT_EQ(waiting.size(), 0);
}

// The graph as it was before some of its values became BF16, which operators
// do not infer.
Graph InF32(const Graph& graph) {
  std::vector<Value> values = graph.values();
  for (Value& value : values) {
    if (value.type.dtype == DType::kBF16) value.type.dtype = DType::kF32;
  }
  Graph wide;
  CopyValues(values, std::vector<bool>(values.size(), true), wide);
  for (const Node& node : graph.nodes()) wide.AddNode(node);
  return wide;
}

// Rows of experts are sized by a value that the plan makes behind them: what a
// graph becomes has them as their operators infer them.
void ExpectDimsAsInferred(const Graph& graph) {
  ASSERT_THAT(Verify(graph), IsOk());
  int ragged = 0;
  for (const Node& node : graph.nodes()) {
    const auto types = node.op->infer({graph, node.inputs, {}, node.attrs});
    ASSERT_THAT(types, IsOk()) << node.scope << "/" << node.op->name;
    for (size_t i = 0; i < types->size(); ++i) {
      Dims want = (*types)[i].dims;
      for (Dim& dim : want) {  // -2 - j is what the node makes as its jth.
        if (dim.count < kNone) dim.count = node.outputs[-2 - dim.count];
        ragged += dim.ragged() ? 1 : 0;
      }
      EXPECT_TRUE(graph.value(node.outputs[i]).type.dims == want)
          << node.scope << "/" << node.op->name << ", output " << i;
    }
  }
  EXPECT_GT(ragged, 0);
}

TEST(StepGraphTest, PassesKeepWhatSizesRows) {
  for (const ModelConfig& config : {Flat(), Hierarchical(), DeepSeek()}) {
    const auto evaluation = BuildEvaluationGraph(
        config, kSequences, kSeqLen, DType::kF32, RouteSource::kGate, {});
    ASSERT_THAT(evaluation, IsOk());
    const auto step =
        BuildGradientGraph(config, kSequences, kSeqLen, DType::kF32);
    ASSERT_THAT(step, IsOk());
    ExpectDimsAsInferred(step->graph);
    const StepGraph less = InLessMemory(*step);
    ExpectDimsAsInferred(less.graph);
    ExpectDimsAsInferred(InLessMemory(*evaluation).graph);
    const std::set<std::string> weights = Bf16Weights(evaluation->graph);
    EXPECT_EQ(Bf16Weights(InLessMemory(*evaluation).graph), weights);
    const auto narrow = InBf16(less, weights);
    ASSERT_THAT(narrow, IsOk());
    ExpectDimsAsInferred(InF32(narrow->graph));
    const auto whole = InBf16(*step, weights);
    ASSERT_THAT(whole, IsOk());
    EXPECT_THAT(SplitPhases(whole->graph), IsOk());
  }
}

// Weights are chosen by the model's own graph, and read by fused operators too.
TEST(StepGraphTest, FusedOperatorsTakeTheWeightsThatAreBf16) {
  for (const ModelConfig& config : {Flat(), Hierarchical(), DeepSeek()}) {
    const auto model = BuildEvaluationGraph(
        config, kSequences, kSeqLen, DType::kF32, RouteSource::kGate, {});
    ASSERT_THAT(model, IsOk());
    std::set<std::string> weights = Bf16Weights(model->graph);
    const auto step = BuildGradientGraph(
        config, kSequences, kSeqLen, DType::kF32, RouteSource::kGate,
        MeshPlace(), GradientSums(), /*fused=*/true);
    ASSERT_THAT(step, IsOk());
    EXPECT_THAT(InBf16(InLessMemory(*step), weights), IsOk());
    // A gain is read by norms, which take none in BF16.
    weights.insert("model.norm.weight");
    EXPECT_THAT(InBf16(*step, weights),
                StatusIs(absl::StatusCode::kInternal,
                         HasSubstr("RmsNorm reads model.norm.weight")));
  }
}

// Of two ranks that share experts out: products read rows as they came, so all
// of a layer's exchanges bring BF16, and what ranks add up is as its weight.
TEST(Bf16OnRanksTest, RowsGoAndGradientsAreAddedUpInBf16) {
  MeshPlace place;
  place.shape.ep = 2;
  for (const ModelConfig& config : {Flat(), Hierarchical()}) {
    const auto model = BuildEvaluationGraph(
        config, kSequences, kSeqLen, DType::kF32, RouteSource::kGate, {});
    ASSERT_THAT(model, IsOk());
    const std::set<std::string> weights = Bf16Weights(model->graph);
    const auto step = BuildGradientGraph(
        config, kSequences, kSeqLen, DType::kF32, RouteSource::kGate, place);
    ASSERT_THAT(step, IsOk());
    RankSums sums;
    sums.over_ranks = true;
    sums.place = place;
    sums.shards = step->shards;
    const auto update =
        BuildUpdateGraph(step->graph, config, TrainConfig(), sums);
    ASSERT_THAT(update, IsOk());

    const auto in_bf16 = InBf16(InLessMemory(*step), weights);
    ASSERT_THAT(in_bf16, IsOk());
    const Graph& gradients = in_bf16->graph;
    const Graph narrow = UpdateInBf16(*update, weights);

    int exchanges = 0, added = 0;
    for (const Node& node : gradients.nodes()) {
      if (node.op != &kSendRows && node.op != &kReturnRows) continue;
      ++exchanges;
      EXPECT_EQ(gradients.value(node.outputs[0]).type.dtype, DType::kBF16)
          << node.scope;
    }
    for (const Node& node : narrow.nodes()) {
      if (node.op != &kAllReduce) continue;
      for (const ValueId id : node.inputs) {
        const Value& sum = narrow.value(id);
        const std::string name(absl::StripPrefix(sum.name, "grad."));
        if (name == sum.name) continue;  // A gate's counts.
        ++added;
        EXPECT_EQ(sum.type.dtype,
                  weights.count(name) > 0 ? DType::kBF16 : DType::kF32)
            << name;
      }
    }
    EXPECT_GT(exchanges, 0);
    EXPECT_GT(added, 0);
  }
}

// With F32 state, rows of experts alone are BF16: on their way to ranks, and
// all that products make of them.
TEST(Bf16OnRanksTest, WithStateInF32RowsOfExpertsAloneAreNarrow) {
  for (const int ep : {1, 2}) {
    MeshPlace place;
    place.shape.ep = ep;
    const auto step =
        BuildGradientGraph(Hierarchical(), kSequences, kSeqLen, DType::kF32,
                           RouteSource::kGate, place);
    ASSERT_THAT(step, IsOk());
    StepGraph less = InLessMemory(*step);

    less.graph = ExpertRowsInBf16(less.graph);

    const Graph& graph = less.graph;
    const auto is_narrow = [&](ValueId id) {
      return graph.value(id).type.dtype == DType::kBF16;
    };
    std::map<std::string, int> narrow;
    for (const Node& node : graph.nodes()) {
      const std::string op(node.op->name);
      for (const ValueId id : node.outputs) narrow[op] += is_narrow(id);
      if (node.op == &kSendRows || node.op == &kReturnRows) {
        EXPECT_TRUE(is_narrow(node.inputs[0])) << node.scope << "/" << op;
        EXPECT_TRUE(is_narrow(node.outputs[0])) << node.scope << "/" << op;
      }
    }
    EXPECT_GT(narrow["GroupedMatMul"], 0);
    EXPECT_GT(narrow["DispatchRows"], 0);
    EXPECT_GT(narrow["SwiGlu"], 0);
    EXPECT_EQ(narrow["SendRows"] > 0, ep > 1);
    for (const std::string op : {"CombineRows", "Add", "MatMul", "RmsNorm",
                                 "Attention", "RmsNormInputGrad"}) {
      EXPECT_EQ(narrow[op], 0) << op;
    }
    for (const Value& value : graph.values()) {
      if (value.role != Role::kActivation) {
        EXPECT_NE(value.type.dtype, DType::kBF16) << value.name;
      }
    }
    ExpectDimsAsInferred(InF32(graph));
  }
}

}  // namespace
}  // namespace strata
