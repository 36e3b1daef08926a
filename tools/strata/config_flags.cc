#include "tools/strata/config_flags.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/progress.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/checkpoint/weight_storage.h"
#include "core/model/config.h"
#include "core/model/set_field.h"
#include "core/quant/cache_format.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/data/demo_corpus.h"
#include "training/data/tokenize_corpus.h"

namespace strata {
namespace {

constexpr char kModelPrefix[] = "model.";
constexpr char kTrainPrefix[] = "train.";
constexpr int kMaxThreads = 1024;

bool HasPath(const google::protobuf::Message& message, absl::string_view path) {
  const std::vector<std::string> paths = FieldPaths(*message.GetDescriptor());
  return std::find(paths.begin(), paths.end(), path) != paths.end();
}

absl::Status SetOneField(absl::string_view assignment, Configs& configs) {
  absl::string_view rest = assignment;
  if (absl::ConsumePrefix(&rest, kModelPrefix)) {
    return SetField(configs.model, rest);
  }
  if (absl::ConsumePrefix(&rest, kTrainPrefix)) {
    return SetField(configs.train, rest);
  }
  const absl::string_view path = assignment.substr(0, assignment.find('='));
  const bool in_model = HasPath(configs.model, path);
  const bool in_train = HasPath(configs.train, path);
  if (in_model && in_train) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", path, "\" is a field of both; want model.", path,
                     " or train.", path));
  }
  if (in_model) return SetField(configs.model, assignment);
  if (in_train) return SetField(configs.train, assignment);
  if (path.size() == assignment.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set ", assignment, " has no '='; want field=value"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "no field \"", path, "\"; there are model.{",
      absl::StrJoin(FieldPaths(*ModelConfig::descriptor()), ", "),
      "} and train.{",
      absl::StrJoin(FieldPaths(*TrainConfig::descriptor()), ", "), "}"));
}

}  // namespace

absl::StatusOr<Configs> PresetConfigs(const std::string& name) {
  Configs configs;
  ASSIGN_OR_RETURN(configs.model, ModelPreset(name));
  ASSIGN_OR_RETURN(configs.train, TrainPreset(name));
  return configs;
}

absl::Status SetFields(const std::vector<std::string>& assignments,
                       Configs& configs) {
  for (const std::string& assignment : assignments) {
    RETURN_IF_ERROR(SetOneField(assignment, configs));
  }
  return absl::OkStatus();
}

absl::StatusOr<Corpus> LoadCorpus(const std::string& folder) {
  return folder.empty() ? LoadDemoCorpus() : LoadFolderCorpus(folder);
}

void PrintNotes(const Corpus& corpus) {
  for (const std::string& note : corpus.notes) PrintNote(note);
}

absl::Status TokenizeWithProgress(const ModelTokenizer& tokenizer,
                                  Corpus& corpus) {
  constexpr int64_t kMegabyte = 1'000'000;
  constexpr int64_t kLongBytes = 32 * kMegabyte;  // Two seconds.
  const auto megabytes = [](int64_t bytes) {
    return (bytes + kMegabyte - 1) / kMegabyte;
  };
  std::unique_ptr<Progress> progress;
  int64_t shown = 0;
  return TokenizeCorpus(tokenizer, corpus, [&](int64_t done, int64_t wanted) {
    // Documents are many, and some are smaller than a step.
    if (wanted < kLongBytes || megabytes(done) == shown) return;
    if (progress == nullptr) {
      progress = std::make_unique<Progress>("tokenize", 0, megabytes(wanted));
    }
    shown = megabytes(done);
    progress->Update(shown, {"MB"});
  });
}

absl::StatusOr<Corpus> LoadCorpusFor(const std::string& model_folder,
                                     const std::string& data) {
  ASSIGN_OR_RETURN(Corpus corpus, LoadCorpus(data));
  if (!HasTokenizer(model_folder)) return corpus;
  ASSIGN_OR_RETURN(const ModelTokenizer tokenizer,
                   ModelTokenizer::Load(model_folder));
  RETURN_IF_ERROR(TokenizeWithProgress(tokenizer, corpus));
  return corpus;
}

void AddPreset(OptionParser& app, std::string& preset) {
  app.AddOption("--preset", preset,
                absl::StrCat("Model and training config: ",
                             absl::StrJoin(ModelPresetNames(), ", ")))
      ->TypeName("NAME");
}

void AddSet(OptionParser& app, std::vector<std::string>& assignments) {
  app.AddOption("--set", assignments,
                "Set a field of the config, such as "
                "model.moe.hierarchical.tau=0.8 or train.learning_rate=1e-3; "
                "may be repeated")
      ->TypeName("FIELD=VALUE")
      ->OneValueAtATime()
      ->ShowDefault("");
}

void AddData(OptionParser& app, std::string& folder) {
  app.AddOption("--data", folder,
                "Folder of text with a subfolder for each domain (default: "
                "the demo's corpus, from the system's packages)")
      ->TypeName("DIR");
}

void AddThreads(OptionParser& app, int& num_threads) {
  num_threads = NumUsableCores();
  app.AddOption("--threads", num_threads,
                "Threads; results do not depend on them (default: one for "
                "each usable core)")
      ->TypeName("N")
      ->Check(Between(1, kMaxThreads));
}

absl::StatusOr<WeightStorage> WeightStorageOf(absl::string_view name) {
  if (name == "bf16") return WeightStorage::kBF16;
  if (name == "f32") return WeightStorage::kF32;
  return absl::InvalidArgumentError(
      absl::StrCat("weights are ", name, "; want bf16 or f32"));
}

void AddWeights(OptionParser& app, WeightStorage& storage) {
  storage = WeightStorage::kAsStored;
  app.AddOption(
         "--weights",
         [&storage](const std::string& name) {
           storage = WeightStorageOf(name).value_or(storage);
         },
         "Keep matrices in bf16 (rounding wider ones) or widen them to f32 "
         "(default: as they are on disk; packed rows of 2 bits, or of several "
         "formats, in one of 4 or 8 bits on a GPU)")
      ->TypeName("bf16|f32")
      ->Check(OneOf({"bf16", "f32"}));
}

void AddCache(OptionParser& app, CacheOptions& cache) {
  app.AddOption(
         "--cache",
         // The check below comes first.
         [&cache](const std::string& name) {
           cache.format = CacheFormatOf(name).value_or(CacheFormat::kF32);
         },
         "How keys and values are kept (default: f32)")
      ->TypeName("f32|bf16|int8|int4")
      ->Check(OneOf({"f32", "bf16", "int8", "int4"}));
  app.AddOption("--attention-bits", cache.attention_bits,
                "Bits of attention's probabilities, as powers of two; 0: "
                "floats. Wants --cache int8 or int4")
      ->TypeName("0|4|5|6")
      ->Check(OneOf({"0", "4", "5", "6"}));
}

void AddJson(OptionParser& app, bool& json) {
  app.AddFlag("--json", json, "Print the result as JSON, and nothing else");
}

}  // namespace strata
