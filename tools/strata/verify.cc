// strata verify

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/progress.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/compare_weights.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/weight_storage.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/runtime/state_store.h"
#include "nlohmann/json.hpp"
#include "serving/engine/expected_logits.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/run/model_folder.h"

namespace strata {
namespace {

struct VerifyFlags {
  std::string model;
  std::string other;
  std::string expected;
  double tolerance = 1e-4;
  int threads = 1;
  WeightStorage weights = WeightStorage::kAsStored;
  bool json = false;
};

absl::StatusOr<int> VerifyExpected(const VerifyFlags& flags) {
  ASSIGN_OR_RETURN(const std::string folder, FindModel(flags.model));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  CpuBackend backend(flags.threads, AllCpuKernels());
  StateStore state(backend);
  std::vector<UnusedTensor> unused;
  RETURN_IF_ERROR(
      LoadModelWeights(folder, config, state, &unused, flags.weights));
  for (const std::string& line : DescribeUnused(unused)) PrintNote(line);
  ASSIGN_OR_RETURN(const ExpectedResult result,
                   CompareWithExpected(config, flags.expected, backend, state));
  const bool logits_agree = result.max_difference <= flags.tolerance;
  const bool greedy_agrees = result.num_greedy_equal == result.num_greedy;
  if (flags.json) {
    PrintJson(nlohmann::json{{"model", folder},
                             {"tokens", result.num_logits},
                             {"max_difference", result.max_difference},
                             {"cosine_difference", result.cosine_difference},
                             {"tolerance", flags.tolerance},
                             {"greedy_tokens", result.num_greedy},
                             {"greedy_tokens_equal", result.num_greedy_equal},
                             {"unused_tensors", unused.size()},
                             {"agrees", logits_agree && greedy_agrees}});
  } else {
    Print(absl::StrFormat(
        "logits of %d tokens: max absolute difference %.3g (%s %.3g), cosine "
        "difference %.3g\n",
        result.num_logits, result.max_difference,
        logits_agree ? "within" : "BEYOND", flags.tolerance,
        result.cosine_difference));
    if (result.num_greedy > 0) {
      Print(absl::StrFormat("greedy tokens: %d of %d agree%s\n",
                            result.num_greedy_equal, result.num_greedy,
                            greedy_agrees ? "" : ", the rest DIFFER"));
    }
  }
  return logits_agree && greedy_agrees ? 0 : 1;
}

absl::StatusOr<int> VerifyEqual(const VerifyFlags& flags) {
  Progress progress("verify", 0, 0);
  ASSIGN_OR_RETURN(
      const WeightComparison result,
      CompareWeights(flags.model, flags.other, [&](int64_t done, int64_t all) {
        progress.Update(done, {absl::StrCat("of ", all, " tensors")});
      }));
  progress.Finish();
  if (flags.json) {
    PrintJson(nlohmann::json{{"tensors_equal", result.num_equal},
                             {"bytes_equal", result.num_bytes},
                             {"differences", result.differences},
                             {"agrees", result.differences.empty()}});
  } else {
    for (const std::string& line : result.differences) {
      Print(absl::StrCat(line, "\n"));
    }
    Print(absl::StrCat(FormatInteger(result.num_equal), " tensors of ",
                       FormatInteger(result.num_bytes),
                       " bytes are equal in name, shape, dtype and bytes; ",
                       FormatInteger(result.differences.size()), " differ\n"));
  }
  return result.differences.empty() ? 0 : 1;
}

}  // namespace

Command AddVerify(OptionParser& app) {
  OptionParser* verify = app.AddSubcommand(
      "verify",
      "Hold a model to another implementation's logits (--expected), or two "
      "checkpoints to each other, tensor by tensor; exits with 1 if they "
      "differ");
  auto flags = std::make_shared<VerifyFlags>();
  verify
      ->AddOption("model", flags->model,
                  "Model folder; or the first of two folders or files")
      ->TypeName("MODEL")
      ->Required();
  Option* other =
      verify->AddOption("other", flags->other, "The second")->TypeName("B");
  verify
      ->AddOption("--expected", flags->expected,
                  "Safetensors file with input_ids and logits, prompt and "
                  "greedy")
      ->TypeName("FILE")
      ->Excludes(other);
  verify
      ->AddOption("--tolerance", flags->tolerance,
                  "Largest absolute difference of logits that agrees")
      ->TypeName("X");
  AddWeights(*verify, flags->weights);
  AddThreads(*verify, flags->threads);
  AddJson(*verify, flags->json);
  return {verify, [flags]() -> absl::StatusOr<int> {
            if (!flags->expected.empty()) return VerifyExpected(*flags);
            if (!flags->other.empty()) return VerifyEqual(*flags);
            return absl::InvalidArgumentError(
                "nothing to verify the model by; want --expected FILE, or a "
                "second checkpoint");
          }};
}

}  // namespace strata
