#include "core/checkpoint/weight_map.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_tensors.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/model/decoder.h"

namespace strata {
namespace {

// The dot tells routed experts from shared ones, whose scope ends in
// "shared_experts" and which are one expert.
constexpr absl::string_view kExpertsGateUp = ".experts.gate_up_proj.weight";
constexpr absl::string_view kExpertsDown = ".experts.down_proj.weight";
// A hundred times what the largest public model has; bounds what a config of
// unknown origin makes us list.
constexpr double kMaxParts = 1 << 22;
constexpr absl::string_view kGateUp = "gate_up_proj.";

struct Names {
  bool mixtral = false;

  std::string Expert(absl::string_view prefix, int64_t expert,
                     absl::string_view which) const {
    absl::string_view name = which;
    if (mixtral) name = which == "gate" ? "w1" : which == "up" ? "w3" : "w2";
    return absl::StrCat(Block(prefix), "experts.", expert, ".", name,
                        mixtral ? "" : "_proj", ".weight");
  }
  std::string Block(absl::string_view name) const {
    return mixtral
               ? absl::StrReplaceAll(name, {{".mlp.", ".block_sparse_moe."}})
               : std::string(name);
  }
};

// The public names of our tensor.
std::vector<std::string> PartsOf(const std::string& name, const Shape& shape,
                                 const Names& names) {
  absl::string_view prefix = name;
  std::vector<std::string> parts;
  if (absl::EndsWith(name, kExpertsGateUp)) {
    prefix.remove_suffix(kExpertsGateUp.size() - 1);
    for (int64_t e = 0; e < shape[0]; ++e) {
      parts.push_back(names.Expert(prefix, e, "gate"));
      parts.push_back(names.Expert(prefix, e, "up"));
    }
  } else if (absl::EndsWith(name, kExpertsDown)) {
    prefix.remove_suffix(kExpertsDown.size() - 1);
    for (int64_t e = 0; e < shape[0]; ++e) {
      parts.push_back(names.Expert(prefix, e, "down"));
    }
  } else if (absl::StrContains(name, kGateUp)) {
    for (const absl::string_view which : {"gate_proj.", "up_proj."}) {
      parts.push_back(absl::StrReplaceAll(name, {{kGateUp, which}}));
    }
  } else {
    parts.push_back(names.Block(name));
  }
  return parts;
}

absl::StatusOr<Graph> BuildGraph(const ModelConfig& config) {
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kEvaluate;
  options.max_tokens = 1;
  BuildDecoder(builder, config, options);
  return builder.Finish();
}

}  // namespace

int64_t NumParts(const std::string& name, const Shape& shape) {
  if (absl::EndsWith(name, kExpertsGateUp)) return 2 * shape[0];
  if (absl::EndsWith(name, kExpertsDown)) return shape[0];
  return absl::StrContains(name, kGateUp) ? 2 : 1;
}

absl::StatusOr<std::vector<WeightParts>> OwnWeightMap(
    const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Graph graph, BuildGraph(config));
  std::vector<WeightParts> map;
  for (std::string& name : ModelTensorNames(graph)) {
    WeightParts entry;
    for (const Dim& dim : graph.value(graph.FindSource(name)).type.dims) {
      entry.shape.push_back(dim.bound);
    }
    entry.part_shape = entry.shape;
    entry.parts = {name};
    entry.name = std::move(name);
    map.push_back(std::move(entry));
  }
  return map;
}

absl::StatusOr<std::vector<WeightParts>> HfWeightMap(
    const ModelConfig& config) {
  const bool has_experts = NumDenseLayers(config) < config.num_layers();
  if (has_experts && config.moe().has_hierarchical()) {
    return absl::UnimplementedError(
        "no public architecture has a hierarchical router");
  }
  const double num_parts =
      has_experts ? 3.0 * static_cast<double>(config.num_layers()) *
                        static_cast<double>(NumRoutedExperts(config))
                  : 0;
  if (num_parts > kMaxParts) {
    return absl::InvalidArgumentError(
        absl::StrCat("the experts would be ", num_parts, " tensors; want at ",
                     "most ", kMaxParts));
  }
  ASSIGN_OR_RETURN(std::vector<WeightParts> map, OwnWeightMap(config));
  const Names names = {has_experts && !config.attention().has_latent() &&
                       !config.attention().qk_norm()};
  for (WeightParts& entry : map) {
    entry.parts = PartsOf(entry.name, entry.shape, names);
    Shape& part = entry.part_shape;
    if (part.size() == 3) {
      part.erase(part.begin());
      if (absl::EndsWith(entry.name, kExpertsGateUp)) part[0] /= 2;
    } else if (entry.parts.size() == 2) {
      part[0] /= 2;
    }
  }
  return map;
}

}  // namespace strata
