// Replays of made-up traces: what fits the model runs, whatever it says, and
// what does not is an error before it reaches the program. Traces of real runs:
// training/routing_replay_test.cc.

#include "core/trace/routing_replay.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/model/config.h"
#include "core/model/decoder.h"
#include "core/model/gate.h"
#include "core/model/init.h"
#include "core/model/moe.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "core/trace/router_tap.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_recorder.h"
#include "core/trace/routing_trace.pb.h"
#include "core/trace/trace_example.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int32_t kTokens = 24;

// Two layers; tiers of 4, 6 and 300 experts, the last with ids of two bytes.
ModelConfig Model(double exit_threshold) {
  ModelConfig config = *ModelPreset("demo");
  config.set_d_model(16);
  config.mutable_attention()->set_num_heads(2);
  config.mutable_attention()->set_num_kv_heads(1);
  config.mutable_attention()->set_head_dim(8);
  config.mutable_moe()->set_expert_width(4);
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.clear_tier_experts();
  for (const int experts : {4, 6, 300}) gate.add_tier_experts(experts);
  gate.set_k_max(2);
  gate.set_exit_threshold(exit_threshold);
  gate.set_energy_groups(4);
  gate.set_fine_width(4);
  return config;
}

// A model in evaluation whose choices are a trace's.
class Replayed {
 public:
  explicit Replayed(const ModelConfig& config)
      : backend_(2, AllCpuKernels()), state_(backend_) {
    GraphBuilder b;
    DecoderOptions options;
    options.mode = DecoderOptions::Mode::kEvaluate;
    options.route = RouteSource::kReplay;
    options.max_tokens = kTokens;
    routers_ = BuildDecoder(b, config, options).routers;
    auto program = Program::Compile(*b.Finish(), backend_, state_);
    EXPECT_THAT(program, IsOk());
    program_ = *std::move(program);
    InitializeParameters(config, /*seed=*/1, state_);
    *program_->Input("num_tokens").as<int32_t>() = kTokens;
    program_->Input("seq_start").as<int32_t>()[1] = kTokens;
    for (int32_t i = 0; i < kTokens; ++i) {
      program_->Input("ids").as<int32_t>()[i] = i;
      program_->Input("position").as<int32_t>()[i] = i;
    }
  }

  // A header that a recording of this model could have.
  RoutingTraceHeader Header() const {
    RoutingTraceHeader header;
    header.set_format_version(kRoutingTraceVersion);
    header.set_recorded_by(RoutingTraceHeader::EVALUATE);
    header.set_num_ranks(1);
    header.add_domains("code");
    header.add_domains("prose");
    RouterTap(program_->graph(), routers_, /*with_tokens=*/false)
        .AddGates(header);
    header.set_has_tokens(true);
    return header;
  }

  // Feeds `record` as that of step 1 and runs the program.
  absl::Status Run(const RoutingTraceHeader& header,
                   const RoutingRecord& record) {
    const std::string path = absl::StrCat(testing::TempDir(), "/replay.gz");
    auto recorder = RoutingRecorder::Create(path, header, /*overwrite=*/true);
    EXPECT_THAT(recorder, IsOk());
    EXPECT_THAT(recorder->Append(record), IsOk());
    EXPECT_THAT(recorder->Close(), IsOk());
    auto replay = RoutingReplay::Open(path, header, routers_);
    if (!replay.ok()) return replay.status();
    (*replay)->Begin(1, 0);
    (*replay)->AddSequence(kTokens, /*domain=*/1);
    const absl::Status status = (*replay)->Feed(*program_);
    return status.ok() ? program_->Run() : status;
  }

  const Program& program() const { return *program_; }
  const std::vector<RouterValues>& routers() const { return routers_; }

 private:
  CpuBackend backend_;
  StateStore state_;
  std::vector<RouterValues> routers_;
  std::unique_ptr<Program> program_;
};

RoutingLayout LayoutOf(const RoutingTraceHeader& header) {
  auto layout = RoutingLayout::Create(header);
  EXPECT_THAT(layout, IsOk());
  return *std::move(layout);
}

TEST(RoutingReplayTest, RunsWhateverChoicesATraceHas) {
  Replayed model(Model(/*exit_threshold=*/0.1));
  const RoutingTraceHeader header = model.Header();
  const RoutingLayout layout = LayoutOf(header);
  for (int seed = 0; seed < 20; ++seed) {
    Random random(seed, 1);
    const RoutingRecord record = ExampleRecord(layout, 1, kTokens, random);
    ASSERT_THAT(model.Run(header, record), IsOk());

    for (size_t g = 0; g < layout.gates.size(); ++g) {
      const RouterValues& router = model.routers()[g];
      EXPECT_EQ(*model.program().Output(router.TokensName()).as<int32_t>(),
                GateTokens(layout, record, g));
      const auto choices = DecodeChoices(layout, record, g);
      ASSERT_THAT(choices, IsOk());
      EXPECT_EQ(absl::MakeConstSpan(choices->expert),
                model.program().Output(router.ExpertName()).span<int32_t>());
    }
  }
}

TEST(RoutingReplayTest, RefusesExitsFromAModelThatLetsNobodyLeave) {
  Replayed model(Model(/*exit_threshold=*/0));
  const RoutingTraceHeader header = model.Header();
  Random random(3, 1);
  const RoutingRecord record =
      ExampleRecord(LayoutOf(header), 1, kTokens, random);
  EXPECT_THAT(
      model.Run(header, record),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("replay.gz: record 1 has "),
                     HasSubstr(" tokens at gate 0.1; of the model's 24 at the "
                               "gate before it, 24 stay"))));
}

// A token without an expert would leave the model, and did not leave the trace.
TEST(RoutingReplayTest, RefusesTokensThatHaveNoExpertAndStay) {
  Replayed model(Model(/*exit_threshold=*/0.1));
  const RoutingTraceHeader header = model.Header();
  const RoutingLayout layout = LayoutOf(header);
  Random random(4, 1);
  ExampleChoices choices = MakeChoices(layout, kTokens, random);
  // Nobody leaves, and nobody of the first gate has an expert.
  for (size_t g = 0; g < layout.gates.size(); ++g) {
    choices.expert[g].assign(kTokens * 2, g == 0 ? -1 : 0);
    choices.weight[g].assign(kTokens * 2, 0.5f);
  }
  RoutingRecord record;
  record.set_step(1);
  record.add_sequence_tokens(kTokens);
  record.add_sequence_domain(1);
  ASSERT_THAT(EncodeChoices(layout, choices.Spans(layout), record), IsOk());
  EXPECT_THAT(model.Run(header, record),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("record 1 has 24 tokens at gate 0.1; of the "
                                 "model's 24 at the gate before it, 0 stay")));
}

TEST(RoutingReplayTest, RefusesOtherGatesThanTheModels) {
  Replayed model(Model(0.1));
  const auto expect = [&](const RoutingTraceHeader& header,
                          const std::string& words) {
    Random random(5, 1);
    EXPECT_THAT(
        model.Run(header, ExampleRecord(LayoutOf(header), 1, kTokens, random)),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 AllOf(HasSubstr("replay.gz: "), HasSubstr(words))));
  };
  RoutingTraceHeader fewer = model.Header();
  fewer.mutable_gates()->RemoveLast();
  expect(fewer, "the trace's 5 gates are not the model's 6");
  RoutingTraceHeader more_experts = model.Header();
  more_experts.mutable_gates(1)->set_num_experts(7);
  expect(more_experts,
         "the trace's 6 gates are not the model's 6: gate 0.1 "
         "has 7 experts; want gate 0.1 with 6");
  RoutingTraceHeader more_choices = model.Header();
  more_choices.mutable_gates(1)->set_k_max(3);
  expect(more_choices,
         "record 1 has 3 choices a token at gate 0.1; the model has 2");
}

}  // namespace
}  // namespace strata
