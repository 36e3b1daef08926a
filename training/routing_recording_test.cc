// What a trainer's trace says, against the trainer's own figures and the
// outputs of its programs.

#include "training/routing_recording.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/model/config.h"
#include "core/model/count.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/testing/status_matchers.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_reader.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_summary.h"
#include "core/trace/routing_trace.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/mesh_fixture.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Sums of some hundred quotients, in another order.
constexpr double kRounding = 1e-9;

class RoutingRecordingTest : public testing::Test {
 protected:
  RoutingRecordingTest() {
    options_.path = absl::StrCat(testing::TempDir(), "/routing.gz");
    options_.overwrite = true;
  }

  std::unique_ptr<Trainer> Make(const ModelConfig& model) {
    auto trainer = Trainer::Create(model, TinyTrain(), &corpus_,
                                   /*num_threads=*/2, {options_.tokens});
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  }

  std::unique_ptr<RoutingRecording> Start(const Trainer& trainer,
                                          RoutingTraceHeader::Source source) {
    auto recording = trainer.StartRecording(options_, source, "hash");
    EXPECT_THAT(recording, IsOk());
    return *std::move(recording);
  }

  const Corpus corpus_ = TinyCorpus();
  RecordOptions options_;
};

TEST_F(RoutingRecordingTest, ChangesNothingOfTheTraining) {
  for (const ModelConfig& model : {TinyHierarchical(), TinyFlat()}) {
    options_.tokens = false;
    const auto plain = Make(model);
    options_.tokens = true;
    const auto recorded = Make(model);
    const auto recording = Start(*recorded, RoutingTraceHeader::TRAIN);
    for (int i = 0; i < 4; ++i) {
      const auto want = plain->Step();
      const auto got = recorded->Step(recording.get());
      ASSERT_THAT(want, IsOk());
      ASSERT_THAT(got, IsOk());
      EXPECT_EQ(got->total_loss, want->total_loss);
      EXPECT_EQ(got->grad_norm, want->grad_norm);
    }
  }
}

// One step, of which the trainer measures what the trace must say.
TEST_F(RoutingRecordingTest, SaysWhatTheExpertMeterSays) {
  for (const ModelConfig& model : {TinyHierarchical(), TinyFlat()}) {
    const auto trainer = Make(model);
    for (int i = 0; i < 2; ++i) ASSERT_THAT(trainer->Step(), IsOk());
    const auto recording = Start(*trainer, RoutingTraceHeader::TRAIN);
    const auto metrics = trainer->Step(recording.get());
    ASSERT_THAT(metrics, IsOk());
    ASSERT_THAT(recording->Close(), IsOk());
    auto reader = RoutingReader::Open(options_.path);
    ASSERT_THAT(reader, IsOk());

    const RoutingSummary summary = Summarize(*reader);

    EXPECT_THAT(summary.damage, IsOk());
    EXPECT_EQ(summary.num_records, 2);
    EXPECT_EQ(summary.first_step, 3);
    EXPECT_EQ(summary.last_step, 3);
    EXPECT_EQ(summary.tokens, metrics->tokens);
    const ExpertUse& use = metrics->experts;
    EXPECT_THAT(summary.mean.whole.gini, DoubleNear(use.gini, kRounding));
    EXPECT_THAT(summary.mean.whole.utilisation,
                DoubleNear(use.utilisation, kRounding));
    EXPECT_THAT(summary.mean.whole.starved_share,
                DoubleNear(use.starved_share, kRounding));
    EXPECT_THAT(summary.mean.active_share,
                DoubleNear(use.active_share, kRounding));
    ASSERT_EQ(summary.tier_tokens.size(), use.tier_tokens.size());
    for (size_t tier = 0; tier < use.tier_tokens.size(); ++tier) {
      EXPECT_THAT(summary.tier_tokens[tier],
                  DoubleNear(use.tier_tokens[tier], kRounding));
    }
  }
}

TEST_F(RoutingRecordingTest, HasARecordAMicroBatchWithItsSequences) {
  options_.num_ranks = 3;
  const auto trainer = Make(TinyHierarchical());
  const auto recording = Start(*trainer, RoutingTraceHeader::TRAIN);
  for (int i = 0; i < 3; ++i) {
    ASSERT_THAT(trainer->Step(recording.get()), IsOk());
  }
  EXPECT_EQ(recording->num_records(), 6);
  ASSERT_THAT(recording->Close(), IsOk());

  const Trace trace = ReadTrace(options_.path);

  ASSERT_THAT(trace.records, SizeIs(6));
  for (int i = 0; i < 6; ++i) {
    const RoutingRecord& record = trace.records[i];
    EXPECT_EQ(record.step(), 1 + i / 2);
    EXPECT_EQ(record.micro_batch(), i % 2);
    EXPECT_THAT(record.sequence_tokens(), ElementsAre(32, 32, 32, 32));
    // Of two sequences each domain has one (training/data/sampler.h).
    EXPECT_EQ(record.sequence_domain(0) + record.sequence_domain(1), 1u);
    // 128 tokens over 3 ranks.
    EXPECT_EQ(record.tokens(0), 42u);
    EXPECT_EQ(record.tokens(1), 43u);
    EXPECT_EQ(record.tokens(2), 43u);
  }
  const RoutingTraceHeader& header = trace.header;
  EXPECT_EQ(header.recorded_by(), RoutingTraceHeader::TRAIN);
  EXPECT_EQ(header.model_name(), "demo");
  EXPECT_THAT(header.model_hash(), SizeIs(64));
  EXPECT_EQ(header.seed(), TinyTrain().seed());
  EXPECT_EQ(header.data_hash(), corpus_.sha256);
  EXPECT_THAT(header.domains(), ElementsAre("code", "prose"));
}

TEST_F(RoutingRecordingTest, TokensAreThoseOfTheProgram) {
  options_.tokens = true;
  for (const ModelConfig& model : {TinyHierarchical(), TinyFlat()}) {
    const auto trainer = Make(model);
    const auto recording = Start(*trainer, RoutingTraceHeader::TRAIN);
    for (int i = 0; i < 2; ++i) {
      ASSERT_THAT(trainer->Step(recording.get()), IsOk());
    }
    ASSERT_THAT(recording->Close(), IsOk());
    const Trace trace = ReadTrace(options_.path);
    ASSERT_THAT(trace.records, SizeIs(4));

    // The program still has the last micro-batch.
    const Program& program = trainer->gradient_program();
    const RoutingRecord& record = trace.records.back();
    int64_t num_left = 0;
    for (size_t g = 0; g < trace.layout.gates.size(); ++g) {
      const GateLayout& gate = trace.layout.gates[g];
      const std::string name =
          absl::StrFormat("router.%d.%d.expert", gate.layer, gate.tier);
      const auto expert = program.Output(name).span<int32_t>();
      const auto weight = program.Output(name + ".weight").span<float>();
      const auto choices = DecodeChoices(trace.layout, record, g);
      ASSERT_THAT(choices, IsOk());
      EXPECT_EQ(absl::MakeConstSpan(choices->expert), expert);
      ASSERT_EQ(choices->weight.size(), weight.size());
      for (size_t s = 0; s < weight.size(); ++s) {
        if (expert[s] < 0) continue;
        // Half a unit of the last of bfloat16's 8 bits.
        EXPECT_NEAR(choices->weight[s], weight[s],
                    std::ldexp(std::abs(weight[s]), -8));
      }
      EXPECT_EQ(gate.has_considered, model.moe().has_hierarchical());
      for (int64_t i = 0; i < choices->num_tokens; ++i) {
        num_left += choices->left[i];
        if (!gate.has_considered) continue;
        const auto survivors =
            absl::MakeConstSpan(choices->considered)
                .subspan(i * gate.num_experts, gate.num_experts);
        EXPECT_EQ(
            std::count(survivors.begin(), survivors.end(), 1),
            CoarseSurvivors(model.moe().hierarchical(), gate.num_experts));
        for (int64_t j = 0; j < gate.k_max; ++j) {
          const int32_t e = choices->expert[i * gate.k_max + j];
          EXPECT_TRUE(e < 0 || survivors[e] == 1);
        }
      }
    }
    EXPECT_EQ(num_left, 0);  // In training tokens leave softly (moe.cc).
  }
}

TEST_F(RoutingRecordingTest, RecordsAValidationByBatchAndDomain) {
  const auto trainer = Make(TinyHierarchical());
  const auto recording = Start(*trainer, RoutingTraceHeader::EVALUATE);
  const auto metrics = trainer->Validate(recording.get());
  ASSERT_THAT(metrics, IsOk());
  ASSERT_THAT(recording->Close(), IsOk());

  const Trace trace = ReadTrace(options_.path);

  EXPECT_EQ(trace.header.recorded_by(), RoutingTraceHeader::EVALUATE);
  EXPECT_EQ(trace.header.weights_hash(), "hash");
  // 320 tokens a domain are batches of 4, 4 and 2 sequences.
  ASSERT_THAT(trace.records, SizeIs(6));
  std::vector<int64_t> domain_tokens(2, 0);
  for (int i = 0; i < 6; ++i) {
    const RoutingRecord& record = trace.records[i];
    EXPECT_EQ(record.step(), i + 1);
    for (int s = 0; s < record.sequence_tokens_size(); ++s) {
      domain_tokens[record.sequence_domain(s)] += record.sequence_tokens(s);
    }
  }
  EXPECT_THAT(trace.records[2].sequence_tokens(), ElementsAre(32, 32));
  for (int d = 0; d < 2; ++d) {
    EXPECT_EQ(domain_tokens[d], metrics->domains[d].tokens);
  }
}

TEST_F(RoutingRecordingTest, SaysWhatItCannotRecordBeforeItMakesAFile) {
  std::filesystem::remove(options_.path);
  const auto trainer = Make(TinyHierarchical());
  for (const int num_ranks : {0, 129}) {
    options_.num_ranks = num_ranks;
    EXPECT_THAT(
        trainer->StartRecording(options_, RoutingTraceHeader::TRAIN, ""),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 HasSubstr(absl::StrCat("--routing-ranks is ", num_ranks,
                                        "; want 1 to 128"))));
  }
  options_.num_ranks = 1;
  ModelConfig dense = TinyFlat();
  dense.set_num_dense_layers(2);
  dense.set_dense_width(32);
  EXPECT_THAT(
      Make(dense)->StartRecording(options_, RoutingTraceHeader::TRAIN, ""),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("no mixture of experts")));
  EXPECT_FALSE(std::filesystem::exists(options_.path));
}

// In the first step weights are those of one rank, so that choices are equal
// whatever is rounded later.
class RanksRecordingTest : public RoutingRecordingTest {
 protected:
  RanksRecordingTest() {
    options_.tokens = true;
    options_.num_ranks = 2;
  }

  // A step or a validation, as the source says.
  void Record(const ModelConfig& model, const TrainConfig& train,
              RoutingTraceHeader::Source source, const RecordOptions& options,
              TrainerOptions trainer_options) {
    trainer_options.expose_tokens = options.tokens;
    auto trainer = Trainer::Create(model, train, &corpus_, /*num_threads=*/1,
                                   trainer_options);
    ASSERT_THAT(trainer, IsOk());
    auto recording =
        (*trainer)->StartRecording(options, source, /*weights_hash=*/"");
    ASSERT_THAT(recording, IsOk());
    if (source == RoutingTraceHeader::TRAIN) {
      ASSERT_THAT((*trainer)->Step(recording->get()), IsOk());
    } else {
      ASSERT_THAT((*trainer)->Validate(recording->get()), IsOk());
    }
    ASSERT_THAT((*recording)->Close(), IsOk());
  }

  struct Way {
    MeshShape shape;
    PipelineKind schedule = PipelineKind::k1F1B;
    bool overlap_rows = false;  // Pairs are then one program.
  };

  void ExpectWhatOneRankRecords(
      const ModelConfig& model, const TrainConfig& train,
      const std::vector<Way>& ways,
      RoutingTraceHeader::Source source = RoutingTraceHeader::TRAIN) {
    Record(model, train, source, options_, {});
    const Trace alone = ReadTrace(options_.path);
    ASSERT_GE(alone.records.size(), 4);
    for (const Way& way : ways) {
      SCOPED_TRACE(absl::StrCat(ToText(way.shape), " ", Name(way.schedule)));
      RecordOptions together = options_;
      together.path += ".ranks";
      OnMesh(way.shape, [&](const Mesh& mesh) {
        TrainerOptions trainer_options;
        trainer_options.mesh = &mesh;
        trainer_options.schedule = way.schedule;
        trainer_options.overlap_rows = way.overlap_rows;
        Record(model, train, source, together, trainer_options);
      });
      const Trace trace = ReadTrace(together.path);
      ASSERT_EQ(trace.header.gates_size(), alone.header.gates_size());
      for (int g = 0; g < alone.header.gates_size(); ++g) {
        EXPECT_EQ(trace.header.gates(g).SerializeAsString(),
                  alone.header.gates(g).SerializeAsString());
      }
      ASSERT_EQ(trace.records.size(), alone.records.size());
      for (size_t i = 0; i < alone.records.size(); ++i) {
        EXPECT_EQ(trace.records[i].SerializeAsString(),
                  alone.records[i].SerializeAsString())
            << "record " << i;
      }
    }
  }
};

TEST_F(RanksRecordingTest, RanksRecordWhatOneRankDoes) {
  TrainConfig train = TinyTrain();
  train.set_accumulation(4);
  for (const ModelConfig& model : {TinyHierarchical(), TinyFlat()}) {
    ExpectWhatOneRankRecords(
        model, train,
        {{{2, 1, 1}}, {{1, 2, 1}}, {{1, 1, 2}}, {{2, 1, 2}}, {{1, 2, 2}}});
  }
}

// Also of layers without a gate, whose stages have nothing to record.
TEST_F(RanksRecordingTest, RanksWithSeveralStagesTheGatesOfEach) {
  TrainConfig train = TinyTrain();
  train.set_accumulation(8);
  MeshShape mirrored = {1, 2, 2};
  mirrored.mirrored = true;
  ModelConfig hierarchical = TinyHierarchical();
  hierarchical.set_num_layers(4);
  ModelConfig flat = TinyFlat();
  flat.set_num_layers(4);
  flat.set_num_dense_layers(1);
  flat.set_dense_width(32);
  for (const ModelConfig& model : {hierarchical, flat}) {
    ExpectWhatOneRankRecords(
        model, train,
        {{{1, 1, 2}, PipelineKind::kInterleaved},
         {{2, 1, 2}, PipelineKind::kInterleaved},
         {mirrored, PipelineKind::kDualPipe},
         {mirrored, PipelineKind::kDualPipe, /*overlap_rows=*/true},
         {{1, 2, 2}, PipelineKind::kDualPipeV},
         {{1, 2, 2}, PipelineKind::kDualPipeV, /*overlap_rows=*/true}});
  }
}

TEST_F(RanksRecordingTest, AndOfAValidation) {
  ModelConfig model = TinyHierarchical();
  model.set_num_layers(4);
  MeshShape mirrored = {1, 1, 2};
  mirrored.mirrored = true;
  TrainConfig train = TinyTrain();
  train.set_accumulation(8);
  ExpectWhatOneRankRecords(model, train,
                           {{{2, 1, 1}},
                            {{1, 2, 2}},
                            {{1, 1, 2}, PipelineKind::kInterleaved},
                            {mirrored, PipelineKind::kDualPipe},
                            {{2, 1, 2}, PipelineKind::kDualPipeV}},
                           RoutingTraceHeader::EVALUATE);
}

}  // namespace
}  // namespace strata
