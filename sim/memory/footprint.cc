#include "sim/memory/footprint.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/model/config.pb.h"

namespace strata::sim {
namespace {

constexpr double kGiB = static_cast<double>(int64_t{1} << 30);
constexpr double kWeightBytes = 2;

}  // namespace

Footprint TrainingFootprint(const TrainingMemory& memory) {
  // Parameters, each over the ranks that it is cut over from a level on.
  const auto held = [&](double bytes, int64_t from_zero) {
    const bool is_cut = memory.zero >= from_zero;
    return bytes *
           (memory.parameters.dense / (is_cut ? memory.dense_replicas : 1) +
            memory.parameters.experts / (is_cut ? memory.expert_replicas : 1));
  };
  Footprint footprint;
  footprint.weights = held(kWeightBytes, 3);
  footprint.gradients = held(memory.gradient_bytes, 2);
  footprint.optimizer = held(memory.master_bytes + 2 * memory.moment_bytes, 1);
  footprint.activations = memory.activation_bytes;
  footprint.buffers = kContextBytes + memory.workspace_bytes;
  footprint.capacity = memory.capacity;
  return footprint;
}

double KvBytesPerToken(const ModelConfig& config) {
  const AttentionConfig& a = config.attention();
  const double width =
      a.has_latent()
          ? static_cast<double>(a.latent().kv_rank() + a.latent().rope_dim())
          : 2.0 * a.num_kv_heads() * a.head_dim();
  return 2 * width * config.num_layers();
}

std::string Verdict(const Footprint& f) {
  std::vector<std::string> parts;
  for (const auto& [name, bytes] : std::vector<std::pair<const char*, double>>{
           {"weights", f.weights},
           {"gradients", f.gradients},
           {"optimizer", f.optimizer},
           {"activations", f.activations},
           {"KV cache", f.kv_cache},
           {"buffers", f.buffers}}) {
    if (bytes > 0)
      parts.push_back(absl::StrFormat("%s %.1f", name, bytes / kGiB));
  }
  return absl::StrFormat("%s: %.1f of %.1f GiB (%s)",
                         f.fits() ? "fits" : "out of memory", f.total() / kGiB,
                         f.capacity / kGiB, absl::StrJoin(parts, ", "));
}

}  // namespace strata::sim
