#include "sim/cluster/load_cluster.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/model/preset.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/node_preset_texts.h"

namespace strata::sim {
namespace {

// A leaf of 64 ports at 400 Gb/s, half of them down: 32 nodes under a rail's
// leaf, as in NVIDIA's scalable units, and as much bandwidth up as down.
constexpr int kNodesPerLeaf = 32;
// A switch and its cable; NDR InfiniBand.
constexpr double kSwitchMicroseconds = 0.3;

// Keeps the parser's first error.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (!message_.empty()) return;
    message_ = absl::StrFormat("line %d: %s", line + 1, message);
  }

  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

absl::StatusOr<ClusterConfig> ReadConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  ClusterConfig config;
  google::protobuf::TextFormat::Parser parser;
  FirstError error;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(text, &config)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is not a cluster's text proto: ", error.message()));
  }
  return config;
}

// What `node` says, and beside it what the preset says that it is like.
absl::Status AddValuesOfPreset(NodeConfig& node) {
  if (node.like().empty()) return absl::OkStatus();
  absl::StatusOr<NodeConfig> all = NodePreset(node.like());
  if (!all.ok()) {
    return absl::Status(all.status().code(),
                        absl::StrCat("kind \"", node.name(), "\" is like ",
                                     all.status().message()));
  }
  // A preset may itself be like another one, whose calibrations count.
  const std::string like = all->like().empty() ? node.like() : all->like();
  all->MergeFrom(node);
  all->set_like(like);
  node = *std::move(all);
  return absl::OkStatus();
}

// Appends the preset of each kind that a group names and the config lacks.
absl::Status AddPresetKinds(ClusterConfig& config) {
  for (NodeConfig& kind : *config.mutable_kind()) {
    RETURN_IF_ERROR(AddValuesOfPreset(kind));
  }
  for (const NodeGroup& group : config.nodes()) {
    if (std::any_of(config.kind().begin(), config.kind().end(),
                    [&](const NodeConfig& kind) {
                      return kind.name() == group.kind();
                    })) {
      continue;
    }
    ASSIGN_OR_RETURN(*config.add_kind(), NodePreset(group.kind()));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> NodePresetNames() {
  return NamesOf(NodePresetTexts());
}

absl::StatusOr<NodeConfig> NodePreset(absl::string_view name) {
  NodeConfig node;
  RETURN_IF_ERROR(ReadPreset(NodePresetTexts(), "node", name, node));
  RETURN_IF_ERROR(AddValuesOfPreset(node));
  return node;
}

absl::StatusOr<ClusterConfig> ClusterPreset(absl::string_view name) {
  // "<node>" or "<node>x<GPUs>"; no preset's name has an x.
  const size_t x = name.rfind('x');
  const absl::string_view node_name = name.substr(0, x);
  const std::vector<std::string> known = NodePresetNames();
  int gpus = 0;
  if (std::find(known.begin(), known.end(), node_name) == known.end() ||
      (x != name.npos && !absl::SimpleAtoi(name.substr(x + 1), &gpus))) {
    return absl::NotFoundError(absl::StrFormat(
        "no cluster \"%s\"; want one of %s, with the number of GPUs as in "
        "h800x2048, or a file",
        name.substr(0, 80), absl::StrJoin(known, ", ")));
  }
  ASSIGN_OR_RETURN(NodeConfig node, NodePreset(node_name));
  const int per_node = node.num_gpus();
  if (x == name.npos) gpus = per_node;
  if (gpus < 1 || gpus > kMaxRanks || (gpus > per_node && gpus % per_node)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "cluster \"%s\" has %d GPUs; want 1 to %d, or a multiple of %d up to "
        "%d",
        name, gpus, per_node, per_node, kMaxRanks));
  }
  ClusterConfig config;
  config.set_name(std::string(name));
  NodeGroup* group = config.add_nodes();
  group->set_kind(node.name());
  group->set_count(std::max(1, gpus / per_node));
  if (gpus < per_node) group->set_gpus(gpus);
  *config.add_kind() = std::move(node);
  config.mutable_fabric()->set_nodes_per_leaf(kNodesPerLeaf);
  config.mutable_fabric()->set_oversubscription(1);
  config.mutable_fabric()->set_switch_latency_us(kSwitchMicroseconds);
  return config;
}

absl::StatusOr<Cluster> LoadCluster(absl::string_view name_or_path) {
  const bool is_path = absl::StrContains(name_or_path, '/') ||
                       absl::EndsWith(name_or_path, ".textproto");
  if (!is_path) {
    ASSIGN_OR_RETURN(const ClusterConfig config, ClusterPreset(name_or_path));
    return Cluster::Create(config);
  }
  const std::string path(name_or_path);
  ASSIGN_OR_RETURN(ClusterConfig config, ReadConfig(path));
  const auto create = [&]() -> absl::StatusOr<Cluster> {
    RETURN_IF_ERROR(AddPresetKinds(config));
    return Cluster::Create(config);
  };
  absl::StatusOr<Cluster> cluster = create();
  if (cluster.ok()) return cluster;
  return absl::Status(cluster.status().code(),
                      absl::StrCat(path, ": ", cluster.status().message()));
}

}  // namespace strata::sim
