#include "tools/scorecard/quant/cache_study.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/rope_scaling.h"
#include "core/passes/pack_caches.h"
#include "core/quant/cache_format.h"
#include "core/quant/input_moments.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "nlohmann/json.hpp"
#include "training/data/calibration_batches.h"
#include "training/data/corpus.h"
#include "training/run/model_folder.h"

namespace strata {
namespace {

constexpr int64_t kChunk = 64;  // Tokens of a run.

// The model with a cache of its own.
struct CachedModel {
  explicit CachedModel(int num_threads)
      : backend(num_threads, AllCpuKernels()), state(backend) {}

  CpuBackend backend;
  StateStore state;
  std::unique_ptr<Program> program;
  int64_t bytes_per_token = 0;
};

absl::StatusOr<std::unique_ptr<CachedModel>> LoadCached(
    const std::string& folder, const ModelConfig& config, int64_t seq_len,
    const CacheOptions& cache, int num_threads) {
  auto model = std::make_unique<CachedModel>(num_threads);
  RETURN_IF_ERROR(LoadModelWeights(folder, config, model->state));
  ModelConfig sized = config;
  sized.set_max_seq_len(seq_len);
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kGenerate;
  options.max_tokens = kChunk;
  options.max_logits = kChunk;
  BuildDecoder(builder, sized, options);
  ASSIGN_OR_RETURN(Graph graph, builder.Finish());
  ASSIGN_OR_RETURN(graph, PackCaches(graph, cache));
  ASSIGN_OR_RETURN(
      model->program,
      Program::Compile(std::move(graph), model->backend, model->state));
  for (const std::string& name : model->state.names()) {
    if (!absl::StartsWith(name, "cache.")) continue;
    const TensorView& view = model->state.Peek(name);
    model->bytes_per_token += view.num_bytes() / view.dim(0);
  }
  return model;
}

// The logits [ids, vocab] of tokens from `position` on.
absl::StatusOr<absl::Span<const float>> Run(Program& program,
                                            absl::Span<const int32_t> ids,
                                            int64_t position, int64_t seq_len,
                                            bool dynamic) {
  const auto n = static_cast<int32_t>(ids.size());
  *program.Input("num_tokens").as<int32_t>() = n;
  *program.Input("num_logits").as<int32_t>() = n;
  for (int32_t i = 0; i < n; ++i) {
    const auto at = static_cast<int32_t>(position) + i;
    program.Input("ids").as<int32_t>()[i] = ids[i];
    program.Input("position").as<int32_t>()[i] = at;
    program.Input("cache_row").as<int32_t>()[i] = at;
    program.Input("first_row").as<int32_t>()[i] = 0;
    program.Input("logit_row").as<int32_t>()[i] = i;
    if (dynamic) {
      program.Input("seq_len").as<int32_t>()[i] = static_cast<int32_t>(seq_len);
    }
  }
  RETURN_IF_ERROR(program.Run());
  return program.Output("logits").span<float>();
}

// Sums over tokens.
struct Sums {
  double nats = 0;
  int64_t hits = 0;
  double error = 0, energy = 0;
};

void AddToken(absl::Span<const float> logits, absl::Span<const float> exact,
              int32_t target, Sums& sums) {
  const auto largest = std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) sum += std::exp(double{l} - *largest);
  sums.nats += *largest + std::log(sum) - logits[target];
  sums.hits += largest - logits.begin() == target;
  for (size_t i = 0; i < logits.size(); ++i) {
    sums.error += std::pow(double{logits[i]} - exact[i], 2);
    sums.energy += std::pow(double{exact[i]}, 2);
  }
}

}  // namespace

std::vector<CacheVariant> CacheVariants() {
  std::vector<CacheVariant> variants;
  for (const CacheFormat format : {CacheFormat::kF32, CacheFormat::kBF16,
                                   CacheFormat::kInt8, CacheFormat::kInt4}) {
    variants.push_back({ToText(format), {format, 0}});
  }
  for (const CacheFormat format : {CacheFormat::kInt8, CacheFormat::kInt4}) {
    for (const int bits : {4, 5, 6}) {
      variants.push_back(
          {absl::StrCat(ToText(format), ", ", bits, " bits"), {format, bits}});
    }
  }
  return variants;
}

absl::StatusOr<std::vector<CacheOutcome>> RunCacheStudy(
    const Corpus& corpus, const std::string& folder, int64_t num_tokens,
    int num_threads) {
  ASSIGN_OR_RETURN(const std::string found, FindModel(folder));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(found));
  ASSIGN_OR_RETURN(const std::vector<TokenBatch> batches,
                   HeldOutBatches(corpus, config, num_tokens));
  const std::vector<CacheVariant> variants = CacheVariants();
  std::vector<std::unique_ptr<CachedModel>> models;
  const int64_t seq_len = batches[0].seq_len;
  for (const CacheVariant& variant : variants) {
    ASSIGN_OR_RETURN(
        models.emplace_back(),
        LoadCached(found, config, seq_len, variant.cache, num_threads));
  }
  std::vector<Sums> sums(variants.size());
  int64_t count = 0;
  const bool dynamic = HasDynamicRope(config);
  for (const TokenBatch& batch : batches) {
    const auto size = static_cast<int64_t>(batch.ids.size());
    for (int64_t first = 0; first < size;) {
      const int64_t position = first % batch.seq_len;
      const int64_t n = std::min(kChunk, batch.seq_len - position);
      const auto ids = absl::MakeConstSpan(batch.ids).subspan(first, n);
      absl::Span<const float> exact;
      for (size_t v = 0; v < variants.size(); ++v) {
        ASSIGN_OR_RETURN(
            const absl::Span<const float> logits,
            Run(*models[v]->program, ids, position, batch.seq_len, dynamic));
        if (v == 0) exact = logits;
        const int64_t vocab = config.vocab_size();
        for (int64_t i = 0; i < n; ++i) {
          const int32_t target = batch.targets[first + i];
          if (target < 0) continue;
          count += v == 0;
          AddToken(logits.subspan(i * vocab, vocab),
                   exact.subspan(i * vocab, vocab), target, sums[v]);
        }
      }
      first += n;
    }
  }
  std::vector<CacheOutcome> outcomes;
  for (size_t v = 0; v < variants.size(); ++v) {
    const auto tokens = static_cast<double>(count);
    outcomes.push_back({variants[v].name, sums[v].nats / tokens / std::log(2.0),
                        static_cast<double>(sums[v].hits) / tokens,
                        std::sqrt(sums[v].error / sums[v].energy),
                        models[v]->bytes_per_token});
  }
  return outcomes;
}

nlohmann::json ToJson(const CacheRun& run) {
  nlohmann::json outcomes = nlohmann::json::array();
  for (const CacheOutcome& o : run.outcomes) {
    outcomes.push_back({{"variant", o.variant},
                        {"bits_per_token", o.bits_per_token},
                        {"accuracy", o.accuracy},
                        {"logit_error", o.logit_error},
                        {"bytes_per_token", o.bytes_per_token}});
  }
  return {{"seed", run.seed}, {"model", run.model}, {"outcomes", outcomes}};
}

}  // namespace strata
