#include "sim/workload/serving_step.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "sim/memory/footprint.h"
#include "sim/workload/kernel_times.h"
#include "sim/workload/layer_cost.h"
#include "sim/workload/layout.h"

namespace strata::sim {
namespace {

constexpr double kBf16Bytes = 2;

// Attention of one layer when each sequence has one new token.
Kernel DecodeAttention(const StepInputs& inputs,
                       const ServingRequest& request) {
  const AttentionConfig& a = inputs.model->config().attention();
  Kernel kernel;
  kernel.family = Family::kAttention;
  kernel.batch = request.batch;
  kernel.sequence = request.context;
  kernel.heads = a.num_heads() / inputs.layout.tensor;
  if (a.has_latent()) {
    kernel.kind = Kernel::Kind::kLatentDecode;
    kernel.kv_heads = 1;
    kernel.latent_dim = a.latent().kv_rank();
    kernel.rope_dim = a.latent().rope_dim();
    kernel.head_dim = kernel.latent_dim + kernel.rope_dim;
    kernel.value_dim = kernel.latent_dim;
  } else {
    kernel.kind = Kernel::Kind::kDecodeAttention;
    kernel.kv_heads =
        std::max<int64_t>(1, a.num_kv_heads() / inputs.layout.tensor);
    kernel.head_dim = kernel.value_dim = a.head_dim();
  }
  return kernel;
}

// Weights of the fullest stage, BF16 or FP8, without gradients.
Footprint Memory(const StepInputs& inputs, const ServingRequest& request) {
  const Layout& layout = inputs.layout;
  const ModelGraph& model = *inputs.model;
  const std::vector<int64_t> layers =
      LayersOfStages(model.config().num_layers(), layout.pipeline);
  const double bytes = layout.fp8 ? 1 : kBf16Bytes;
  Footprint most;
  int next = 0;
  for (int64_t s = 0; s < layout.pipeline; ++s) {
    Footprint stage;
    const auto hold = [&](int layer) {
      const ModelGraph::Parameters& p = model.parameters(layer);
      stage.weights += bytes * (p.dense_cut / layout.tensor + p.dense_whole +
                                p.experts / layout.ExpertGroup());
    };
    for (int64_t l = 0; l < layers[s]; ++l) hold(next++);
    if (s == 0) hold(kEmbedding);
    if (s + 1 == layout.pipeline) hold(kOutput);
    stage.kv_cache =
        KvBytesPerToken(model.config()) * static_cast<double>(request.batch) *
        request.context * layers[s] / model.config().num_layers() /
        (model.config().attention().has_latent() ? 1 : layout.tensor);
    stage.buffers = kContextBytes;
    stage.capacity = inputs.machine.memory_bytes;
    if (s == 0 || stage.total() > most.total()) most = stage;
  }
  return most;
}

}  // namespace

absl::StatusOr<ServingPhase> ParseServingPhase(absl::string_view name) {
  if (name == "prefill") return ServingPhase::kPrefill;
  if (name == "decode") return ServingPhase::kDecode;
  return absl::InvalidArgumentError(
      absl::StrCat("serving phase \"", name, "\"; want prefill or decode"));
}

absl::StatusOr<ServingResult> SimulateServing(const StepInputs& inputs,
                                              const ServingRequest& request) {
  const bool decode = request.phase == ServingPhase::kDecode;
  // Decoding is a pass over `batch` tokens, one of each sequence.
  Layout layout = inputs.layout;
  layout.recompute = Recompute::kNone;
  layout.micro_batch = request.batch;
  layout.sequence = decode ? 1 : request.context;
  ASSIGN_OR_RETURN(ModelCost cost,
                   CostOfModel({inputs.model, &layout, inputs.kernels,
                                inputs.network, &inputs.loads}));
  LayerCost sum = cost.embedding;
  sum += cost.output;
  for (const LayerCost& layer : cost.layers) sum += layer;
  const auto attention = static_cast<size_t>(Family::kAttention);
  if (decode) {
    ASSIGN_OR_RETURN(const KernelTime time,
                     inputs.kernels->Of(DecodeAttention(inputs, request)));
    sum.forward.seconds[attention] =
        time.seconds * static_cast<double>(cost.layers.size());
  }
  ServingResult result;
  result.request = request;
  double compute = 0;
  for (int f = 0; f < kNumFamilies; ++f) {
    const bool product = f == static_cast<int>(Family::kMatMul) ||
                         f == static_cast<int>(Family::kExperts);
    const double seconds =
        sum.forward.seconds[f] /
        (inputs.software.efficiency *
         (product ? inputs.software.On(inputs.machine.kind).product_share : 1));
    compute += seconds;
    result.parts.push_back(
        {std::string(Name(static_cast<Family>(f))), seconds});
  }
  const double expert = layout.overlap_expert
                            ? std::max(0.0, sum.forward_comm.expert - compute)
                            : sum.forward_comm.expert;
  result.parts.push_back({"exposed dispatch and combine", expert});
  result.parts.push_back({"tensor parallel", sum.forward_comm.tensor});
  result.seconds = compute + expert + sum.forward_comm.tensor;
  // All stages are busy with batches of their own.
  const double tokens =
      static_cast<double>(request.batch) * (decode ? 1 : request.context);
  result.tokens_per_second_per_gpu =
      tokens / result.seconds * layout.pipeline /
      static_cast<double>(layout.tensor * layout.context * layout.pipeline);
  result.memory = Memory(inputs, request);
  return result;
}

std::string Summary(const ServingResult& result) {
  const bool decode = result.request.phase == ServingPhase::kDecode;
  std::string text = absl::StrFormat(
      "%s of %d sequences a rank, %d tokens %s\n\nstep          %.4g ms\n"
      "throughput    %.0f tokens/s/GPU\nmemory        %s\n\nwhere the time "
      "goes\n",
      decode ? "decode" : "prefill", result.request.batch,
      result.request.context, decode ? "in each cache" : "each",
      1e3 * result.seconds, result.tokens_per_second_per_gpu,
      Verdict(result.memory));
  for (const StepPart& part : result.parts) {
    absl::StrAppendFormat(&text, "  %-30s %9.4f ms %5.1f %%\n", part.name,
                          1e3 * part.seconds,
                          100 * part.seconds / result.seconds);
  }
  return text;
}

nlohmann::ordered_json ToJson(const ServingResult& result) {
  nlohmann::ordered_json json;
  json["phase"] =
      result.request.phase == ServingPhase::kDecode ? "decode" : "prefill";
  json["batch"] = result.request.batch;
  json["context"] = result.request.context;
  json["seconds"] = result.seconds;
  json["tokens_per_second_per_gpu"] = result.tokens_per_second_per_gpu;
  json["parts"] = nlohmann::ordered_json::array();
  for (const StepPart& part : result.parts) {
    json["parts"].push_back({{"name", part.name}, {"seconds", part.seconds}});
  }
  json["memory_bytes"] = result.memory.total();
  json["fits"] = result.memory.fits();
  return json;
}

}  // namespace strata::sim
