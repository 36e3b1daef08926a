#include "tools/scorecard/quant/quantisation.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/weight_storage.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/passes/pack_caches.h"
#include "core/passes/plan_memory.h"
#include "core/passes/quantize_weights.h"
#include "core/quant/cache_format.h"
#include "core/quant/input_moments.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/quantize_model.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "nlohmann/json.hpp"
#include "training/data/calibration_batches.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/run/model_folder.h"

namespace strata {
namespace {

// Tokens that one run of prefill takes.
constexpr int64_t kPrefillTokens = 128;

// A model in F32, whatever it lies in.
struct WideModel {
  CpuBackend backend;
  StateStore state;

  explicit WideModel(int num_threads)
      : backend(num_threads, AllCpuKernels()), state(backend) {}
};

absl::StatusOr<std::unique_ptr<WideModel>> LoadWide(const std::string& folder,
                                                    const ModelConfig& config,
                                                    int num_threads) {
  auto model = std::make_unique<WideModel>(num_threads);
  RETURN_IF_ERROR(LoadModelWeights(folder, config, model->state));
  return model;
}

// The errors of the matrices `moments` in `other` against `model`, summed.
QuantError SumErrors(const WideModel& model, const WideModel& other,
                     const MomentsByName& moments, ThreadPool& pool) {
  QuantError sum;
  for (const auto& [name, of_experts] : moments) {
    const TensorView& w = model.state.Get(name);
    const TensorView& w2 = other.state.Get(name);
    const int64_t k = w.shape.back();
    const auto experts = static_cast<int64_t>(of_experts.size());
    const int64_t size = w.num_elements() / experts;
    for (int64_t e = 0; e < experts; ++e) {
      sum += ErrorBetween(w.as<float>() + e * size, w2.as<float>() + e * size,
                          size / k, k, of_experts[e].sum, pool);
    }
  }
  return sum;
}

// Of a model that is loaded as it is stored.
absl::StatusOr<ServedMemory> MeasureMemory(const std::string& folder,
                                           ModelConfig config, int64_t context,
                                           CacheFormat cache, int num_threads) {
  CpuBackend backend(num_threads, AllCpuKernels());
  StateStore state(backend);
  RETURN_IF_ERROR(LoadModelWeights(folder, config, state, /*unused=*/nullptr,
                                   WeightStorage::kAsStored));
  ServedMemory memory;
  memory.weights = state.num_bytes();
  config.set_max_seq_len(context);
  for (const int64_t tokens : {std::min(context, kPrefillTokens), int64_t{1}}) {
    GraphBuilder builder;
    DecoderOptions options;
    options.mode = DecoderOptions::Mode::kGenerate;
    options.max_tokens = tokens;
    BuildDecoder(builder, config, options);
    ASSIGN_OR_RETURN(Graph graph, builder.Finish());
    ASSIGN_OR_RETURN(graph, PackCaches(graph, {cache, 0}));
    ASSIGN_OR_RETURN(const std::unique_ptr<Program> program,
                     Program::Compile(std::move(graph), backend, state));
    memory.arena = std::max(memory.arena, program->num_bytes());
  }
  memory.caches = state.num_bytes() - memory.weights;
  return memory;
}

}  // namespace

absl::StatusOr<ServedMemory> PlanServedMemory(ModelConfig config,
                                              const QuantFormat& format,
                                              CacheFormat cache,
                                              int64_t context,
                                              ServedMemory& baseline) {
  config.set_max_seq_len(context);
  ASSIGN_OR_RETURN(const std::set<std::string> names,
                   QuantizableParameters(config));
  std::map<std::string, QuantFormat> formats;
  for (const std::string& name : names) {
    if (IsOfGate(name)) continue;
    formats[name] = format;
    if (name == "lm_head.weight") formats[name].bits = 8;
  }
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kGenerate;
  options.max_tokens = std::min(context, kPrefillTokens);
  BuildDecoder(builder, config, options);
  ASSIGN_OR_RETURN(const Graph graph, builder.Finish());
  ASSIGN_OR_RETURN(Graph packed, QuantizeWeights(graph, formats));
  ASSIGN_OR_RETURN(packed, PackCaches(packed, {cache, 0}));
  ServedMemory memory;
  for (const Value& value : packed.values()) {
    const int64_t bytes = value.type.max_bytes();
    const bool narrow = value.name == "model.embed_tokens.weight";
    if (value.role == Role::kParameter) memory.weights += bytes / (1 + narrow);
    if (value.role == Role::kState) memory.caches += bytes;
  }
  memory.arena = PlanMemory(packed).arena_bytes;
  baseline.weights = 2 * CountElements(graph, Role::kParameter);
  baseline.caches = 2 * CountElements(graph, Role::kState);
  baseline.arena = memory.arena;
  return memory;
}

std::vector<QuantVariant> QuantVariants() {
  using Method = CalibrationMethod;
  const QuantFormat row = {4, 0, true}, group = {4, 32, true};
  return {{"nearest-row", row, Method::kNearest},
          {"learned-row", row, Method::kLearned},
          {"nearest-group", group, Method::kNearest},
          {"clip-group", group, Method::kClip},
          {"feedback-group", group, Method::kFeedback},
          {"learned-group", group, Method::kLearned}};
}

absl::StatusOr<QuantRun> RunQuantStudy(const Corpus& corpus,
                                       const QuantStudyOptions& options,
                                       const QuantObserver& observer,
                                       const std::function<bool()>& stop) {
  ASSIGN_OR_RETURN(const std::string folder, FindModel(options.model));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  ASSIGN_OR_RETURN(
      const std::vector<TokenBatch> batches,
      CalibrationBatches(corpus, config, options.calibration_tokens,
                         options.seed));
  ASSIGN_OR_RETURN(const std::vector<TokenBatch> held_out,
                   HeldOutBatches(corpus, config, options.held_out_tokens));
  QuantRun run;
  run.seed = options.seed;
  run.model = folder;
  run.context = std::min(options.context, config.max_seq_len());
  const auto evaluate = [&](const std::string& path, double& bits,
                            double& accuracy) -> absl::Status {
    ASSIGN_OR_RETURN(const ValidationMetrics metrics,
                     EvaluateModel(path, corpus, options.held_out_tokens,
                                   options.num_threads));
    bits = metrics.bits_per_byte;
    accuracy = metrics.accuracy;
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(evaluate(folder, run.bits_per_byte, run.accuracy));
  ASSIGN_OR_RETURN(const std::unique_ptr<WideModel> model,
                   LoadWide(folder, config, options.num_threads));

  std::vector<QuantVariant> variants = QuantVariants();
  if (!options.all_variants) variants = {variants.front(), variants.back()};
  MomentsByName moments;
  for (size_t i = 0; i < variants.size(); ++i) {
    const QuantVariant& variant = variants[i];
    const std::string path = absl::StrCat(options.folder, "/", variant.name);
    QuantizeOptions quantize;
    quantize.format = variant.format;
    quantize.rows_where_indivisible = true;
    quantize.method = variant.method;
    quantize.num_threads = options.num_threads;
    quantize.replace = true;
    quantize.stop = stop;
    ASSIGN_OR_RETURN(const QuantizeResult result,
                     QuantizeModel(folder, path, batches, quantize));
    if (options.all_variants && moments.empty()) {
      std::set<std::string> names;
      for (const QuantizedWeight& w : result.weights) names.insert(w.name);
      ASSIGN_OR_RETURN(moments,
                       CollectMoments(config, names, held_out, model->backend,
                                      model->state, model->backend.pool()));
    }
    QuantOutcome outcome;
    outcome.variant = variant.name;
    double bits = 0, weights = 0;
    for (const QuantizedWeight& w : result.weights) {
      bits += w.bits_per_weight * static_cast<double>(w.num_weights);
      weights += static_cast<double>(w.num_weights);
    }
    outcome.bits_per_weight = bits / weights;
    if (options.all_variants) {
      ASSIGN_OR_RETURN(const std::unique_ptr<WideModel> other,
                       LoadWide(path, config, options.num_threads));
      outcome.error = SumErrors(*model, *other, moments, model->backend.pool());
    }
    RETURN_IF_ERROR(evaluate(path, outcome.bits_per_byte, outcome.accuracy));
    run.outcomes.push_back(outcome);
    if (i + 1 == variants.size()) {
      ASSIGN_OR_RETURN(
          run.ours, MeasureMemory(path, config, run.context, CacheFormat::kInt8,
                                  options.num_threads));
    }
    if (observer.on_variant) {
      observer.on_variant(static_cast<int64_t>(i + 1),
                          static_cast<int64_t>(variants.size()));
    }
  }
  // The same parameters, caches and activations, the first two in BF16.
  ASSIGN_OR_RETURN(const ServedMemory wide,
                   MeasureMemory(folder, config, run.context, CacheFormat::kF32,
                                 options.num_threads));
  run.baseline.weights = model->state.num_bytes() / 2;
  run.baseline.caches = wide.caches / 2;
  run.baseline.arena = run.ours.arena;
  return run;
}

nlohmann::json ToJson(const QuantRun& run) {
  const auto memory = [](const ServedMemory& m) {
    return nlohmann::json{{"weights", m.weights},
                          {"caches", m.caches},
                          {"arena", m.arena},
                          {"total", m.total()}};
  };
  nlohmann::json outcomes = nlohmann::json::array();
  for (const QuantOutcome& o : run.outcomes) {
    outcomes.push_back({{"variant", o.variant},
                        {"bits_per_weight", o.bits_per_weight},
                        {"bits_per_byte", o.bits_per_byte},
                        {"accuracy", o.accuracy}});
    if (o.error.weight > 0) {
      outcomes.back()["weight_error"] = o.error.weight_error / o.error.weight;
      outcomes.back()["output_error"] = o.error.output_error / o.error.output;
    }
  }
  return {{"seed", run.seed},
          {"model", run.model},
          {"context", run.context},
          {"bits_per_byte", run.bits_per_byte},
          {"accuracy", run.accuracy},
          {"outcomes", outcomes},
          {"memory_bf16", memory(run.baseline)},
          {"memory", memory(run.ours)}};
}

}  // namespace strata
