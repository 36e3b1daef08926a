// A cluster, checked and ready to be asked: ranks, nodes, what they are made of
// and what they cost.
//
//   node    0 1 .. 7 | 8 9 .. 15 | ...     ranks, in the order of the config's
//                                          groups; a rank is a GPU
//
// Immutable, so any thread may read it.

#ifndef SIM_CLUSTER_CLUSTER_H_
#define SIM_CLUSTER_CLUSTER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {

// What a config may not exceed: 64 times the largest preset.
inline constexpr int kMaxRanks = 1 << 20;

class Cluster {
 public:
  // Returns INVALID_ARGUMENT, with the field's path, its value and what is
  // wanted, if the config makes no sense, or if a group's kind of node is not
  // among the config's (LoadCluster puts the presets there).
  static absl::StatusOr<Cluster> Create(const ClusterConfig& config);

  const std::string& name() const { return config_.name(); }
  const ClusterConfig& config() const { return config_; }

  int num_ranks() const { return num_ranks_; }
  int num_nodes() const { return first_rank_.size() - 1; }

  // `rank` in [0, num_ranks()), `node` in [0, num_nodes()).
  int NodeOf(int rank) const;
  int FirstRank(int node) const { return first_rank_[node]; }
  int NumGpus(int node) const {
    return first_rank_[node + 1] - first_rank_[node];
  }
  // Nodes of the same kind and with as many GPUs have the same number.
  int KindOf(int node) const { return kind_[node]; }
  const NodeConfig& Node(int node) const { return kinds_[kind_[node]]; }
  // By whose name calibrations know the node's kind: its own, or that of the
  // preset that it is like.
  const std::string& CalibratedKind(int node) const {
    return Node(node).like().empty() ? Node(node).name() : Node(node).like();
  }
  const GpuConfig& Gpu(int rank) const { return Node(NodeOf(rank)).gpu(); }

  // At least 1; the rank's work and its transfers take this many times as long.
  double Slowdown(int rank) const {
    return slowdown_.empty() ? 1 : slowdown_[rank];
  }

  // Of everything at full load.
  double dollars_per_hour() const { return dollars_per_hour_; }
  double watts() const { return watts_; }

 private:
  Cluster() = default;

  ClusterConfig config_;
  int num_ranks_ = 0;
  int gpus_per_node_ = 0;          // 0 if nodes differ.
  std::vector<int> first_rank_;    // [nodes + 1]
  std::vector<int> kind_;          // [nodes] -> kinds_
  std::vector<NodeConfig> kinds_;  // num_gpus is that in use.
  std::vector<double> slowdown_;   // [ranks], or empty
  double dollars_per_hour_ = 0;
  double watts_ = 0;
};

}  // namespace strata::sim

#endif  // SIM_CLUSTER_CLUSTER_H_
