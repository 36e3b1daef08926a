// The links of a cluster, and the links that lie between two ranks.
//
//   NVLink    a port of each GPU, out and in; the switches between them are
//             without contention
//   NIC       out and in, of each NIC of each node
//   leaf      up to and down from the spines, one link for all cables of a leaf
//   dimension links of the generic dimensions of ClusterConfig
//
// Between GPUs of different nodes NCCL's PXN is assumed: the bytes cross NVLink
// to the GPU on the receiver's rail, leave by its NIC, and so stay on one rail.
//
// Bandwidths are the data sheet's, divided by the rank's slowdown; what a
// protocol makes of them is the caller's business. Immutable after the Scale
// calls.

#ifndef SIM_NETWORK_TOPOLOGY_H_
#define SIM_NETWORK_TOPOLOGY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "sim/cluster/cluster.h"
#include "sim/engine/time.h"

namespace strata::sim {

using LinkId = int32_t;

enum class LinkKind { kNvlink, kNic, kLeaf, kDimension };

struct Link {
  LinkKind kind = LinkKind::kNvlink;
  double bytes_per_second = 0;
  Picoseconds latency = 0;
};

// In the order in which the bytes pass them. NVLink, NICs and leaves: at
// most 6.
using Route = absl::InlinedVector<LinkId, 8>;

class Topology {
 public:
  // `cluster` must outlive it.
  explicit Topology(const Cluster& cluster);

  const Cluster& cluster() const { return *cluster_; }
  int num_links() const { return links_.size(); }
  const Link& link(LinkId id) const { return links_[id]; }

  // "NVLink of rank 3, out", "NIC 2 of node 7, in", "leaf 4, up".
  std::string LinkName(LinkId id) const;

  // The links between two ranks, both in [0, num_ranks()); none if they are the
  // same one.
  void FindRoute(int from, int to, Route& route) const;

  Picoseconds RouteLatency(const Route& route) const;

  // Divides the bandwidth of a NIC, both ways, by `factor`, at least 1: a link
  // that lost lanes.
  void SlowNic(int node, int nic, double factor);

  // The links that belong to one rank or node. Ids of "in" follow "out".
  LinkId NvlinkOut(int rank) const { return 2 * rank; }
  LinkId NvlinkIn(int rank) const { return 2 * rank + 1; }
  LinkId NicOut(int node, int nic) const { return first_nic_[node] + 2 * nic; }
  LinkId NicIn(int node, int nic) const { return NicOut(node, nic) + 1; }
  LinkId LeafUp(int leaf) const { return first_leaf_ + 2 * leaf; }
  LinkId LeafDown(int leaf) const { return LeafUp(leaf) + 1; }

  // The NIC that the rank's GPU is next to.
  int NicOf(int rank) const;
  // The leaf switch that the NIC hangs on; -1 without a fabric.
  int LeafOf(int node, int nic) const;

  // Whether the network is NVLink and fabric, not generic dimensions.
  bool has_nodes() const { return dimensions_.empty(); }

 private:
  struct Dimension {
    DimensionConfig::Kind kind;
    int size;
    int stride;         // Product of the sizes before.
    LinkId first_link;  // Of rank 0.
    int links_per_rank;
  };

  void AddNodeLinks();
  void AddLeaves();
  void AddDimensions();
  // The GPU of the node next to the NIC, the one of index `local` if it is; -1
  // if none is in use.
  int RankOnRail(int node, int nic, int local) const;
  void FindRouteOverDimensions(int from, int to, Route& route) const;

  const Cluster* cluster_;
  std::vector<Link> links_;
  std::vector<LinkId> first_nic_;  // [nodes]
  LinkId first_leaf_ = 0;
  // Leaves above the same nodes: one for each rail, or one; 0: no leaves.
  int leaves_per_group_ = 0;
  std::vector<Dimension> dimensions_;
};

}  // namespace strata::sim

#endif  // SIM_NETWORK_TOPOLOGY_H_
