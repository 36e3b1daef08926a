#include "sim/cluster/cluster.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/validate.h"

namespace strata::sim {
namespace {

// The kind of node that the group names.
absl::StatusOr<NodeConfig> KindOfGroup(const ClusterConfig& config, int group) {
  const std::string& name = config.nodes(group).kind();
  std::vector<std::string> names;
  for (const NodeConfig& kind : config.kind()) {
    if (kind.name() != name) {
      names.push_back(kind.name());
      continue;
    }
    NodeConfig node = kind;
    const int gpus = config.nodes(group).gpus();
    if (gpus > node.num_gpus()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("nodes[%d].gpus is %d; a node of kind \"%s\" has %d",
                          group, gpus, name, node.num_gpus()));
    }
    return node;
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("nodes[%d].kind is \"%s\"; there are %s", group, name,
                      names.empty() ? "none" : absl::StrJoin(names, ", ")));
}

absl::Status CheckDimensions(const ClusterConfig& config, int num_ranks) {
  if (config.dimension().empty()) return absl::OkStatus();
  int64_t product = 1;
  for (const DimensionConfig& dimension : config.dimension()) {
    product *= dimension.size();
    if (product > kMaxRanks) break;
  }
  if (product == num_ranks) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "the dimensions' sizes multiply to %s%d ranks; the nodes "
      "have %d GPUs",
      product > kMaxRanks ? "at least " : "", product, num_ranks));
}

}  // namespace

absl::StatusOr<Cluster> Cluster::Create(const ClusterConfig& config) {
  RETURN_IF_ERROR(ValidateFields(config));
  Cluster cluster;
  cluster.config_ = config;
  cluster.first_rank_ = {0};
  for (int g = 0; g < config.nodes_size(); ++g) {
    ASSIGN_OR_RETURN(const NodeConfig node, KindOfGroup(config, g));
    const NodeGroup& group = config.nodes(g);
    const int gpus = group.gpus() == 0 ? node.num_gpus() : group.gpus();
    const int64_t more = int64_t{group.count()} * gpus;
    if (cluster.num_ranks_ + more > kMaxRanks) {
      return absl::InvalidArgumentError(
          absl::StrFormat("nodes[%d] brings the cluster to %d GPUs; want at "
                          "most %d",
                          g, cluster.num_ranks_ + more, kMaxRanks));
    }
    cluster.gpus_per_node_ =
        g == 0 || cluster.gpus_per_node_ == gpus ? gpus : 0;
    for (int i = 0; i < group.count(); ++i) {
      cluster.num_ranks_ += gpus;
      cluster.first_rank_.push_back(cluster.num_ranks_);
      cluster.kind_.push_back(g);
    }
    cluster.dollars_per_hour_ += more * node.gpu().dollars_per_hour();
    // A node that is used in part still burns all of its host.
    cluster.watts_ +=
        more * node.gpu().watts() + group.count() * node.host_watts();
    cluster.kinds_.push_back(node);
  }
  if (cluster.num_ranks_ == 0) {
    return absl::InvalidArgumentError("the cluster has no nodes");
  }
  if (config.dimension().empty() && config.nodes_size() > 0 &&
      cluster.num_nodes() > 1 && !config.has_fabric()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d nodes, and neither a fabric nor dimensions to "
                        "connect them",
                        cluster.num_nodes()));
  }
  RETURN_IF_ERROR(CheckDimensions(config, cluster.num_ranks_));
  if (config.slowdown_size() > 0) {
    cluster.slowdown_.assign(cluster.num_ranks_, 1);
  }
  for (int i = 0; i < config.slowdown_size(); ++i) {
    const RankSlowdown& slowdown = config.slowdown(i);
    if (slowdown.rank() < 0 || slowdown.rank() >= cluster.num_ranks_) {
      return absl::InvalidArgumentError(
          absl::StrFormat("slowdown[%d].rank is %d; want 0 to %d", i,
                          slowdown.rank(), cluster.num_ranks_ - 1));
    }
    cluster.slowdown_[slowdown.rank()] = slowdown.factor();
  }
  return cluster;
}

int Cluster::NodeOf(int rank) const {
  CHECK(rank >= 0 && rank < num_ranks_) << rank << " of " << num_ranks_;
  if (gpus_per_node_ > 0) return rank / gpus_per_node_;
  return std::upper_bound(first_rank_.begin(), first_rank_.end(), rank) -
         first_rank_.begin() - 1;
}

}  // namespace strata::sim
