// Clusters by name: presets, and files of the same form.

#ifndef SIM_CLUSTER_LOAD_CLUSTER_H_
#define SIM_CLUSTER_LOAD_CLUSTER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {

// The cluster `name_or_path`: a path to a text proto of ClusterConfig if it
// has a '/' or ends in ".textproto", else a preset, "<node>" or
// "<node>x<GPUs>": "h100", "h800x2048". GPUs are at most a node's, or whole
// nodes.
//
// Returns NOT_FOUND, with the presets' names, if there is no such preset; the
// file's error; or that of parsing it or of Cluster::Create.
absl::StatusOr<Cluster> LoadCluster(absl::string_view name_or_path);

// The config of a preset: to be changed before Cluster::Create.
absl::StatusOr<ClusterConfig> ClusterPreset(absl::string_view name);

// Of the presets in sim/cluster/presets: "a100", ...
std::vector<std::string> NodePresetNames();

// A kind of node, fabric left out. Returns NOT_FOUND, with the presets' names.
absl::StatusOr<NodeConfig> NodePreset(absl::string_view name);

}  // namespace strata::sim

#endif  // SIM_CLUSTER_LOAD_CLUSTER_H_
