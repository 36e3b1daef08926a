// strata convert

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/progress.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/convert_model.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/stored_vocabulary.h"
#include "core/tokenizer/model_tokenizer.h"
#include "core/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"

namespace strata {
namespace {

constexpr int64_t kMegabyte = 1'000'000;

struct ConvertFlags {
  std::string from;
  std::string to;
  std::string format;
  std::string tokenizer;
  bool no_tokenizer = false;
  int64_t shard_megabytes = 5000;
  bool json = false;
};

// The one that the source is not, unless the user says.
ModelFormat FormatOf(const ConvertFlags& flags, const ModelSource& source) {
  if (flags.format == "huggingface") return ModelFormat::kHuggingFace;
  if (flags.format == "strata") return ModelFormat::kStrata;
  return source.layout.own ? ModelFormat::kHuggingFace : ModelFormat::kStrata;
}

// A tokenizer.json and the config beside it, as they are.
absl::Status CopyTokenizer(const std::string& path,
                           std::map<std::string, std::string>& files) {
  ASSIGN_OR_RETURN(const ModelTokenizer tokenizer, ModelTokenizer::Load(path));
  files[kTokenizerFile] = tokenizer.json();
  std::error_code ignored;
  std::filesystem::path folder = path;
  if (!std::filesystem::is_directory(folder, ignored)) {
    if (folder.filename() != kTokenizerFile) return absl::OkStatus();
    folder = folder.parent_path();
  }
  absl::StatusOr<std::string> config =
      ReadFile((folder / kTokenizerConfigFile).string());
  if (config.ok()) files[kTokenizerConfigFile] = *std::move(config);
  return absl::OkStatus();
}

absl::Status ConvertVocabulary(const std::string& path,
                               std::map<std::string, std::string>& files) {
  ASSIGN_OR_RETURN(TokenizerFiles converted, OpenVocabulary(path));
  if (converted.num_ties > 0) {
    PrintNote(absl::StrCat(
        path, ": ", converted.num_ties,
        " pieces have the score of another; where two such could be made, "
        "SentencePiece takes the left one, and tokenizer.json the lower id"));
  }
  files[kTokenizerFile] = std::move(converted.tokenizer);
  files[kTokenizerConfigFile] = std::move(converted.config);
  return absl::OkStatus();
}

// What becomes the tokenizer.json of the folder, beside what the source's own
// folder has.
absl::Status ChooseTokenizer(const ConvertFlags& flags,
                             const ModelSource& source,
                             ConvertOptions& options) {
  options.copies_tokenizer = !flags.no_tokenizer;
  if (flags.no_tokenizer) return absl::OkStatus();
  if (!flags.tokenizer.empty()) {
    std::error_code ignored;
    const bool is_json =
        absl::EndsWith(flags.tokenizer, ".json") ||
        std::filesystem::is_directory(flags.tokenizer, ignored);
    RETURN_IF_ERROR(is_json
                        ? CopyTokenizer(flags.tokenizer, options.files)
                        : ConvertVocabulary(flags.tokenizer, options.files));
  } else if (absl::EndsWith(flags.from, ".gguf")) {
    const absl::Status status = ConvertVocabulary(flags.from, options.files);
    if (absl::IsNotFound(status)) {
      PrintNote(status.message());
    } else if (!status.ok()) {
      return absl::Status(
          status.code(),
          absl::StrCat(status.message(),
                       " (--tokenizer takes another, --no-tokenizer none)"));
    }
  } else if (source.folder.empty()) {
    PrintNote(absl::StrCat(flags.from,
                           " holds no vocabulary; --tokenizer with the "
                           "author's file makes a tokenizer.json"));
  }
  const auto json = options.files.find(kTokenizerFile);
  if (json == options.files.end()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Parse(json->second));
  if (tokenizer.vocab_size() <= source.config.vocab_size()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "the tokenizer has ", tokenizer.vocab_size(), " tokens, and the model ",
      source.config.vocab_size(), "; it belongs to another model"));
}

absl::StatusOr<int> RunConvert(const ConvertFlags& flags) {
  ASSIGN_OR_RETURN(const ModelSource source, OpenModelSource(flags.from));
  ConvertOptions options;
  RETURN_IF_ERROR(ChooseTokenizer(flags, source, options));
  options.to = FormatOf(flags, source);
  options.max_shard_bytes = flags.shard_megabytes * kMegabyte;
  // Megabytes as steps.
  std::unique_ptr<Progress> progress;
  options.progress = [&](int64_t done, int64_t all) {
    if (progress == nullptr) {
      progress = std::make_unique<Progress>("convert", 0,
                                            (all + kMegabyte - 1) / kMegabyte);
    }
    progress->Update((done + kMegabyte - 1) / kMegabyte, {"MB"});
  };
  const absl::StatusOr<ConvertResult> result =
      ConvertModel(source, flags.to, options);
  if (progress != nullptr) progress->Finish();
  if (!result.ok()) {
    return absl::Status(
        result.status().code(),
        absl::StrCat(flags.from, ": ", result.status().message()));
  }
  for (const std::string& line : DescribeUnused(result->unused)) {
    PrintNote(line);
  }
  const char* const format =
      options.to == ModelFormat::kStrata ? "strata" : "huggingface";
  if (flags.json) {
    nlohmann::json unused = nlohmann::json::array();
    for (const UnusedTensor& tensor : result->unused) {
      unused.push_back({{"name", tensor.name}, {"reason", tensor.reason}});
    }
    PrintJson(nlohmann::json{{"from", flags.from},
                             {"to", flags.to},
                             {"format", format},
                             {"tensors", result->num_tensors},
                             {"bytes", result->num_bytes},
                             {"unused", unused}});
  } else {
    Print(absl::StrCat(flags.to, ": ", FormatInteger(result->num_tensors),
                       " tensors of ", FormatInteger(result->num_bytes),
                       " bytes, in the layout ", format, "\n"));
  }
  return 0;
}

}  // namespace

Command AddConvert(OptionParser& app) {
  OptionParser* convert = app.AddSubcommand(
      "convert",
      "Turn a public checkpoint, a GGUF or a llama2.c file into a model of "
      "ours, or one of ours into a public checkpoint");
  auto flags = std::make_shared<ConvertFlags>();
  convert
      ->AddOption("from", flags->from,
                  "Folder of a model, .gguf file, or llama2.c's .bin file")
      ->TypeName("MODEL")
      ->Required();
  convert->AddOption("to", flags->to, "Folder to be made")
      ->TypeName("DIR")
      ->Required();
  convert
      ->AddOption("--to-format", flags->format,
                  "Layout to write; by default the one that MODEL is not, or "
                  "strata")
      ->TypeName("strata|huggingface")
      ->Check(OneOf({"strata", "huggingface"}));
  Option* const tokenizer =
      convert
          ->AddOption("--tokenizer", flags->tokenizer,
                      "What to make tokenizer.json of: llama2.c's vocabulary, "
                      "a .gguf file, a tokenizer.json or its folder (default: "
                      "MODEL's own)")
          ->TypeName("PATH");
  convert
      ->AddFlag("--no-tokenizer", flags->no_tokenizer,
                "Leaves MODEL's tokenizer and its files behind")
      ->Excludes(tokenizer);
  convert
      ->AddOption("--shard-mb", flags->shard_megabytes,
                  "Megabytes of a weights file, at most")
      ->TypeName("N")
      ->Check(AtLeast(1));
  AddJson(*convert, flags->json);
  return {convert, [flags] { return RunConvert(*flags); }};
}

}  // namespace strata
