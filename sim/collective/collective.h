// What a collective costs on a cluster: time, bytes, the bottleneck.
//
//   CollectiveModel model(cluster);
//   CollectiveRequest request;
//   request.kind = CollectiveKind::kAllReduce;
//   request.bytes = 2.0 * num_parameters;
//   request.group = {/*first=*/0, /*stride=*/8, /*count=*/32};
//   ASSIGN_OR_RETURN(CollectiveCost cost, model.Cost(request));
//
// A collective is an algorithm: phases of steps, each of which loads links.
//
//   time = launch + steps * step time + max over links (bytes / bandwidth)
//
// with the constants that the node's NCCL has (cluster.proto). Ranks that
// behave alike are folded: links of one node of each class are looked at, so
// cost grows with what differs. docs/simulator_network.md has the formulas.

#ifndef SIM_COLLECTIVE_COLLECTIVE_H_
#define SIM_COLLECTIVE_COLLECTIVE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "sim/cluster/cluster.h"
#include "sim/collective/algorithm.h"
#include "sim/collective/group.h"
#include "sim/engine/time.h"
#include "sim/network/topology.h"

namespace strata::sim {

struct CollectiveRequest {
  CollectiveKind kind = CollectiveKind::kAllReduce;
  CollectiveAlgorithm algorithm = CollectiveAlgorithm::kAuto;

  // The full buffer, as NCCL's benchmarks count it:
  //   all-reduce, broadcast  the buffer of each rank
  //   all-gather             the output of each rank: count times its input
  //   reduce-scatter         the input of each rank: count times its output
  //   all-to-all             the input of each rank: a count-th to each rank,
  //                          itself included
  //   send/recv              the message
  // Not used for all-to-all-v.
  double bytes = 0;

  // Who takes part: `ranks`, all different, or if it is empty `group`.
  absl::Span<const int> ranks;
  RankGroup group;

  // All-to-all-v: bytes from the i-th of the group to the j-th.
  absl::Span<const double> bytes_matrix;  // [count, count], row: sender

  // Whether the switches can add up the element type: not int8.
  bool in_switch_type = true;
};

struct CollectiveCost {
  Picoseconds time = 0;

  // That the rank which sends the most sends over NVLink and over NICs.
  double intra_node_bytes_per_rank = 0;
  double inter_node_bytes_per_rank = 0;

  // The parts of `time`: launch and steps, and the bytes over the bottleneck.
  Picoseconds latency_time = 0;
  Picoseconds bandwidth_time = 0;
  std::string bottleneck;  // The link's name; "" if no bytes move.
  CollectiveAlgorithm algorithm = CollectiveAlgorithm::kAuto;  // The one used.
};

// A link that a collective loads: the time that its bytes take over that link,
// as a share of the time that those of the busiest link take, in (0, 1].
struct LinkShare {
  LinkId link = -1;
  double share = 0;
};

// Whether ranks that behave alike are folded. The result is the same; kUnfold
// looks at every transfer and is there to be held against.
enum class Folding { kFold, kUnfold };

class CollectiveModel {
 public:
  // `cluster` must outlive it. The second form takes links that were changed.
  explicit CollectiveModel(const Cluster& cluster,
                           Folding folding = Folding::kFold);
  explicit CollectiveModel(Topology topology, Folding folding = Folding::kFold);

  // Any thread.
  //
  // Returns INVALID_ARGUMENT if the group is empty, a rank is not in the
  // cluster or is there twice, if bytes are negative or not finite, if the
  // matrix is not count x count, if the algorithm does not exist for the kind
  // or the group (halving-doubling of 6 ranks, in-switch without such
  // switches).
  absl::StatusOr<CollectiveCost> Cost(const CollectiveRequest& request) const;

  // The links that the collective's bytes pass, by id; none if no bytes move.
  // Shares do not depend on the number of bytes, but on the algorithm: name the
  // one that Cost has chosen, as kAuto is not taken here.
  //
  // Returns what Cost returns, and INVALID_ARGUMENT for kAuto. Cost is that of
  // the collective's transfers, nothing is folded.
  absl::StatusOr<std::vector<LinkShare>> LinkShares(
      const CollectiveRequest& request) const;

  const Topology& topology() const { return topology_; }
  const Cluster& cluster() const { return topology_.cluster(); }

 private:
  Topology topology_;
  bool fold_;
};

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_COLLECTIVE_H_
