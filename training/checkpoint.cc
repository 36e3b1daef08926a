// The trainer's checkpoints: <runs>/step-NNNNNN with
//
//   config.json, model.safetensors     the model, as serving loads it
//   optimizer.safetensors              moments, load history of the gates
//   trainer.json                       step, training config, data hash
//   tokenizer.json, tokenizer_config.json   if it learned ids, not bytes
//   manifest.json                      where it comes from

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/base/files.h"
#include "core/base/staged_directory.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/gate.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/runtime/state_store.h"
#include "core/tokenizer/model_tokenizer.h"
#include "nlohmann/json.hpp"
#include "training/config.h"
#include "training/rank_state.h"
#include "training/step_graph.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr char kOptimizerFile[] = "optimizer.safetensors";
constexpr char kTrainerFile[] = "trainer.json";
constexpr char kManifestFile[] = "manifest.json";
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

absl::StatusOr<Trainer::WholeState> Trainer::DescribeWhole() const {
  WholeState whole;
  std::vector<std::string> names;
  const auto add = [&](const Graph& graph) {
    for (const Value& value : graph.values()) {
      if ((value.role != Role::kParameter && value.role != Role::kState) ||
          whole.states.FindSource(value.name) != kNone) {
        continue;
      }
      names.push_back(value.name);
      whole.states.AddValue(value);
    }
  };
  if (!is_partitioned()) {
    whole.model = ModelTensorNames(evaluation_->graph());
    whole.optimizer = OptimizerTensorNames(state_->names(), whole.model);
    return whole;
  }
  const int64_t n = train_.batch_size(), seq_len = train_.seq_len();
  ASSIGN_OR_RETURN(const StepGraph step,
                   BuildGradientGraph(model_, n, seq_len, options_.dtype));
  ASSIGN_OR_RETURN(
      const Graph update,
      BuildUpdateGraph(step.graph, model_, train_, RankSums(), options_.dtype));
  ASSIGN_OR_RETURN(const StepGraph evaluation,
                   BuildEvaluationGraph(model_, n, seq_len, options_.dtype,
                                        RouteSource::kGate, MeshPlace()));
  add(step.graph);
  add(update);
  add(evaluation.graph);
  whole.model = ModelTensorNames(evaluation.graph);
  whole.optimizer = OptimizerTensorNames(names, whole.model);
  return whole;
}

absl::Status Trainer::BuildBalancer() {
  if (!options_.balance.moves()) return absl::OkStatus();
  if (backend_->name() != "cpu") {
    return absl::UnimplementedError(
        absl::StrCat("--rebalance moves experts of the CPU's ranks only so "
                     "far; the device is ",
                     backend_->name()));
  }
  ASSIGN_OR_RETURN(balancer_,
                   LiveBalancer::Create(options_.balance, *meter_, shards_,
                                        *options_.mesh, *state_));
  return absl::OkStatus();
}

// What is saved does not depend on where experts are.
absl::StatusOr<std::string> Trainer::SaveCheckpoint(
    const std::string& runs, const nlohmann::json& manifest) {
  if (balancer_ == nullptr) return SaveInOrder(runs, manifest);
  RETURN_IF_ERROR(balancer_->GoHome());
  absl::StatusOr<std::string> path = SaveInOrder(runs, manifest);
  RETURN_IF_ERROR(balancer_->GoBack());
  return path;
}

absl::StatusOr<std::string> Trainer::SaveInOrder(
    const std::string& runs, const nlohmann::json& manifest) {
  if (options_.mesh == nullptr) {
    return WriteCheckpoint(*state_, runs, manifest);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<StateStore> whole, GatherRanks());
  // All ranks know the same then, so one writes; the others wait, lest they go
  // on from what may not be there.
  absl::StatusOr<std::string> path = CheckpointPath(runs);
  if (is_first_rank()) {
    path = WriteCheckpoint(whole != nullptr ? *whole : *state_, runs, manifest);
  }
  int32_t failed = path.ok() ? 0 : 1;
  RETURN_IF_ERROR(options_.mesh->world().Broadcast(
      PayloadOf(absl::MakeSpan(&failed, 1)), /*root=*/0));
  if (failed != 0 && path.ok()) {
    return absl::AbortedError("rank 0 could not save the checkpoint");
  }
  return path;
}

// All of the model and its optimizer, on the first rank; null where that has it
// anyway, and on the others.
absl::StatusOr<std::unique_ptr<StateStore>> Trainer::GatherRanks() {
  if (!is_partitioned()) return nullptr;
  ASSIGN_OR_RETURN(const WholeState whole, DescribeWhole());
  std::vector<std::string> names = whole.model;
  names.insert(names.end(), whole.optimizer.begin(), whole.optimizer.end());
  std::unique_ptr<StateStore> store;
  if (is_first_rank()) {
    ASSIGN_OR_RETURN(store, DeclareStates(whole.states, names, *backend_));
  }
  RETURN_IF_ERROR(
      GatherWhole(*state_, names, shards_, *options_.mesh, store.get()));
  return store;
}

// Loads the checkpoint's tensors, of which the rank keeps its part.
absl::Status Trainer::LoadRankTensors(const std::string& checkpoint) {
  ASSIGN_OR_RETURN(const WholeState whole, DescribeWhole());
  for (const auto& [file, names] :
       {std::pair(kWeightsFile, whole.model),
        std::pair(kOptimizerFile, whole.optimizer)}) {
    const std::string path = absl::StrCat(checkpoint, "/", file);
    if (!is_partitioned()) {
      RETURN_IF_ERROR(LoadTensors(path, names, *state_));
      continue;
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<StateStore> store,
                     DeclareStates(whole.states, names, *backend_));
    RETURN_IF_ERROR(LoadTensors(path, names, *store));
    TakeShards(*store, names, shards_, *state_);
  }
  return absl::OkStatus();
}

std::string Trainer::CheckpointPath(const std::string& runs) const {
  return absl::StrFormat("%s/%s%06d", runs, kStepPrefix, step_);
}

absl::StatusOr<std::string> Trainer::WriteCheckpoint(
    const StateStore& state, const std::string& runs,
    const nlohmann::json& manifest) {
  const std::string path = CheckpointPath(runs);
  ASSIGN_OR_RETURN(StagedDirectory staged, StagedDirectory::Create(path));
  RETURN_IF_ERROR(staged.WriteFile(kConfigFile, ToJson(model_)));
  ASSIGN_OR_RETURN(const WholeState whole, DescribeWhole());
  RETURN_IF_ERROR(SaveTensors(state, whole.model, kWeightsFile, staged));
  RETURN_IF_ERROR(SaveTensors(state, whole.optimizer, kOptimizerFile, staged));
  nlohmann::json trainer = {{"step", step_},
                            {"data_sha256", corpus_->sha256},
                            {"train", nlohmann::json::parse(ToJson(train_))}};
  if (corpus_->tokenizer) {
    const CorpusTokenizer& tokenizer = *corpus_->tokenizer;
    trainer["tokenizer"] = ToJson(tokenizer);
    RETURN_IF_ERROR(staged.WriteFile(kTokenizerFile, tokenizer.json));
    RETURN_IF_ERROR(staged.WriteFile(kTokenizerConfigFile,
                                     EndTokenConfig(tokenizer.end_text)));
  }
  RETURN_IF_ERROR(staged.WriteFile(kTrainerFile, trainer.dump(2) + "\n"));
  nlohmann::json with_weights = manifest;
  ASSIGN_OR_RETURN(with_weights["weights_hash"], HashWeights(staged.path()));
  RETURN_IF_ERROR(staged.WriteFile(kManifestFile, with_weights.dump(2) + "\n"));
  RETURN_IF_ERROR(staged.Commit());

  if (train_.checkpoints_to_keep() > 0) {
    std::vector<std::string> all = Checkpoints(runs);
    const int64_t extra =
        static_cast<int64_t>(all.size()) - train_.checkpoints_to_keep();
    for (int64_t i = 0; i < extra; ++i) {
      std::error_code error;
      if (all[i] != path) std::filesystem::remove_all(all[i], error);
    }
  }
  return path;
}

absl::Status Trainer::Resume(const std::string& checkpoint) {
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
  RETURN_IF_ERROR(LoadRankTensors(checkpoint));
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
