#include "sim/workload/simulator.h"

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/load_cluster.h"
#include "sim/workload/calibrated_kernels.h"
#include "sim/workload/kernel_times.h"
#include "sim/workload/network_times.h"

namespace strata::sim {
namespace {

constexpr double kGiB = static_cast<double>(int64_t{1} << 30);

// The words of a model in dimensions, with what is not said at its default.
struct Dimensions {
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t ffn = 0, vocab = 0, experts = 0, top_k = 0, expert_ffn = 0;
  int64_t shared_ffn = 0, dense_layers = 0, groups = 0, top_groups = 0;
  int64_t q_rank = 0, kv_rank = 0, nope_dim = 128, rope_dim = 64;
  int64_t value_dim = 128, qk_norm = 0;
  bool gelu = false;
};

struct DimensionWord {
  absl::string_view name;
  int64_t Dimensions::*field;
};
constexpr DimensionWord kDimensions[] = {
    {"layers", &Dimensions::layers},
    {"hidden", &Dimensions::hidden},
    {"heads", &Dimensions::heads},
    {"kv_heads", &Dimensions::kv_heads},
    {"head_dim", &Dimensions::head_dim},
    {"ffn", &Dimensions::ffn},
    {"vocab", &Dimensions::vocab},
    {"experts", &Dimensions::experts},
    {"top_k", &Dimensions::top_k},
    {"expert_ffn", &Dimensions::expert_ffn},
    {"shared_ffn", &Dimensions::shared_ffn},
    {"dense_layers", &Dimensions::dense_layers},
    {"groups", &Dimensions::groups},
    {"top_groups", &Dimensions::top_groups},
    {"q_rank", &Dimensions::q_rank},
    {"kv_rank", &Dimensions::kv_rank},
    {"nope_dim", &Dimensions::nope_dim},
    {"rope_dim", &Dimensions::rope_dim},
    {"value_dim", &Dimensions::value_dim},
    {"qk_norm", &Dimensions::qk_norm},
};

absl::Status SetDimension(absl::string_view word, Dimensions& dims) {
  const std::vector<absl::string_view> sides =
      absl::StrSplit(word, absl::MaxSplits('=', 1));
  if (sides.size() == 2 && sides[0] == "mlp" &&
      (sides[1] == "gelu" || sides[1] == "swiglu")) {
    dims.gelu = sides[1] == "gelu";
    return absl::OkStatus();
  }
  std::vector<absl::string_view> names;
  for (const DimensionWord& dimension : kDimensions) {
    names.push_back(dimension.name);
    if (sides.size() != 2 || sides[0] != dimension.name) continue;
    if (absl::SimpleAtoi(sides[1], &(dims.*dimension.field)) &&
        dims.*dimension.field >= 0) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "model: ", word.substr(0, 60), "; want a whole number from 0"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "model: no dimension \"", word.substr(0, 60), "\"; there are ",
      absl::StrJoin(names, ", "), ", mlp=gelu|swiglu"));
}

ModelConfig ConfigOf(const Dimensions& dims) {
  ModelConfig config;
  config.set_name("custom");
  config.set_vocab_size(dims.vocab);
  config.set_d_model(dims.hidden);
  config.set_num_layers(dims.layers);
  config.set_max_seq_len(1 << 20);
  config.set_norm_eps(1e-5);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(dims.heads);
  attention.set_rope_theta(10000);
  if (dims.kv_rank > 0) {
    LatentAttentionConfig& latent = *attention.mutable_latent();
    latent.set_q_rank(dims.q_rank);
    latent.set_kv_rank(dims.kv_rank);
    latent.set_nope_dim(dims.nope_dim);
    latent.set_rope_dim(dims.rope_dim);
    latent.set_value_dim(dims.value_dim);
  } else {
    attention.set_num_kv_heads(dims.kv_heads > 0 ? dims.kv_heads : dims.heads);
    attention.set_head_dim(dims.head_dim > 0 || dims.heads == 0
                               ? dims.head_dim
                               : dims.hidden / dims.heads);
  }
  attention.set_qk_norm(dims.qk_norm != 0);
  const bool moe = dims.experts > 0;
  config.set_num_dense_layers(moe ? dims.dense_layers : dims.layers);
  // Two matrices of GELU against three of SwiGLU; to a multiple of 128, which
  // every degree of tensor parallelism divides.
  config.set_dense_width(
      dims.gelu ? std::llround(dims.ffn * 2.0 / 3 / 128) * 128 : dims.ffn);
  if (moe) {
    MoeConfig& experts = *config.mutable_moe();
    experts.set_expert_width(dims.expert_ffn);
    experts.set_shared_width(dims.shared_ffn);
    FlatRouterConfig& flat = *experts.mutable_flat();
    flat.set_num_experts(dims.experts);
    flat.set_k(dims.top_k);
    flat.set_normalize(true);
    flat.set_num_groups(dims.groups);
    flat.set_top_groups(dims.top_groups);
  }
  return config;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModel(absl::string_view text) {
  if (absl::StrContains(text, '=')) {
    Dimensions dims;
    for (const absl::string_view word :
         absl::StrSplit(text, ' ', absl::SkipWhitespace())) {
      RETURN_IF_ERROR(SetDimension(word, dims));
    }
    ModelConfig config = ConfigOf(dims);
    RETURN_IF_ERROR(Validate(config));
    return config;
  }
  if (absl::StrContains(text, '/') || absl::EndsWith(text, ".json")) {
    ASSIGN_OR_RETURN(const std::string json, ReadFile(std::string(text)));
    return ModelConfigFromJson(json);
  }
  return ModelPreset(text);
}

Machine MachineOf(const Cluster& cluster) {
  Machine machine;
  machine.name = cluster.name();
  machine.kind = cluster.CalibratedKind(0);
  machine.num_gpus = cluster.num_ranks();
  machine.gpus_per_node = cluster.NumGpus(0);
  // The slowest sets the pace.
  const GpuConfig* gpu = &cluster.Gpu(0);
  for (int node = 0; node < cluster.num_nodes(); ++node) {
    const GpuConfig& other = cluster.Gpu(cluster.FirstRank(node));
    if (other.bf16_tflops() < gpu->bf16_tflops()) gpu = &other;
  }
  machine.gpu = gpu->name();
  machine.bf16_flops = gpu->bf16_tflops() * 1e12;
  machine.fp8_flops = gpu->fp8_tflops() * 1e12;
  machine.memory_bytes = gpu->memory_gib() * kGiB;
  machine.memory_bytes_per_second = gpu->memory_gb_per_s() * 1e9;
  machine.num_sms = gpu->num_sms();
  machine.watts = cluster.watts();
  machine.dollars_per_hour = cluster.dollars_per_hour();
  for (int rank = 0; rank < cluster.num_ranks(); ++rank) {
    if (cluster.Slowdown(rank) == 1) continue;
    machine.slowdown.resize(cluster.num_ranks(), 1);
    machine.slowdown[rank] = cluster.Slowdown(rank);
  }
  return machine;
}

Simulator::Simulator() = default;
Simulator::~Simulator() = default;

absl::StatusOr<const ModelGraph*> Simulator::Model(const std::string& text) {
  std::unique_ptr<ModelGraph>& slot = models_[text];
  if (slot == nullptr) {
    ASSIGN_OR_RETURN(const ModelConfig config, ParseModel(text));
    ASSIGN_OR_RETURN(ModelGraph graph, ModelGraph::Create(config));
    slot = std::make_unique<ModelGraph>(std::move(graph));
  }
  return slot.get();
}

absl::StatusOr<const Simulator::ClusterParts*> Simulator::ClusterOf(
    const std::string& name) {
  std::unique_ptr<ClusterParts>& slot = clusters_[name];
  if (slot != nullptr) return slot.get();
  auto parts = std::make_unique<ClusterParts>();
  ASSIGN_OR_RETURN(Cluster cluster, LoadCluster(name));
  parts->cluster = std::make_unique<Cluster>(std::move(cluster));
  parts->machine = MachineOf(*parts->cluster);
  const std::string& device = parts->cluster->CalibratedKind(0);
  absl::StatusOr<CalibratedKernels> kernels = CalibratedKernels::Load(device);
  if (kernels.ok()) {
    parts->notes = kernels->notes();
    parts->kernels = std::make_unique<CalibratedKernels>(*std::move(kernels));
  } else {
    RooflineKernels::Rates rates;
    rates.bf16_flops = parts->machine.bf16_flops;
    rates.fp8_flops = parts->machine.fp8_flops;
    rates.memory_bytes = parts->machine.memory_bytes_per_second;
    // What products and streams reach on the calibrated GPUs, about.
    rates.flops_share = 0.75;
    rates.memory_share = 0.85;
    rates.launch_seconds = 3e-6;
    parts->kernels = std::make_unique<RooflineKernels>(rates);
    parts->notes.push_back(absl::StrCat(
        "no calibration of kernels for ", device,
        ": products at 75 % of the data sheet's rate, memory at 85 %"));
  }
  parts->network = std::make_unique<NetworkTimes>(*parts->cluster);
  slot = std::move(parts);
  return slot.get();
}

absl::StatusOr<StepInputs> Simulator::Inputs(const Scenario& scenario) {
  StepInputs inputs;
  ASSIGN_OR_RETURN(inputs.model, Model(scenario.model));
  ASSIGN_OR_RETURN(const ClusterParts* parts, ClusterOf(scenario.cluster));
  inputs.machine = parts->machine;
  inputs.kernels = parts->kernels.get();
  inputs.network = parts->network.get();
  ASSIGN_OR_RETURN(inputs.schedule, ParsePipelineKind(scenario.schedule));
  ASSIGN_OR_RETURN(const Layout layout, ParseLayout(scenario.layout));
  ASSIGN_OR_RETURN(inputs.layout,
                   LayoutFor(layout, inputs.model->config(), inputs.schedule,
                             inputs.machine.num_gpus));
  inputs.software = scenario.software;
  inputs.loads = scenario.loads;
  for (const auto& [rank, factor] : scenario.slow) {
    if (rank < 0 || rank >= inputs.machine.num_gpus || !(factor >= 1) ||
        factor > 1000) {
      return absl::InvalidArgumentError(absl::StrCat(
          "slow rank ", rank, " by ", factor, "; want a rank below ",
          inputs.machine.num_gpus, " and a factor of 1 to 1000"));
    }
    inputs.machine.slowdown.resize(inputs.machine.num_gpus, 1);
    inputs.machine.slowdown[rank] = factor;
  }
  return inputs;
}

absl::StatusOr<StepResult> Simulator::Run(const Scenario& scenario) {
  ASSIGN_OR_RETURN(const StepInputs inputs, Inputs(scenario));
  ASSIGN_OR_RETURN(StepResult result, SimulateStep(inputs));
  ASSIGN_OR_RETURN(const ClusterParts* parts, ClusterOf(scenario.cluster));
  result.warnings.insert(result.warnings.end(), parts->notes.begin(),
                         parts->notes.end());
  return result;
}

}  // namespace strata::sim
