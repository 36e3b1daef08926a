// strata convert

#include <cstdint>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/progress.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/convert_model.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_source.h"
#include "nlohmann/json.hpp"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/output.h"

namespace strata {
namespace {

constexpr int64_t kMegabyte = 1'000'000;

struct ConvertFlags {
  std::string from;
  std::string to;
  std::string format;
  int64_t shard_megabytes = 5000;
  bool json = false;
};

// The one that the source is not, unless the user says.
ModelFormat FormatOf(const ConvertFlags& flags, const ModelSource& source) {
  if (flags.format == "huggingface") return ModelFormat::kHuggingFace;
  if (flags.format == "strata") return ModelFormat::kStrata;
  return source.layout.own ? ModelFormat::kHuggingFace : ModelFormat::kStrata;
}

absl::StatusOr<int> RunConvert(const ConvertFlags& flags) {
  ASSIGN_OR_RETURN(const ModelSource source, OpenModelSource(flags.from));
  ConvertOptions options;
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

Command AddConvert(CLI::App& app) {
  CLI::App* convert = app.add_subcommand(
      "convert",
      "Turn a public checkpoint, a GGUF or a llama2.c file into a model of "
      "ours, or one of ours into a public checkpoint");
  auto flags = std::make_shared<ConvertFlags>();
  convert
      ->add_option("from", flags->from,
                   "Folder of a model, .gguf file, or llama2.c's .bin file")
      ->type_name("MODEL")
      ->required();
  convert->add_option("to", flags->to, "Folder to be made")
      ->type_name("DIR")
      ->required();
  convert
      ->add_option("--to-format", flags->format,
                   "Layout to write; by default the one that MODEL is not, or "
                   "strata")
      ->check(CLI::IsMember({"strata", "huggingface"}));
  convert
      ->add_option("--shard-mb", flags->shard_megabytes,
                   "Megabytes of a weights file, at most")
      ->type_name("N")
      ->check(AtLeast(1));
  AddJson(*convert, flags->json);
  return {convert, [flags] { return RunConvert(*flags); }};
}

}  // namespace strata
