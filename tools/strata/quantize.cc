// strata quantize

#include <csignal>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/manifest.h"
#include "core/base/progress.h"
#include "core/base/sha256.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/model/config.h"
#include "core/quant/calibrate.h"
#include "core/quant/format.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/quantize_model.h"
#include "core/quant/quantized_matrix.h"
#include "core/runtime/state_store.h"
#include "nlohmann/json.hpp"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/device_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/data/calibration_batches.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/quant/code_learning.h"
#include "training/quant/loss_weights.h"
#include "training/quant/model_numbers.h"
#include "training/quant/router_tuning.h"
#include "training/run/model_folder.h"
#include "training/trainer.h"

namespace strata {
namespace {

struct QuantizeFlags {
  std::string model;
  std::string out;
  std::string data;
  std::string method = "learned";
  QuantFormat format;
  bool asymmetric = false;
  bool rows = false;
  int head_bits = 8;
  int64_t tokens = 65536;
  int64_t budget_bytes = 0;
  std::string choose = "outputs";
  int64_t learn_steps = 0;
  double learning_rate = CodeLearningOptions().learning_rate;
  TuningOptions tuning = {/*steps=*/0};
  uint64_t seed = 1;
  bool overwrite = false;
  DeviceFlags device;
  int threads = 1;
  bool json = false;
};

double Share(double part, double all) { return all > 0 ? part / all : 0; }

std::string Percent(double share) {
  return absl::StrFormat("%.3f %%", 100 * share);
}

int64_t NumOf(int bits, const QuantizedWeight& w) {
  const auto it = w.num_of_bits.find(bits);
  return it == w.num_of_bits.end() ? 0 : it->second;
}

// How many experts, or matrices, have 2, 4 and 8 bits of a budget.
std::string Counts(const QuantizedWeight& w) {
  if (w.num_of_bits.empty()) return "";
  return absl::StrCat(NumOf(2, w), ", ", NumOf(4, w), ", ", NumOf(8, w));
}

std::string WeightTable(const QuantizeResult& result) {
  std::vector<std::vector<std::string>> rows = {
      {"tensor", "bits a weight", "error of w", "of x w", "experts",
       "in 2, 4, 8 bits", "fewest tokens", "blended"}};
  for (const QuantizedWeight& w : result.weights) {
    const bool experts = w.num_experts > 0;
    rows.push_back({w.name, absl::StrFormat("%.3f", w.bits_per_weight),
                    Percent(Share(w.error.weight_error, w.error.weight)),
                    Percent(Share(w.error.output_error, w.error.output)),
                    experts ? FormatInteger(w.num_experts) : "", Counts(w),
                    experts ? FormatInteger(w.fewest_inputs) : "",
                    experts ? FormatInteger(w.num_blended) : ""});
  }
  return FormatTable(rows);
}

nlohmann::json ResultJson(const QuantizeResult& result) {
  nlohmann::json weights = nlohmann::json::array();
  for (const QuantizedWeight& w : result.weights) {
    weights.push_back(
        {{"name", w.name},
         {"format", ToText(w.format)},
         {"weights", w.num_weights},
         {"bits_per_weight", w.bits_per_weight},
         {"weight_error", Share(w.error.weight_error, w.error.weight)},
         {"output_error", Share(w.error.output_error, w.error.output)},
         {"experts", w.num_experts},
         {"in_2_bits", NumOf(2, w)},
         {"in_4_bits", NumOf(4, w)},
         {"in_8_bits", NumOf(8, w)},
         {"fewest_tokens_of_an_expert", w.fewest_inputs},
         {"experts_blended", w.num_blended}});
  }
  return {{"weights", weights},
          {"bytes", result.num_bytes},
          {"source_bytes", result.num_source_bytes},
          {"layers_resumed", result.layers_resumed}};
}

// Of steps that say what the loss feels, and are undone.
TuningOptions WeighingOptions(const QuantizeFlags& flags) {
  TuningOptions options = flags.tuning;
  options.steps = kLossWeightSteps;
  return options;
}

// The weights of outputs where bits are chosen by the loss.
absl::StatusOr<OutputWeights> WeighOutputs(
    const QuantizeFlags& flags, const std::string& folder, const Corpus& corpus,
    const std::vector<TokenBatch>& batches, const StepsDone& progress) {
  const TuningOptions options = WeighingOptions(flags);
  ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                   TuningTrainer(folder, corpus, options));
  ASSIGN_OR_RETURN(const std::set<std::string> names,
                   ParametersToQuantize(trainer->model_config()));
  return LossWeights(*trainer, names, batches, options.steps,
                     InterruptRequested, progress);
}

// What steps of training made of the quantised model.
struct Trained {
  std::optional<LearnedCodes> codes;
  std::optional<TunedRouter> router;
};

nlohmann::json ToJson(const ValidationMetrics& before,
                      const ValidationMetrics& after, int64_t steps) {
  return {{"steps", steps},
          {"bits_per_byte_before", before.bits_per_byte},
          {"bits_per_byte", after.bits_per_byte},
          {"accuracy_before", before.accuracy},
          {"accuracy", after.accuracy}};
}

std::string Describe(const std::string& what, int64_t steps,
                     const ValidationMetrics& before,
                     const ValidationMetrics& after) {
  return absl::StrFormat(
      "%s for %d steps: %.4f bits per byte of held-out text, before %.4f\n",
      what, steps, after.bits_per_byte, before.bits_per_byte);
}

std::string Describe(const QuantizeFlags& flags, const Trained& trained) {
  std::string text;
  if (trained.codes) {
    absl::StrAppend(&text,
                    Describe("Codes learned", flags.learn_steps,
                             trained.codes->before, trained.codes->after),
                    "Codes that are others than before: ",
                    Percent(trained.codes->share_moved),
                    "; the errors above are of before\n");
  }
  if (trained.router) {
    absl::StrAppend(&text,
                    Describe("Router tuned", flags.tuning.steps,
                             trained.router->before, trained.router->after));
  }
  return text;
}

void PrintResult(const QuantizeFlags& flags, const std::string& folder,
                 const Manifest& manifest, const QuantizeResult& result,
                 const Trained& trained) {
  if (flags.json) {
    nlohmann::json json = ResultJson(result);
    json["model"] = folder;
    json["out"] = flags.out;
    if (flags.budget_bytes > 0) json["choose"] = flags.choose;
    if (trained.codes) {
      json["codes"] = ToJson(trained.codes->before, trained.codes->after,
                             flags.learn_steps);
      json["codes"]["share_moved"] = trained.codes->share_moved;
    }
    if (trained.router) {
      json["router"] = ToJson(trained.router->before, trained.router->after,
                              flags.tuning.steps);
    }
    json["manifest"] = ToJson(manifest);
    PrintJson(json);
    return;
  }
  if (result.layers_resumed > 0) {
    PrintNote(
        absl::StrCat("layers of an earlier run: ", result.layers_resumed));
  }
  Print(absl::StrCat(
      WeightTable(result),
      "\nErrors are energies over those of what they "
      "are errors of, on the calibration data.\nBlended: experts with fewer "
      "tokens than columns, judged by the layer's tokens as well.\n",
      Describe(flags, trained), flags.out, ": ",
      FormatInteger(result.num_bytes), " bytes, of ",
      FormatInteger(result.num_source_bytes), "\n"));
}

absl::StatusOr<int> RunQuantize(QuantizeFlags flags) {
  std::signal(SIGPIPE, SIG_IGN);
  InstallInterruptHandler();
  ASSIGN_OR_RETURN(const std::string folder, FindModel(flags.model));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  QuantizeOptions options;
  options.format = flags.format;
  options.format.symmetric = !flags.asymmetric;
  options.head_bits = flags.head_bits;
  options.budget_bytes = flags.budget_bytes;
  options.rows_where_indivisible = flags.rows;
  ASSIGN_OR_RETURN(options.method, CalibrationMethodOf(flags.method));
  options.num_threads = flags.threads;
  options.replace = flags.overwrite;
  options.stop = InterruptRequested;
  flags.tuning.seed = flags.seed;
  flags.tuning.num_threads = flags.threads;
  options.backend = [&flags] {
    return MakeBackend(flags.device, flags.threads);
  };
  flags.tuning.backend = options.backend;
  TuningOptions learning = CodeLearningOptions();
  learning.steps = flags.learn_steps;
  learning.learning_rate = flags.learning_rate;
  learning.seed = flags.seed;
  learning.num_threads = flags.threads;
  learning.backend = options.backend;
  Manifest manifest = NewManifest();
  manifest.config_hash = Sha256Hex(ToJson(config));
  ASSIGN_OR_RETURN(manifest.weights_hash, HashWeights(folder));
  manifest.seeds["calibration"] = flags.seed;
  const bool calibrates = options.method != CalibrationMethod::kNearest;
  const bool by_loss = flags.choose == "loss";
  if (by_loss && !calibrates) {
    return absl::InvalidArgumentError(
        "--choose loss goes by the inputs of calibration, which --method "
        "nearest does without; want clip, feedback or learned");
  }
  const bool trains = flags.learn_steps > 0 || flags.tuning.steps > 0;
  if ((flags.device.device != "cpu" || flags.device.precision != "fp32") &&
      !calibrates && !trains) {
    return absl::InvalidArgumentError(
        "--device and --precision are of what runs the model, which --method "
        "nearest does without; want clip, feedback or learned, --learn or "
        "--tune-router");
  }
  Corpus corpus;
  std::vector<TokenBatch> batches;
  if (calibrates || trains) {
    ASSIGN_OR_RETURN(corpus, LoadCorpusFor(folder, flags.data));
    PrintNotes(corpus);
    manifest.data_hash = corpus.sha256;
  }
  if (calibrates) {
    ASSIGN_OR_RETURN(
        batches, CalibrationBatches(corpus, config, flags.tokens, flags.seed));
  }
  // Trainers are made to be refused before any work, and again when it is
  // their turn, so that memory is not taken twice.
  if (by_loss) {
    RETURN_IF_ERROR(
        TuningTrainer(folder, corpus, WeighingOptions(flags)).status());
  }
  if (flags.learn_steps > 0) {
    RETURN_IF_ERROR(TuningTrainer(folder, corpus, learning).status());
  }
  if (flags.tuning.steps > 0) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> tuner,
                     TuningTrainer(folder, corpus, flags.tuning));
    RETURN_IF_ERROR(CheckHasGates(*tuner));
  }
  std::unique_ptr<Progress> progress;
  const auto progress_of = [&](const char* label,
                               std::vector<std::string> details = {}) {
    return [&progress, label, details](int64_t done, int64_t all) {
      if (!progress) progress = std::make_unique<Progress>(label, 0, all);
      progress->Update(done, details);
      if (done == all) progress = nullptr;  // What comes next has its own.
    };
  };
  options.progress = progress_of("quantize", {"layers"});
  if (by_loss) {
    options.output_weights = [&] {
      return WeighOutputs(flags, folder, corpus, batches,
                          progress_of("weigh outputs"));
    };
  }
  Trained trained;
  if (flags.learn_steps > 0) {
    options.learn = [&](const StateStore& model,
                        QuantizedParameters& matrices) -> absl::Status {
      ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                       TuningTrainer(folder, corpus, learning));
      ASSIGN_OR_RETURN(trained.codes,
                       LearnCodes(*trainer, model, matrices, InterruptRequested,
                                  progress_of("learn codes")));
      return absl::OkStatus();
    };
  }
  if (flags.tuning.steps > 0) {
    options.retune = [&](StateStore& model) -> absl::Status {
      ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> tuner,
                       TuningTrainer(folder, corpus, flags.tuning));
      ASSIGN_OR_RETURN(trained.router,
                       TuneRouter(*tuner, model, InterruptRequested,
                                  progress_of("tune router")));
      return absl::OkStatus();
    };
  }
  const absl::StatusOr<QuantizeResult> result =
      QuantizeModel(folder, flags.out, batches, options);
  if (progress) progress->Finish();
  if (absl::IsCancelled(result.status())) {
    PrintNote(absl::StrCat(result.status().message(),
                           "; the same command goes on from there"));
    return kInterruptedExitCode;
  }
  RETURN_IF_ERROR(result.status());
  PrintResult(flags, folder, manifest, *result, trained);
  return 0;
}

}  // namespace

Command AddQuantize(OptionParser& app) {
  OptionParser* quantize = app.AddSubcommand(
      "quantize",
      "Store a model's weights in integers of 2, 4 or 8 bits, calibrated on "
      "text");
  auto flags = std::make_shared<QuantizeFlags>();
  quantize
      ->AddOption("--model", flags->model,
                  "Checkpoint, or run of which the newest is taken")
      ->TypeName("DIR")
      ->Required();
  quantize->AddOption("--out", flags->out, "Folder to be made")
      ->TypeName("DIR")
      ->Required();
  quantize->AddOption("--bits", flags->format.bits, "Bits of a weight")
      ->TypeName("2|4|8")
      ->Check(OneOf({"2", "4", "8"}));
  const Option* const budget =
      quantize
          ->AddOption("--budget-bytes", flags->budget_bytes,
                      "Bytes that all tensors may have: experts and matrices "
                      "that gain most by it get 4 or 8 bits in place of the 2 "
                      "or 4 of --bits")
          ->TypeName("N")
          ->Check(AtLeast(1));
  quantize
      ->AddOption("--choose", flags->choose,
                  "What they gain: what more bits take off the error of their "
                  "outputs, as a share of these; or that error by the loss's "
                  "gradients, over 24 steps of training that are undone")
      ->TypeName("outputs|loss")
      ->Check(OneOf({"outputs", "loss"}))
      ->Needs(budget);
  const Option* const learn =
      quantize
          ->AddOption("--learn", flags->learn_steps,
                      "Steps in which codes, scales and zeros are trained "
                      "through the whole model, behind --method")
          ->TypeName("STEPS")
          ->Check(AtLeast(0));
  quantize
      ->AddOption("--learn-rate", flags->learning_rate,
                  "How much of a code a step moves a weight by, at its peak, "
                  "of --learn")
      ->TypeName("X")
      ->Check(MoreThanZero())
      ->Needs(learn);
  const Option* const tune =
      quantize
          ->AddOption("--tune-router", flags->tuning.steps,
                      "Steps in which the gates alone are trained on the "
                      "quantised model")
          ->TypeName("STEPS")
          ->Check(AtLeast(0));
  quantize
      ->AddOption("--tune-learning-rate", flags->tuning.learning_rate,
                  "At its peak, of --tune-router")
      ->TypeName("X")
      ->Check(MoreThanZero())
      ->Needs(tune);
  quantize
      ->AddOption("--group", flags->format.group,
                  "Columns that share a scale; 0: a scale a row")
      ->TypeName("N")
      ->Check(OneOf({"0", "32", "64", "128"}));
  quantize->AddFlag("--asymmetric", flags->asymmetric,
                    "Give each group a zero of its own");
  quantize->AddFlag("--rows-where-indivisible", flags->rows,
                    "Give matrices whose columns --group does not divide a "
                    "scale a row, in place of an error");
  quantize
      ->AddOption("--head-bits", flags->head_bits,
                  "Bits of the output projection, where it is not the "
                  "embedding table; 0: BF16")
      ->TypeName("0|4|8")
      ->Check(OneOf({"0", "4", "8"}));
  quantize
      ->AddOption("--method", flags->method,
                  "How codes are chosen: to the nearest; with clipping "
                  "searched; with error feedback between columns; from there, "
                  "with scales and codes learned")
      ->TypeName("NAME")
      ->Check(OneOf({"nearest", "clip", "feedback", "learned"}));
  AddData(*quantize, flags->data);
  quantize
      ->AddOption("--tokens", flags->tokens,
                  "Tokens of the corpus's training part to calibrate on")
      ->TypeName("N")
      ->Check(AtLeast(1));
  quantize
      ->AddOption("--seed", flags->seed,
                  "Which tokens, of calibration and of training")
      ->TypeName("N");
  quantize->AddFlag("--overwrite", flags->overwrite,
                    "Replace a folder that is there");
  AddDevice(*quantize, flags->device);
  AddThreads(*quantize, flags->threads);
  AddJson(*quantize, flags->json);
  return {quantize, [flags] { return RunQuantize(*flags); }};
}

}  // namespace strata
