// The trainer's checkpoints: <runs>/step-NNNNNN with
//
//   config.json, model.safetensors     the model, as serving loads it
//   optimizer.safetensors              moments, load history of the gates
//   trainer.json                       step, training config, data hash
//   tokenizer.json, tokenizer_config.json   if it learned ids, not bytes
//   manifest.json                      where it comes from
//
// One rank alone writes so, from its state. Several have a file each, and an
// index, instead of the two of tensors (training/checkpoint).

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/sha256.h"
#include "core/base/staged_directory.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/shards/shard_index.h"
#include "core/checkpoint/weight_files.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/gate.h"
#include "core/parallel/agree.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/passes/bf16_training.h"
#include "core/runtime/state_store.h"
#include "core/tokenizer/model_tokenizer.h"
#include "nlohmann/json.hpp"
#include "training/checkpoint/checkpoint_saver.h"
#include "training/checkpoint/state_parts.h"
#include "training/config.h"
#include "training/step_graph.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr char kTrainerFile[] = "trainer.json";
constexpr absl::string_view kStepPrefix = "step-";

bool IsCheckpoint(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path / kTrainerFile, ignored);
}

// Committed checkpoints below `runs`, oldest first. Names have six digits or
// more, so longer ones are later.
std::vector<std::string> Checkpoints(const std::string& runs) {
  std::vector<std::string> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(runs, error), end;
       !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (absl::StartsWith(name, kStepPrefix) && IsCheckpoint(it->path())) {
      found.push_back(it->path().string());
    }
  }
  std::sort(found.begin(), found.end(),
            [](const std::string& a, const std::string& b) {
              return a.size() != b.size() ? a.size() < b.size() : a < b;
            });
  return found;
}

// What a checkpoint remembers of the tokenizer, to know another one.
nlohmann::json ToJson(const CorpusTokenizer& tokenizer) {
  return {{"sha256", tokenizer.sha256}, {"end_token", tokenizer.end_token}};
}

// Whether a checkpoint with this trainer state was made from such ids.
absl::Status CheckTokenizer(const std::string& checkpoint,
                            const nlohmann::json& trainer,
                            const Corpus& corpus) {
  const auto describe = [](const nlohmann::json& tokenizer) {
    return tokenizer.is_null()
               ? std::string("bytes")
               : absl::StrCat("ids of the tokenizer ", tokenizer.dump());
  };
  const nlohmann::json theirs = trainer.value("tokenizer", nlohmann::json());
  const nlohmann::json ours =
      corpus.tokenizer ? ToJson(*corpus.tokenizer) : nlohmann::json();
  if (theirs == ours) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(checkpoint, " was trained on ", describe(theirs),
                   "; this is ", describe(ours),
                   " (without --tokenizer, a resumed run takes the "
                   "checkpoint's)"));
}

// Removes the oldest checkpoints below `runs` until `keep` are left; `newest`
// stays.
void RemoveOld(const std::string& runs, int64_t keep,
               const std::string& newest) {
  if (keep <= 0) return;
  const std::vector<std::string> all = Checkpoints(runs);
  const int64_t extra = static_cast<int64_t>(all.size()) - keep;
  for (int64_t i = 0; i < extra; ++i) {
    std::error_code error;
    if (all[i] != newest) std::filesystem::remove_all(all[i], error);
  }
}

// The index of tensors in several files; none where there is one file.
absl::StatusOr<std::optional<ShardIndex>> FindIndex(
    const std::string& checkpoint, const std::string& file) {
  std::error_code ignored;
  if (std::filesystem::exists(absl::StrCat(checkpoint, "/", file), ignored)) {
    return std::nullopt;
  }
  return ReadShardIndex(absl::StrCat(checkpoint, "/", IndexOf(file)));
}

// What a resumed run needs beyond the model: everything that an update touches
// and that is no gradient (those begin anew with each step). `names`: all
// states.
std::vector<std::string> OptimizerTensorNames(
    const std::vector<std::string>& names,
    const std::vector<std::string>& model) {
  std::vector<std::string> optimizer;
  for (const std::string& name : names) {
    if (absl::StartsWith(name, "grad.") || absl::StartsWith(name, "cache.") ||
        !GateOfLoad(name).empty()) {
      continue;  // Of a step, or of generation.
    }
    if (std::find(model.begin(), model.end(), name) == model.end()) {
      optimizer.push_back(name);
    }
  }
  return optimizer;
}

}  // namespace

bool Trainer::is_partitioned() const {
  return !shards_.empty() || pipeline_ != nullptr ||
         (options_.mesh != nullptr && options_.shard_optimizer);
}

absl::StatusOr<const Trainer::WholeState*> Trainer::DescribeWhole() {
  if (whole_ != nullptr) return whole_.get();
  auto whole = std::make_unique<WholeState>();
  std::vector<std::string> names;
  const auto add = [&](const Graph& graph) {
    for (const Value& value : graph.values()) {
      if ((value.role != Role::kParameter && value.role != Role::kState) ||
          whole->states.FindSource(value.name) != kNone) {
        continue;
      }
      names.push_back(value.name);
      whole->states.AddValue(value);
    }
  };
  if (!is_partitioned()) {
    if (pipeline_ == nullptr) add(gradients_->graph());
    add(update_->graph());
    const Graph& evaluation = evaluation_->program(/*chunk=*/0).graph();
    add(evaluation);
    whole->model = ModelTensorNames(evaluation);
    whole->optimizer = OptimizerTensorNames(state_->names(), whole->model);
    whole_ = std::move(whole);
    return whole_.get();
  }
  const int64_t n = train_.batch_size(), seq_len = train_.seq_len();
  ASSIGN_OR_RETURN(StepGraph step,
                   BuildGradientGraph(model_, n, seq_len, options_.dtype));
  ASSIGN_OR_RETURN(Graph update, BuildUpdateGraph(step.graph, model_, train_,
                                                  RankSums(), options_.dtype));
  ASSIGN_OR_RETURN(step, InBf16(std::move(step), bf16_weights_, weight_state_));
  update = UpdateInBf16(update, bf16_weights_, weight_state_);
  ASSIGN_OR_RETURN(const StepGraph evaluation,
                   BuildEvaluationGraph(model_, n, seq_len, options_.dtype,
                                        RouteSource::kGate, MeshPlace()));
  add(step.graph);
  add(update);
  add(evaluation.graph);
  whole->model = ModelTensorNames(evaluation.graph);
  whole->optimizer = OptimizerTensorNames(names, whole->model);
  whole_ = std::move(whole);
  return whole_.get();
}

absl::Status Trainer::BuildBalancer() {
  if (!options_.balance.moves()) return absl::OkStatus();
  ASSIGN_OR_RETURN(balancer_,
                   LiveBalancer::Create(options_.balance, *meter_, shards_,
                                        *options_.mesh, *state_));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Trainer::SaveCheckpoint(
    const std::string& runs, const nlohmann::json& manifest) {
  RETURN_IF_ERROR(BeginCheckpoint(runs, manifest));
  absl::StatusOr<std::optional<SaveReport>> report =
      PollCheckpoint(/*wait=*/true);
  RETURN_IF_ERROR(report.status());
  CHECK(report->has_value()) << "what was waited for has ended";
  RETURN_IF_ERROR((*report)->status);
  return std::move((*report)->path);
}

absl::Status Trainer::BeginCheckpoint(const std::string& runs,
                                      const nlohmann::json& manifest) {
  const std::string path =
      absl::StrFormat("%s/%s%06d", runs, kStepPrefix, step_);
  if (options_.mesh == nullptr) {
    const absl::Time begin = absl::Now();
    SaveReport& report = saved_alone_.emplace();
    report.path = path;
    report.status = WriteAlone(path, manifest);
    if (report.status.ok()) {
      RemoveOld(runs, train_.checkpoints_to_keep(), path);
    }
    report.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    report.seconds_stopped = report.seconds;
    return absl::OkStatus();
  }
  if (saver_ == nullptr) {
    saver_ = std::make_unique<CheckpointSaver>(options_.mesh->world());
  }
  ASSIGN_OR_RETURN(const WholeState* const whole, DescribeWhole());
  CheckpointContents contents;
  contents.path = path;
  contents.of = absl::StrCat(
      "step ", step_, " of run ",
      Sha256Hex(absl::StrCat(ToJson(model_), ToJson(train_), corpus_->sha256))
          .substr(0, 16));
  contents.whole = &whole->states;
  contents.model = whole->model;
  contents.optimizer = whole->optimizer;
  contents.texts = CheckpointTexts(contents.of);
  contents.manifest = manifest;
  contents.saved = [runs, path, keep = train_.checkpoints_to_keep()] {
    RemoveOld(runs, keep, path);
  };
  // What is saved does not depend on where experts are.
  if (balancer_ != nullptr) RETURN_IF_ERROR(balancer_->GoHome());
  RETURN_IF_ERROR(saver_->Begin(std::move(contents), *state_, shards_));
  return balancer_ != nullptr ? balancer_->GoBack() : absl::OkStatus();
}

absl::StatusOr<std::optional<SaveReport>> Trainer::PollCheckpoint(bool wait) {
  if (saver_ != nullptr) return saver_->Poll(wait);
  return std::exchange(saved_alone_, std::nullopt);
}

// Loads the checkpoint's tensors, of which the rank reads and keeps its part.
absl::Status Trainer::LoadRankTensors(const std::string& checkpoint,
                                      const std::string& of) {
  ASSIGN_OR_RETURN(const WholeState* const whole, DescribeWhole());
  for (const auto& [file, names] :
       {std::pair(kWeightsFile, &whole->model),
        std::pair(kOptimizerFile, &whole->optimizer)}) {
    ASSIGN_OR_RETURN(const WeightFiles files,
                     WeightFiles::Open(checkpoint, file));
    ASSIGN_OR_RETURN(const std::optional<ShardIndex> index,
                     FindIndex(checkpoint, file));
    if (index && index->checkpoint != of) {
      return absl::InvalidArgumentError(
          absl::StrCat(files.path(), " is of ", index->checkpoint, "; ",
                       kTrainerFile, " beside it is of ", of));
    }
    if (index) {  // Each rank reads some of the files whole for it.
      const bool alone = options_.mesh == nullptr;
      RETURN_IF_ERROR(CheckListedSums(
          files.path(), *index, alone ? 0 : options_.mesh->world().rank(),
          alone ? 1 : options_.mesh->world().size()));
    }
    RETURN_IF_ERROR(ReadParts(files, whole->states, *names, shards_, *state_));
  }
  return absl::OkStatus();
}

// The files beside those of tensors. `of`: what the latter say they are of.
std::vector<std::pair<std::string, std::string>> Trainer::CheckpointTexts(
    const std::string& of) const {
  std::vector<std::pair<std::string, std::string>> texts;
  texts.emplace_back(kConfigFile, ToJson(model_));
  nlohmann::json trainer = {{"step", step_},
                            {"data_sha256", corpus_->sha256},
                            {"train", nlohmann::json::parse(ToJson(train_))}};
  if (!of.empty()) trainer[kCheckpointKey] = of;
  if (corpus_->tokenizer) {
    const CorpusTokenizer& tokenizer = *corpus_->tokenizer;
    trainer["tokenizer"] = ToJson(tokenizer);
    texts.emplace_back(kTokenizerFile, tokenizer.json);
    texts.emplace_back(kTokenizerConfigFile,
                       EndTokenConfig(tokenizer.end_text));
  }
  texts.emplace_back(kTrainerFile, trainer.dump(2) + "\n");
  return texts;
}

// Of one rank, from its state: two files of tensors.
absl::Status Trainer::WriteAlone(const std::string& path,
                                 const nlohmann::json& manifest) {
  ASSIGN_OR_RETURN(StagedDirectory staged, StagedDirectory::Create(path));
  ASSIGN_OR_RETURN(const WholeState* const whole, DescribeWhole());
  RETURN_IF_ERROR(SaveTensors(*state_, whole->model, kWeightsFile, staged));
  RETURN_IF_ERROR(
      SaveTensors(*state_, whole->optimizer, kOptimizerFile, staged));
  for (const auto& [name, text] : CheckpointTexts(/*of=*/"")) {
    RETURN_IF_ERROR(staged.WriteFile(name, text));
  }
  nlohmann::json with_weights = manifest;
  ASSIGN_OR_RETURN(with_weights["weights_hash"], HashWeights(staged.path()));
  RETURN_IF_ERROR(staged.WriteFile(kManifestFile, with_weights.dump(2) + "\n"));
  return staged.Commit();
}

absl::Status Trainer::Resume(const std::string& checkpoint) {
  const absl::Status resumed = ResumeRank(checkpoint);
  if (options_.mesh == nullptr) return resumed;
  // What one cannot read, none goes on from.
  ASSIGN_OR_RETURN(const Agreement agreement,
                   Agree(resumed, options_.mesh->world()));
  return agreement.status;
}

absl::Status Trainer::ResumeRank(const std::string& checkpoint) {
  ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(checkpoint));
  const std::string trainer_path = absl::StrCat(checkpoint, "/", kTrainerFile);
  ASSIGN_OR_RETURN(const std::string text, ReadFile(trainer_path));
  const nlohmann::json trainer =
      nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!trainer.is_object() || !trainer.contains("step") ||
      !trainer["step"].is_number_integer() ||
      !trainer.contains("data_sha256") || !trainer["data_sha256"].is_string() ||
      !trainer.contains("train") || !trainer["train"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        trainer_path, " is no trainer state: want step, data_sha256, train"));
  }
  RETURN_IF_ERROR(CheckTokenizer(checkpoint, trainer, *corpus_));
  if (ToJson(model) != ToJson(model_)) {
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint, " is of another model (", kConfigFile,
                     " differs from the config of this run)"));
  }
  if (trainer["data_sha256"] != corpus_->sha256) {
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint, " was trained on other data (SHA-256 ",
                     trainer["data_sha256"].get<std::string>(), "; this is ",
                     corpus_->sha256, ")"));
  }
  const auto of = trainer.find(kCheckpointKey);
  RETURN_IF_ERROR(LoadRankTensors(
      checkpoint,
      of != trainer.end() && of->is_string() ? of->get<std::string>() : ""));
  if (balancer_ != nullptr) balancer_->BeginInOrder();
  step_ = trainer["step"].get<int64_t>();
  return absl::OkStatus();
}

absl::StatusOr<std::string> FindCheckpoint(const std::string& runs) {
  RETURN_IF_ERROR(TidyStaging(runs));
  if (IsCheckpoint(runs)) return runs;
  const std::vector<std::string> all = Checkpoints(runs);
  if (all.empty()) {
    return absl::NotFoundError(absl::StrCat("no checkpoint in ", runs,
                                            "; want a folder ", kStepPrefix,
                                            "NNNNNN with ", kTrainerFile));
  }
  return all.back();
}

}  // namespace strata
