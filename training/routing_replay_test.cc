// Steps and validations whose experts are not chosen by the gates: replayed
// from a trace, or balanced by force.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/model/gate.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_trace.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/data/corpus.h"
#include "training/routing_fixture.h"
#include "training/routing_recording.h"
#include "training/trainer.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr auto kTrain = RoutingTraceHeader::TRAIN;
constexpr auto kEvaluate = RoutingTraceHeader::EVALUATE;

ModelConfig DeepSeek() {
  ModelConfig config = TinyFlat();
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_score(FlatRouterConfig::SIGMOID);
  flat.set_correction_bias(true);
  flat.set_bias_update_rate(0.01);
  flat.set_num_groups(4);
  flat.set_top_groups(2);
  return config;
}

ModelConfig WithChoice(FlatRouterConfig::Choice choice) {
  ModelConfig config = TinyFlat();
  config.mutable_moe()->mutable_flat()->set_choice(choice);
  config.mutable_moe()->mutable_flat()->set_top_p(0.3);
  return config;
}

// Every gate there is.
std::vector<ModelConfig> AllGates() {
  return {TinyHierarchical(), TinyFlat(), DeepSeek(),
          WithChoice(FlatRouterConfig::TOP_P),
          WithChoice(FlatRouterConfig::EXPERT_CHOICE)};
}

std::vector<float> Parameters(const Trainer& trainer) {
  std::vector<float> all;
  for (const std::string& name : trainer.state().names()) {
    const TensorView& state = trainer.state().Get(name);
    if (state.dtype != DType::kF32) continue;  // Counts of the latest step.
    const auto values = state.span<float>();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// The experts of each token of all records and gates.
std::vector<int32_t> Choices(const Trace& trace) {
  std::vector<int32_t> all;
  for (const RoutingRecord& record : trace.records) {
    for (size_t g = 0; g < trace.layout.gates.size(); ++g) {
      const auto choices = DecodeChoices(trace.layout, record, g);
      EXPECT_THAT(choices, IsOk());
      all.insert(all.end(), choices->expert.begin(), choices->expert.end());
    }
  }
  return all;
}

class RoutingReplayTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const {
    return absl::StrCat(testing::TempDir(), "/replay_", name, ".gz");
  }

  absl::StatusOr<std::unique_ptr<Trainer>> Create(
      const ModelConfig& model, const RouteOptions& route = {},
      RoutingTraceHeader::Source replayed = kTrain,
      const TrainConfig& train = TinyTrain()) {
    return Trainer::Create(model, train, &corpus_, /*num_threads=*/2,
                           {/*expose_tokens=*/true, route, replayed});
  }
  std::unique_ptr<Trainer> Make(const ModelConfig& model,
                                const RouteOptions& route = {},
                                RoutingTraceHeader::Source replayed = kTrain,
                                const TrainConfig& train = TinyTrain()) {
    auto trainer = Create(model, route, replayed, train);
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  }

  std::unique_ptr<RoutingRecording> Record(const Trainer& trainer,
                                           RoutingTraceHeader::Source source,
                                           const std::string& path,
                                           bool tokens = true) {
    RecordOptions options;
    options.path = path;
    options.overwrite = true;
    options.tokens = tokens;
    auto recording = trainer.StartRecording(options, source, "");
    EXPECT_THAT(recording, IsOk());
    return *std::move(recording);
  }

  // Losses and gradient norms.
  std::vector<double> Steps(Trainer& trainer, int n,
                            RoutingRecording* recording = nullptr) {
    std::vector<double> losses;
    for (int i = 0; i < n; ++i) {
      const auto metrics = trainer.Step(recording);
      EXPECT_THAT(metrics, IsOk());
      if (!metrics.ok()) break;
      losses.push_back(metrics->total_loss);
      losses.push_back(metrics->grad_norm);
    }
    return losses;
  }
  std::vector<double> Losses(Trainer& trainer,
                             RoutingRecording* recording = nullptr) {
    const auto metrics = trainer.Validate(recording);
    EXPECT_THAT(metrics, IsOk());
    std::vector<double> losses;
    if (!metrics.ok()) return losses;
    for (const DomainMetrics& domain : metrics->domains) {
      losses.push_back(domain.nll);
      losses.push_back(domain.accuracy);
    }
    return losses;
  }

  // A trace of `steps` steps; returns its path.
  std::string TrainTrace(const ModelConfig& model, int steps,
                         bool tokens = true) {
    const std::string path = Path("train");
    const auto trainer = Make(model);
    const auto recording = Record(*trainer, kTrain, path, tokens);
    Steps(*trainer, steps, recording.get());
    EXPECT_THAT(recording->Close(), IsOk());
    return path;
  }

  Corpus corpus_ = TinyCorpus();
};

TEST_F(RoutingReplayTest, StepsAreThoseRecordedBitForBit) {
  for (const ModelConfig& model : AllGates()) {
    SCOPED_TRACE(model.moe().ShortDebugString());
    const std::string path = Path("steps");
    const auto recorded = Make(model);
    const auto recording = Record(*recorded, kTrain, path);
    const std::vector<double> want = Steps(*recorded, 3, recording.get());
    ASSERT_THAT(recording->Close(), IsOk());

    const std::string again = Path("steps_again");
    const auto replayed = Make(model, {RouteSource::kReplay, path});
    const auto second = Record(*replayed, kTrain, again);
    EXPECT_EQ(Steps(*replayed, 3, second.get()), want);
    ASSERT_THAT(second->Close(), IsOk());

    // Moments and bias, too.
    EXPECT_EQ(Parameters(*replayed), Parameters(*recorded));
    const Trace first_trace = ReadTrace(path);
    const Trace second_trace = ReadTrace(again);
    ASSERT_EQ(second_trace.records.size(), first_trace.records.size());
    for (size_t i = 0; i < first_trace.records.size(); ++i) {
      EXPECT_EQ(second_trace.records[i].chosen(),
                first_trace.records[i].chosen());
      EXPECT_EQ(second_trace.records[i].weight(),
                first_trace.records[i].weight());
    }
    // What the trace does not hold, the gates choose.
    EXPECT_EQ(Losses(*replayed), Losses(*recorded));
  }
}

TEST_F(RoutingReplayTest, ValidationsAreThoseRecordedWithTheirExits) {
  for (const ModelConfig& model : AllGates()) {
    SCOPED_TRACE(model.moe().ShortDebugString());
    const std::string path = Path("validation");
    const auto recorded = Make(model);
    const auto recording = Record(*recorded, kEvaluate, path);
    const std::vector<double> want = Losses(*recorded, recording.get());
    ASSERT_THAT(recording->Close(), IsOk());
    const Trace trace = ReadTrace(path);
    if (model.moe().has_hierarchical()) {
      const RoutingRecord& record = trace.records[0];
      EXPECT_GT(GateExits(trace.layout, record, 0), 0);
      EXPECT_LT(GateExits(trace.layout, record, 0),
                GateTokens(trace.layout, record, 0));
    }

    const auto replayed = Make(model, {RouteSource::kReplay, path}, kEvaluate);
    EXPECT_EQ(Losses(*replayed), want);
    EXPECT_EQ(Losses(*replayed), want);  // From the first record again.
  }
}

TEST_F(RoutingReplayTest, OtherWeightsTakeTheRecordedChoices) {
  for (const ModelConfig& model : {TinyHierarchical(), TinyFlat()}) {
    const std::string path = Path("weights");
    const auto recorded = Make(model);
    const auto recording = Record(*recorded, kEvaluate, path);
    const std::vector<double> of_recorded = Losses(*recorded, recording.get());
    ASSERT_THAT(recording->Close(), IsOk());
    TrainConfig train = TinyTrain();
    train.set_seed(TinyTrain().seed() + 1);

    const std::string own_path = Path("weights_own");
    const auto own = Make(model, {}, kTrain, train);
    const auto own_recording = Record(*own, kEvaluate, own_path);
    const std::vector<double> of_own = Losses(*own, own_recording.get());
    ASSERT_THAT(own_recording->Close(), IsOk());
    const std::string replayed_path = Path("weights_replayed");
    const auto replayed =
        Make(model, {RouteSource::kReplay, path}, kEvaluate, train);
    const auto second = Record(*replayed, kEvaluate, replayed_path);
    const std::vector<double> of_replayed = Losses(*replayed, second.get());
    ASSERT_THAT(second->Close(), IsOk());

    const std::vector<int32_t> recorded_choices = Choices(ReadTrace(path));
    EXPECT_NE(Choices(ReadTrace(own_path)), recorded_choices);
    EXPECT_EQ(Choices(ReadTrace(replayed_path)), recorded_choices);
    EXPECT_NE(of_replayed, of_own);
    EXPECT_NE(of_replayed, of_recorded);
  }
}

TEST_F(RoutingReplayTest, AResumedRunFindsItsPlace) {
  const std::string path = Path("resume");
  const std::string runs = absl::StrCat(testing::TempDir(), "/replay_runs");
  const auto recorded = Make(TinyHierarchical());
  const auto recording = Record(*recorded, kTrain, path);
  Steps(*recorded, 2, recording.get());
  const auto checkpoint = recorded->SaveCheckpoint(runs, {});
  ASSERT_THAT(checkpoint, IsOk());
  const std::vector<double> want = Steps(*recorded, 2, recording.get());
  ASSERT_THAT(recording->Close(), IsOk());

  const auto resumed = Make(TinyHierarchical(), {RouteSource::kReplay, path});
  ASSERT_THAT(resumed->Resume(*checkpoint), IsOk());

  EXPECT_EQ(Steps(*resumed, 2), want);
}

// --- Traces that cannot be replayed ---

TEST_F(RoutingReplayTest, RefusesATraceOfSomethingElse) {
  const std::string path = TrainTrace(TinyFlat(), 1);
  const RouteOptions route = {RouteSource::kReplay, path};
  const auto expect = [&](const absl::StatusOr<std::unique_ptr<Trainer>>& got,
                          const std::string& words) {
    EXPECT_THAT(got, StatusIs(absl::StatusCode::kInvalidArgument,
                              AllOf(HasSubstr("cannot replay " + path),
                                    HasSubstr(words))));
  };
  ModelConfig wider = TinyFlat();
  wider.mutable_moe()->set_expert_width(24);
  expect(Create(wider, route), "is of another model (demo, config hash ");
  expect(Create(TinyHierarchical(), route), "is of another model");
  expect(Create(TinyFlat(), route, kEvaluate),
         "recorded by strata train; want one of strata evaluate");
  TrainConfig train = TinyTrain();
  train.set_seed(77);
  expect(Create(TinyFlat(), route, kTrain, train), "seed ");
  corpus_.sha256 = "other";
  expect(Create(TinyFlat(), route), "is of other data (hash ");
  corpus_ = TinyCorpus();
  TrainTrace(TinyFlat(), 1, /*tokens=*/false);
  expect(Create(TinyFlat(), route),
         "counts alone; want one recorded with "
         "--record-tokens");
  EXPECT_THAT(Create(TinyFlat(), {RouteSource::kReplay, Path("none")}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(Path("none"))));
  ASSERT_THAT(WriteFileAtomically(path, "no trace"), IsOk());
  EXPECT_THAT(Create(TinyFlat(), route),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr(path + " is no routing trace")));
}

TEST_F(RoutingReplayTest, SaysWhereTheTraceEnds) {
  const std::string path = TrainTrace(TinyFlat(), 2);
  const auto trainer = Make(TinyFlat(), {RouteSource::kReplay, path});
  Steps(*trainer, 2);
  EXPECT_THAT(trainer->Step(),
              StatusIs(absl::StatusCode::kOutOfRange,
                       HasSubstr(path + " ends after record 4, before a "
                                        "record of step 3, micro-batch 0")));
}

TEST_F(RoutingReplayTest, SaysWhichRecordIsOfAnotherBatch) {
  const std::string path = TrainTrace(TinyFlat(), 1);
  TrainConfig train = TinyTrain();
  train.set_batch_size(2);
  const auto smaller =
      Make(TinyFlat(), {RouteSource::kReplay, path}, kTrain, train);
  EXPECT_THAT(
      smaller->Step(),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr(path + ": record 1 has 4 sequences (tokens: 32"),
                     HasSubstr("the batch of step 1, micro-batch 0 has 2 "
                               "sequences (tokens: 32"))));
  train = TinyTrain();
  train.set_accumulation(3);
  TrainTrace(TinyFlat(), 2);
  const auto longer =
      Make(TinyFlat(), {RouteSource::kReplay, path}, kTrain, train);
  EXPECT_THAT(longer->Step(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr(path + ": record 3 is of step 2, micro-batch "
                                        "0; want one of step 1, micro-batch "
                                        "2")));
}

TEST_F(RoutingReplayTest, StopsAtTheDamage) {
  const std::string path = TrainTrace(TinyFlat(), 2);
  const auto whole = ReadFile(path);
  ASSERT_THAT(whole, IsOk());
  std::string flipped = *whole;
  flipped[flipped.size() * 3 / 4] ^= 8;
  for (const std::string& damaged :
       {whole->substr(0, whole->size() / 2), flipped}) {
    ASSERT_THAT(WriteFileAtomically(path, damaged), IsOk());
    const auto trainer = Make(TinyFlat(), {RouteSource::kReplay, path});
    absl::Status status;
    for (int i = 0; i < 2 && status.ok(); ++i) {
      status = trainer->Step().status();
    }
    EXPECT_THAT(status,
                StatusIs(absl::StatusCode::kDataLoss,
                         HasSubstr(path + " is damaged after record ")));
  }
}

TEST_F(RoutingReplayTest, DoesNotRecordOverTheTraceThatItReplays) {
  const std::string path = TrainTrace(TinyFlat(), 1);
  const auto trainer = Make(TinyFlat(), {RouteSource::kReplay, path});
  RecordOptions options;
  options.path = absl::StrCat(testing::TempDir(), "/../",
                              std::filesystem::path(testing::TempDir())
                                  .lexically_normal()
                                  .parent_path()
                                  .filename()
                                  .string(),
                              "/replay_train.gz");
  options.overwrite = true;
  EXPECT_THAT(trainer->StartRecording(options, kTrain, ""),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("is the trace that is replayed")));
}

// --- Forced balance ---

TEST_F(RoutingReplayTest, ForcedBalanceGivesExpertsEvenLoads) {
  for (const ModelConfig& model : AllGates()) {
    SCOPED_TRACE(model.moe().ShortDebugString());
    const std::string path = Path("balance");
    const auto trainer = Make(model, {RouteSource::kBalanced, ""});
    const auto recording = Record(*trainer, kTrain, path);
    Steps(*trainer, 2, recording.get());
    ASSERT_THAT(recording->Close(), IsOk());
    const auto metrics = trainer->Validate();
    ASSERT_THAT(metrics, IsOk());

    const Trace trace = ReadTrace(path);
    for (const RoutingRecord& record : trace.records) {
      for (size_t g = 0; g < trace.layout.gates.size(); ++g) {
        const auto rows = RankRows(trace.layout, record, g, 0);
        const auto [least, most] =
            std::minmax_element(rows.begin(), rows.end());
        EXPECT_LE(*most - *least, 1u);
        // 128 tokens a micro-batch, two experts each; nobody leaves.
        EXPECT_EQ(GateTokens(trace.layout, record, g), 128);
        EXPECT_EQ(GateRows(trace.layout, record, g), 256);
      }
    }
    EXPECT_THAT(metrics->experts.tier_tokens, Each(1.0));
    EXPECT_GT(metrics->experts.utilisation, 0.99);
  }
}

TEST_F(RoutingReplayTest, ForcedBalanceTrainsOnItsOwnChoices) {
  const auto balanced = Make(TinyHierarchical(), {RouteSource::kBalanced, ""});
  const auto gates = Make(TinyHierarchical());
  EXPECT_NE(Steps(*balanced, 1), Steps(*gates, 1));
  const std::vector<double> losses = Steps(*balanced, 9);
  EXPECT_LT(losses[16], losses[0]);
}

}  // namespace
}  // namespace strata
