// ASTRA-sim's analytical network file: a topology per dimension.
//
//   topology: [ Ring, Switch ]    # Ring | FullyConnected | Switch
//   npus_count: [ 8, 2 ]          # ranks along the dimension, each above 1
//   bandwidth: [ 400.0, 50.0 ]    # GB/s of a link and direction; GB is 2^30
//   latency: [ 936.25, 1000.0 ]   # ns of a link
//
// Dimension 0 varies fastest in a rank's number.

#ifndef SIM_ASTRA_NETWORK_CONFIG_H_
#define SIM_ASTRA_NETWORK_CONFIG_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata::astra {

inline constexpr int kMaxRanks = 1 << 16;

enum class Topology { kRing, kFullyConnected, kSwitch };

struct NetworkDimension {
  Topology topology = Topology::kRing;
  int num_ranks = 0;
  double bandwidth_gbps = 0;  // 2^30 bytes a second.
  double latency_ns = 0;
};

struct NetworkConfig {
  std::vector<NetworkDimension> dimensions;

  int num_ranks() const;
};

// Parses the file's text; `name` is the file's, for errors. Of YAML it takes
// what such files use: comments, and keys whose values are lists in brackets or
// lines with dashes.
//
// Returns INVALID_ARGUMENT, with file, line and what was expected, for text
// that is none of that, an unknown topology, lists of different lengths,
// numbers out of range or more than 2^16 ranks.
absl::StatusOr<NetworkConfig> ParseNetworkConfig(absl::string_view text,
                                                 absl::string_view name);

}  // namespace strata::astra

#endif  // SIM_ASTRA_NETWORK_CONFIG_H_
