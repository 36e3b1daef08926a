#include "sim/workload/training_step.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/config.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/workload/simulator.h"

namespace strata::sim {
namespace {

using ::testing::HasSubstr;

constexpr char kDense[] = "layers=8 hidden=1024 heads=16 ffn=4096 vocab=32000";
constexpr char kExperts[] =
    "layers=8 hidden=1024 heads=16 vocab=32000 experts=32 top_k=4 "
    "expert_ffn=512";

// A machine of round numbers and steps on it.
class TrainingStepTest : public ::testing::Test {
 protected:
  TrainingStepTest()
      : kernels_({/*bf16_flops=*/1e15, /*fp8_flops=*/2e15,
                  /*memory_bytes=*/3e12}),
        network_({/*gpus_per_node=*/8, /*node_bytes=*/200e9,
                  /*fabric_bytes=*/50e9, /*node_latency=*/0,
                  /*fabric_latency=*/0}) {}

  StepInputs Inputs(const std::string& model, const std::string& layout,
                    PipelineKind schedule, int gpus) {
    absl::StatusOr<ModelGraph> graph = ModelGraph::Create(*ParseModel(model));
    EXPECT_THAT(graph, IsOk());
    graphs_.push_back(std::make_unique<ModelGraph>(*std::move(graph)));
    StepInputs inputs;
    inputs.model = graphs_.back().get();
    const absl::StatusOr<Layout> full =
        LayoutFor(*ParseLayout(layout), inputs.model->config(), schedule, gpus);
    EXPECT_THAT(full, IsOk());
    inputs.layout = *full;
    inputs.schedule = schedule;
    inputs.machine.num_gpus = gpus;
    inputs.machine.bf16_flops = 1e15;
    inputs.machine.memory_bytes = 80e9;
    inputs.machine.memory_bytes_per_second = 3e12;
    inputs.machine.num_sms = 100;
    inputs.machine.watts = 1000.0 * gpus;
    inputs.machine.dollars_per_hour = 2.0 * gpus;
    inputs.kernels = &kernels_;
    inputs.network = &network_;
    return inputs;
  }

  StepResult Run(const StepInputs& inputs) {
    absl::StatusOr<StepResult> result = SimulateStep(inputs);
    EXPECT_THAT(result, IsOk());
    return *std::move(result);
  }

  static double PartOf(const StepResult& result, const std::string& name) {
    for (const StepPart& part : result.parts) {
      if (part.name == name) return part.seconds;
    }
    return 0;
  }

  RooflineKernels kernels_;
  TwoLevelComm network_;
  std::vector<std::unique_ptr<ModelGraph>> graphs_;
};

TEST_F(TrainingStepTest, PartsAddUpToTheStep) {
  for (const PipelineKind schedule :
       {PipelineKind::kGPipe, PipelineKind::k1F1B, PipelineKind::kZbH1,
        PipelineKind::kZb1p, PipelineKind::kDualPipe}) {
    const StepResult result =
        Run(Inputs(kExperts, "pp4,ep8,gbs128,seq1024", schedule, 32));
    double sum = 0;
    for (const StepPart& part : result.parts) sum += part.seconds;
    // Items are rounded to picoseconds: 2000 of them.
    EXPECT_NEAR(sum, result.seconds, 1e-8) << Name(schedule);
  }
}

TEST_F(TrainingStepTest, OneGpuTakesTheSumOfItsKernels) {
  // All products at the peak: 6 FLOPs a parameter and token, causal attention
  // and its scores again (a quarter of the gradient's).
  StepInputs inputs = Inputs(kDense, "gbs1,seq4096", PipelineKind::k1F1B, 1);
  RooflineKernels::Rates rates;
  rates.bf16_flops = 1e15;
  rates.memory_bytes = 1e30;
  const RooflineKernels kernels(rates);
  inputs.kernels = &kernels;
  inputs.machine.memory_bytes_per_second = 1e30;

  const StepResult result = Run(inputs);

  const ModelGraph::Flops flops = inputs.model->FlopsOfSequence(4096);
  const double expected =
      (flops.products + flops.causal_attention * (1 + 0.25 * 2 / 3)) / 1e15;
  EXPECT_NEAR(result.seconds, expected, 1e-6 * expected);
  EXPECT_NEAR(result.mfu_causal,
              (flops.products + flops.causal_attention) / 1e15 / expected,
              1e-6);
  EXPECT_NEAR(result.tokens_per_second, 4096 / expected, 1e-3);
}

TEST_F(TrainingStepTest, TensorParallelismDividesProductsAndCommunicates) {
  // Products are as fast as their FLOPs.
  const RooflineKernels kernels({/*bf16_flops=*/1e15, /*fp8_flops=*/2e15,
                                 /*memory_bytes=*/1e30});
  const auto run = [&](const std::string& layout) {
    StepInputs inputs = Inputs(kDense, layout, PipelineKind::k1F1B, 8);
    inputs.kernels = &kernels;
    return Run(inputs);
  };
  const StepResult one = run("gbs8,seq2048");
  const StepResult cut = run("tp8,gbs8,seq2048,sp");
  // Eight sequences, one after the other, each cut by eight.
  EXPECT_NEAR(PartOf(cut, "dense products"), PartOf(one, "dense products"),
              1e-9 * PartOf(one, "dense products"));
  EXPECT_EQ(PartOf(one, "exposed tensor parallel"), 0);
  EXPECT_GT(PartOf(cut, "exposed tensor parallel"), 0);
  // Without sequence parallelism an all-reduce takes what all-gather and
  // reduce-scatter do, and the gradients gather nothing again.
  const StepResult whole = run("tp8,gbs8,seq2048");
  EXPECT_NEAR(PartOf(cut, "exposed tensor parallel") /
                  PartOf(whole, "exposed tensor parallel"),
              5.0 / 4, 0.02);
}

TEST_F(TrainingStepTest, RecomputationCostsTimeAndSavesMemory) {
  const auto run = [&](const std::string& recompute) {
    return Run(Inputs(kDense, "pp4,gbs32,mbs2,seq4096,recompute=" + recompute,
                      PipelineKind::k1F1B, 4));
  };
  const StepResult none = run("none");
  const StepResult selective = run("selective");
  const StepResult full = run("full");

  EXPECT_LT(none.seconds, selective.seconds);
  EXPECT_LT(selective.seconds, full.seconds);
  EXPECT_GT(none.memory.activations, selective.memory.activations);
  EXPECT_GT(selective.memory.activations, full.memory.activations);
  // The model's FLOPs are the same.
  EXPECT_EQ(none.flops_causal, full.flops_causal);
}

TEST_F(TrainingStepTest, ZeroShardsTheOptimizerThenGradientsThenWeights) {
  const auto run = [&](const std::string& zero) {
    return Run(Inputs(kDense, "gbs8,seq1024," + zero, PipelineKind::k1F1B, 8))
        .memory;
  };
  const Footprint zero0 = run("zero0");
  const Footprint zero1 = run("zero1");
  const Footprint zero2 = run("zero2");
  const Footprint zero3 = run("zero3");
  EXPECT_NEAR(zero0.optimizer, 8 * zero1.optimizer, 1);
  EXPECT_EQ(zero0.gradients, zero1.gradients);
  EXPECT_NEAR(zero1.gradients, 8 * zero2.gradients, 1);
  EXPECT_EQ(zero2.weights, zero1.weights);
  EXPECT_NEAR(zero2.weights, 8 * zero3.weights, 1);
}

TEST_F(TrainingStepTest, OutOfMemoryIsAVerdictWithItsParts) {
  StepInputs inputs = Inputs(kDense, "gbs1,seq4096", PipelineKind::k1F1B, 1);
  inputs.machine.memory_bytes = 1e9;

  const StepResult result = Run(inputs);

  EXPECT_FALSE(result.memory.fits());
  ASSERT_FALSE(result.warnings.empty());
  EXPECT_THAT(result.warnings[0], HasSubstr("out of memory"));
  EXPECT_THAT(result.warnings[0], HasSubstr("optimizer"));
}

TEST_F(TrainingStepTest, UnevenLoadsCostWhatEvenOnesDoNot) {
  StepInputs inputs =
      Inputs(kExperts, "ep8,gbs8,seq4096", PipelineKind::k1F1B, 8);
  const StepResult even = Run(inputs);
  inputs.loads = PowerLawLoads(inputs.model->gates(), 1.0, 7);
  const StepResult uneven = Run(inputs);

  EXPECT_EQ(even.expert_max_over_mean, 1);
  EXPECT_GT(uneven.expert_max_over_mean, 1.2);
  EXPECT_NEAR(uneven.imbalance_seconds, uneven.seconds - even.seconds, 1e-12);
  EXPECT_GT(uneven.imbalance_seconds, 0);
}

TEST_F(TrainingStepTest, ASlowRankSlowsItsStage) {
  StepInputs inputs =
      Inputs(kDense, "pp4,gbs32,seq2048", PipelineKind::k1F1B, 8);
  const StepResult steady = Run(inputs);
  inputs.machine.slowdown.assign(8, 1);
  // Of stage 2: ranks 4 and 5. The last stage, with the output, has twice the
  // work of the others.
  inputs.machine.slowdown[5] = 3;
  const StepResult slow = Run(inputs);

  EXPECT_NEAR(slow.devices[2].busy_seconds, 3 * steady.devices[2].busy_seconds,
              1e-6 * steady.devices[2].busy_seconds);
  EXPECT_EQ(slow.devices[1].busy_seconds, steady.devices[1].busy_seconds);
  EXPECT_NEAR(slow.straggler_seconds, slow.seconds - steady.seconds, 1e-12);
  EXPECT_EQ(slow.busiest_device, 2);
  EXPECT_GT(PartOf(slow, "slow ranks' own"), 0);
}

TEST_F(TrainingStepTest, DualPipeHidesDispatchUnderTheOtherDirection) {
  const StepResult plain = Run(Inputs(
      kExperts, "pp4,ep16,gbs256,seq4096,deepep", PipelineKind::k1F1B, 64));
  const StepResult dual = Run(Inputs(kExperts, "pp4,ep16,gbs256,seq4096,deepep",
                                     PipelineKind::kDualPipe, 64));
  EXPECT_LT(PartOf(dual, "exposed dispatch and combine"),
            PartOf(plain, "exposed dispatch and combine"));
}

TEST_F(TrainingStepTest, DispatchUnderTheOtherMicroBatchTakesSms) {
  StepInputs inputs =
      Inputs(kExperts, "ep8,gbs8,seq4096,deepep", PipelineKind::k1F1B, 8);
  const StepResult seen = Run(inputs);
  inputs.layout.overlap_expert = true;
  const StepResult hidden = Run(inputs);
  inputs.software.unmeasured.collective_sms = 50;
  const StepResult on_more = Run(inputs);

  const double comm = PartOf(seen, "exposed dispatch and combine");
  const double left = PartOf(hidden, "exposed dispatch and combine");
  EXPECT_GT(comm, left);
  // 20 of 100 SMs, and 50 of them, while it runs.
  EXPECT_NEAR(PartOf(hidden, "SMs lent to communication"), 0.2 * (comm - left),
              1e-9);
  EXPECT_NEAR(PartOf(on_more, "SMs lent to communication"), 0.5 * (comm - left),
              1e-9);
}

TEST_F(TrainingStepTest, CutProductsHideAShareOfTensorParallelism) {
  StepInputs inputs =
      Inputs(kDense, "tp8,gbs8,seq4096,sp", PipelineKind::k1F1B, 8);
  const StepResult plain = Run(inputs);
  inputs.layout.overlap_tensor = true;
  // Little enough that the products can hide it.
  inputs.software.unmeasured.tensor_overlap_share = 0.05;
  const StepResult cut = Run(inputs);

  EXPECT_NEAR(PartOf(cut, "exposed tensor parallel"),
              0.95 * PartOf(plain, "exposed tensor parallel"), 1e-9);
}

TEST_F(TrainingStepTest, BlockingHopsAreOneForEachItem) {
  StepInputs inputs =
      Inputs(kDense, "pp4,gbs16,mbs2,seq2048,ppb", PipelineKind::k1F1B, 4);
  // 2 x 2048 tokens of 1024 BF16 elements at 200 GB/s, forward and backward of
  // each of 8 micro-batches.
  const double hop = 2 * 2048 * 1024 * 2 / 200e9;
  EXPECT_NEAR(PartOf(Run(inputs), "hops of the pipeline"), 2 * 8 * hop, 1e-9);
  inputs.layout.blocking_hops = false;
  EXPECT_EQ(PartOf(Run(inputs), "hops of the pipeline"), 0);
}

TEST_F(TrainingStepTest, TheHostReadsExpertsCountsOnceADispatch) {
  StepInputs inputs =
      Inputs(kExperts, "ep8,gbs16,seq4096", PipelineKind::k1F1B, 8);
  inputs.software.unmeasured.row_count_seconds = 1e-3;
  inputs.software.unmeasured.host_seconds_per_step = 0.5;
  // 8 layers, 2 micro-batches; again where the mixture is made again.
  const StepResult once = Run(inputs);
  EXPECT_NEAR(PartOf(once, "waiting for experts' counts"), 16e-3, 1e-9);
  EXPECT_NEAR(PartOf(once, "host between steps"), 0.5, 1e-12);
  inputs.layout.recompute = Recompute::kMoe;
  EXPECT_NEAR(PartOf(Run(inputs), "waiting for experts' counts"), 32e-3, 1e-9);
}

TEST_F(TrainingStepTest, TheHostHandlesWhatAnAllToAllBringsPieceByPiece) {
  StepInputs inputs =
      Inputs(kExperts, "ep8,gbs16,seq4096", PipelineKind::k1F1B, 8);
  const auto seconds = [&](double piece) {
    inputs.software.unmeasured.host_seconds_per_piece = piece;
    return Run(inputs).seconds;
  };
  // 32 experts' rows there and back, forward and backward, in 8 layers and 2
  // micro-batches; so long that the GPU waits for them alone.
  EXPECT_NEAR(seconds(2e-3) - seconds(1e-3), 32 * 2 * 2 * 8 * 2 * 1e-3, 1e-9);
  // DeepEP's kernels bring them in the experts' order.
  inputs.layout.deep_ep = true;
  EXPECT_EQ(seconds(2e-3), seconds(1e-3));
  // 4 local experts' biases, forward and backward of both products.
  inputs.layout.expert_bias = true;
  EXPECT_NEAR(seconds(20e-3) - seconds(10e-3), 4 * 2 * 2 * 8 * 2 * 10e-3, 1e-9);
}

// Rows that kernels write into peers' memory: of a rank that has them all
// alike, 7 of 8 leave it, at a rate of their own, and each exchange has a cost.
TEST_F(TrainingStepTest, RowsThatKernelsExchangeTakeTheirOwnRate) {
  StepInputs inputs =
      Inputs(kExperts, "ep8,gbs8,seq1024", PipelineKind::k1F1B, 8);
  TrainingConstants& constants = inputs.software.unmeasured;
  constants.row_exchange_gb_per_s = 100;
  constants.row_exchange_bytes = 0;
  const double bytes = Run(inputs).bytes_expert;
  const double exposed = PartOf(Run(inputs), "exposed dispatch and combine");
  EXPECT_GT(exposed, 0);
  EXPECT_NEAR(exposed, bytes / 100e9, 1e-6 * exposed);

  constants.row_exchange_seconds = 1e-3;
  const double layers = static_cast<double>(inputs.model->gates().size());
  const double launched = PartOf(Run(inputs), "exposed dispatch and combine");
  // Two exchanges forward and their plan, two backward.
  EXPECT_NEAR(launched, exposed + 5 * layers * 1e-3, 1e-6);

  // What has come is put in order: twice the bytes, twice the time.
  const auto sorting = [&](double element_bytes) {
    constants.row_exchange_bytes = element_bytes;
    return PartOf(Run(inputs), "exposed dispatch and combine") - launched;
  };
  EXPECT_GT(sorting(4e3), 0);
  EXPECT_NEAR(sorting(8e3) / sorting(4e3), 2, 0.01);
}

// The rank with the most rows makes all wait: at its links, and with its
// experts' kernels. What tokens of a rank have is the same for all.
TEST_F(TrainingStepTest, UnevenLoadsSlowExchangesAndExperts) {
  StepInputs inputs =
      Inputs(kExperts, "ep8,gbs8,seq1024", PipelineKind::k1F1B, 8);
  TrainingConstants& constants = inputs.software.unmeasured;
  constants.row_exchange_gb_per_s = 100;
  constants.row_exchange_bytes = 0;
  const StepResult even = Run(inputs);
  inputs.loads = PowerLawLoads(inputs.model->gates(), 0.5, /*seed=*/1);
  const StepResult uneven = Run(inputs);
  EXPECT_GT(uneven.expert_max_over_mean, 1.05);
  EXPECT_NEAR(PartOf(uneven, "exposed dispatch and combine") /
                  PartOf(even, "exposed dispatch and combine"),
              uneven.expert_max_over_mean, 1e-6);
  EXPECT_GT(PartOf(uneven, "experts"), PartOf(even, "experts"));
  EXPECT_EQ(PartOf(uneven, "dense products"), PartOf(even, "dense products"));
}

// A stage whose gradients are two programs sends the first one's before it runs
// the other: while a 1F1B drains, stages wait for no weight gradients.
TEST_F(TrainingStepTest, GradientsThatLeaveBeforeTheWeightsShortenThePipeline) {
  StepInputs inputs =
      Inputs(kDense, "pp4,gbs8,seq1024", PipelineKind::k1F1B, 4);
  const StepResult whole = Run(inputs);
  inputs.software.unmeasured.splits_backward = 1;
  const StepResult split = Run(inputs);
  EXPECT_LT(split.seconds, whole.seconds);
  inputs.schedule = PipelineKind::kZbH1;
  EXPECT_LE(Run(inputs).seconds, split.seconds * (1 + 1e-9));
}

// What a program and a message cost beside kernels and link counts for each
// item of the rank that has the most to do, and only where there are stages.
TEST_F(TrainingStepTest, ProgramsAndMessagesOfStagesHaveTheirOwnTime) {
  StepInputs inputs =
      Inputs(kDense, "pp4,gbs8,seq1024,ppb", PipelineKind::kZbH1, 4);
  const StepResult free = Run(inputs);
  inputs.software.unmeasured.program_seconds = 1e-4;
  const StepResult programs = Run(inputs);
  EXPECT_NEAR(PartOf(programs, "waiting for the host") -
                  PartOf(free, "waiting for the host"),
              8 * 3 * 1e-4, 1e-9);
  inputs.software.unmeasured.hop_seconds = 1e-3;
  const StepResult hops = Run(inputs);
  EXPECT_NEAR(PartOf(hops, "hops of the pipeline") -
                  PartOf(programs, "hops of the pipeline"),
              8 * 2 * 1e-3, 1e-9);
  inputs.software.unmeasured.hop_element_bytes = 4;
  EXPECT_GT(PartOf(Run(inputs), "hops of the pipeline"),
            PartOf(hops, "hops of the pipeline"));
  EXPECT_GT(hops.seconds, free.seconds);

  StepInputs alone = Inputs(kDense, "gbs8,seq1024", PipelineKind::k1F1B, 1);
  const double seconds = Run(alone).seconds;
  alone.software.unmeasured = inputs.software.unmeasured;
  EXPECT_EQ(Run(alone).seconds, seconds);
}

// 14 bytes a weight instead of 20: no FP32 master is read and written, the
// weight itself is.
TEST_F(TrainingStepTest, WeightsWithoutMastersAreSteppedInLessTimeAndMemory) {
  const StepResult masters =
      Run(Inputs(kDense, "gbs1,seq1024,grad16,mom16", PipelineKind::k1F1B, 1));
  const StepResult none = Run(
      Inputs(kDense, "gbs1,seq1024,grad16,mom16,w16", PipelineKind::k1F1B, 1));
  EXPECT_NEAR(PartOf(none, "optimizer") / PartOf(masters, "optimizer"),
              14. / 20, 1e-9);
  EXPECT_NEAR(none.memory.optimizer / masters.memory.optimizer, 4. / 8, 1e-9);
}

TEST_F(TrainingStepTest, PyTorchsCheckpointsEndBeforeTheCombine) {
  StepInputs inputs = Inputs(kExperts, "ep8,gbs16,seq4096,recompute=full",
                             PipelineKind::k1F1B, 8);
  const std::string part = "exposed dispatch and combine";
  const double full = PartOf(Run(inputs), part);
  inputs.layout.recompute = Recompute::kTorch;
  // Forward, again and backward, each a dispatch and a combine of as long.
  EXPECT_NEAR(PartOf(Run(inputs), part), full * 5 / 6, 1e-9);
}

TEST_F(TrainingStepTest, BiasesOfExpertsMoveTheirRows) {
  StepInputs inputs =
      Inputs(kExperts, "gbs8,seq2048,deepep", PipelineKind::k1F1B, 8);
  const std::string part = "norms, gates, loss";
  const double plain = PartOf(Run(inputs), part);
  inputs.layout.expert_bias = true;
  // 8192 rows of 2 x 512 elements, 8 + 6 bytes each, and back to 1024, 28 + 40;
  // 8 layers at 3 TB/s.
  EXPECT_NEAR(PartOf(Run(inputs), part) - plain,
              8 * 8192.0 * 1024 * (8 + 6 + 28 + 40) / 3e12, 1e-9);
}

TEST_F(TrainingStepTest, ProductsAreSlowedByThePowerLimitAndGapsByTheRest) {
  StepInputs inputs = Inputs(kDense, "gbs8,seq2048", PipelineKind::k1F1B, 8);
  const StepResult alone = Run(inputs);
  inputs.software.efficiency = 0.8;
  inputs.software.unmeasured.product_share = 0.5;
  const StepResult step = Run(inputs);

  const auto ratio = [&](const std::string& part) {
    return PartOf(step, part) / PartOf(alone, part);
  };
  EXPECT_NEAR(ratio("dense products"), 1 / 0.4, 1e-9);
  EXPECT_NEAR(ratio("norms, gates, loss"), 1 / 0.8, 1e-9);
  EXPECT_NEAR(ratio("attention"), 1, 1e-9);
}

TEST_F(TrainingStepTest, SeparateKernelsOfTheLossMoveMoreBytes) {
  StepInputs inputs = Inputs(kDense, "gbs8,seq2048", PipelineKind::k1F1B, 8);
  const std::string part = "norms, gates, loss";
  const double fused = PartOf(Run(inputs), part);
  inputs.layout.unfused_loss = true;
  // 38 and 14 bytes a logit at 3 TB/s, for what one kernel of 2 and of 4 does.
  EXPECT_NEAR(PartOf(Run(inputs), part) - fused,
              (38 + 14 - 2 - 4) * 2048 * 32000.0 / 3e12, 1e-5);
}

TEST_F(TrainingStepTest, TheErrorIsNeverZero) {
  // Kernels of a data sheet err by an unknown amount, which they say is 0.
  StepInputs inputs = Inputs(kDense, "gbs8,seq2048", PipelineKind::k1F1B, 8);
  EXPECT_GT(Run(inputs).error_share, 0.01);
  inputs.software.unmeasured.step_error = 0.07;
  EXPECT_NEAR(Run(inputs).error_share, 0.07, 1e-12);
}

TEST_F(TrainingStepTest, MoreBandwidthNeverSlowsAStep) {
  StepInputs inputs =
      Inputs(kExperts, "tp2,pp2,ep8,gbs64,seq2048,sp", PipelineKind::k1F1B, 32);
  double last = 1e30;
  for (const double scale : {1.0, 1.5, 2.0, 8.0}) {
    const TwoLevelComm network({8, scale * 200e9, scale * 50e9, 1e-6, 5e-6});
    inputs.network = &network;
    const double seconds = Run(inputs).seconds;
    EXPECT_LE(seconds, last);
    last = seconds;
  }
}

TEST_F(TrainingStepTest, CostsFollowTime) {
  const StepResult result =
      Run(Inputs(kDense, "gbs8,seq2048", PipelineKind::k1F1B, 8));
  EXPECT_NEAR(result.dollars, result.seconds / 3600 * 16, 1e-12);
  EXPECT_NEAR(result.kwh, result.seconds / 3600 * 8, 1e-12);
}

TEST(ParseModelTest, ReadsDimensions) {
  const absl::StatusOr<ModelConfig> gpt = ParseModel(
      "layers=96 hidden=12288 heads=96 ffn=49152 mlp=gelu vocab=51200");
  ASSERT_THAT(gpt, IsOk());
  // Three matrices of two thirds the width are two of the whole.
  EXPECT_EQ(gpt->dense_width(), 32768);
  EXPECT_EQ(gpt->attention().head_dim(), 128);

  const absl::StatusOr<ModelConfig> moe = ParseModel(
      "layers=56 hidden=6144 heads=48 kv_heads=8 vocab=32768 experts=8 "
      "top_k=2 expert_ffn=16384");
  ASSERT_THAT(moe, IsOk());
  EXPECT_EQ(moe->num_dense_layers(), 0);
  EXPECT_EQ(moe->moe().flat().k(), 2);
  EXPECT_FALSE(moe->attention().qk_norm());
  EXPECT_TRUE(ParseModel("layers=2 hidden=64 heads=2 ffn=128 vocab=9 qk_norm=1")
                  ->attention()
                  .qk_norm());
}

TEST(ParseModelTest, RejectsWhatIsNoDimension) {
  EXPECT_THAT(ParseModel("layers=2 width=3"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("no dimension \"width=3\"")));
  EXPECT_THAT(ParseModel("layers=two"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("want a whole number")));
  EXPECT_THAT(ParseModel("layers=2"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("want")));
  EXPECT_FALSE(ParseModel("no-such-preset").ok());
}

}  // namespace
}  // namespace strata::sim
