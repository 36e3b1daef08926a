#include "sim/collective/phase.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/base/check.h"
#include "sim/cluster/cluster.h"
#include "sim/collective/group.h"
#include "sim/engine/time.h"
#include "sim/network/topology.h"

namespace strata::sim {
namespace {

// Ring c visits the ranks c, c + 1, ..., c - 1 of each node and goes on to rank
// c of the next, modulo the node's ranks.
void AddRing(const Group& group, double bytes, bool has_nodes,
             AddTransfer add) {
  const int num_rings = has_nodes ? group.least_per_node() : 1;
  for (int c = 0; c < num_rings; ++c) {
    for (int p = 0; p < group.num_nodes(); ++p) {
      const std::vector<int>& ranks = group.nodes[p].ranks;
      const std::vector<int>& next =
          group.nodes[(p + 1) % group.num_nodes()].ranks;
      const int k = ranks.size();
      for (int t = 0; t < k; ++t) {
        const int to =
            t < k - 1 ? ranks[(c + t + 1) % k] : next[c % next.size()];
        add(ranks[(c + t) % k], to, bytes / num_rings);
      }
    }
  }
}

// A chain from member c on within each node, up and down.
void AddChains(const Group& group, double bytes, int num_channels,
               AddTransfer add) {
  for (int c = 0; c < num_channels; ++c) {
    for (const GroupNode& node : group.nodes) {
      const int k = node.ranks.size();
      for (int t = 0; t < k - 1; ++t) {
        const int upper = node.ranks[(c + t) % k];
        const int lower = node.ranks[(c + t + 1) % k];
        add(lower, upper, bytes / num_channels);
        add(upper, lower, bytes / num_channels);
      }
    }
  }
}

void AddTreeEdges(const Group& group, double bytes, int num_channels,
                  AddTransfer add) {
  for (const bool second : {false, true}) {
    for (int p = 0; p < group.num_nodes(); ++p) {
      const int parent = TreeParent(group.num_nodes(), p, second);
      if (parent < 0) continue;
      for (int c = 0; c < num_channels; ++c) {
        const int lower = group.nodes[p].ranks[c];
        const int upper = group.nodes[parent].ranks[c];
        add(lower, upper, bytes / (2 * num_channels));
        add(upper, lower, bytes / (2 * num_channels));
      }
    }
  }
}

void AddWithin(const Phase& phase, const Group& group, AddTransfer add) {
  for (const GroupNode& node : group.nodes) {
    const int k = node.ranks.size();
    for (int d = 0; d < k; ++d) {
      if (phase.pattern == Pattern::kWithinRing) {
        if (k > 1) add(node.ranks[d], node.ranks[(d + 1) % k], phase.bytes);
        continue;
      }
      for (int e = 0; e < k; ++e) {
        if (e != d) add(node.ranks[d], node.ranks[e], phase.bytes);
      }
    }
  }
}

void AddAcross(const Phase& phase, const Group& group, AddTransfer add) {
  const int m = group.num_nodes();
  for (int p = 0; p < m; ++p) {
    for (size_t d = 0; d < group.nodes[p].ranks.size(); ++d) {
      const int from = group.nodes[p].ranks[d];
      if (phase.pattern == Pattern::kAcrossRing) {
        if (m > 1) add(from, group.nodes[(p + 1) % m].ranks[d], phase.bytes);
        continue;
      }
      for (int q = 0; q < m; ++q) {
        if (q != p) add(from, group.nodes[q].ranks[d], phase.bytes);
      }
    }
  }
}

// Turns bytes on links into the times of the busiest.
class LoadMeter {
 public:
  explicit LoadMeter(const Topology& topology) : topology_(topology) {}

  void See(LinkId id, double bytes) {
    if (bytes <= 0) return;
    const Link& link = topology_.link(id);
    const double seconds = bytes / link.bytes_per_second;
    KindLoad& kind = KindOf(link.kind);
    if (seconds > kind.seconds) kind = {seconds, id};
  }

  void SeeNvlinkOut(double bytes) {
    load.nvlink_bytes = std::max(load.nvlink_bytes, bytes);
  }
  void SeeNicsOut(double bytes_per_rank) {
    load.nic_bytes = std::max(load.nic_bytes, bytes_per_rank);
  }

  PhaseLoad load;

 private:
  KindLoad& KindOf(LinkKind kind) {
    switch (kind) {
      case LinkKind::kNvlink:
        return load.nvlink;
      case LinkKind::kNic:
        return load.nic;
      case LinkKind::kLeaf:
        return load.leaf;
      default:
        return load.dimension;
    }
  }

  const Topology& topology_;
};

// The links of a node of a symmetric group, by what all its nodes have alike:
// GPUs are places in the group's nodes, NICs those of the node.
struct NodeLoad {
  NodeLoad(int num_members, int num_nics)
      : nvlink_out(num_members, 0),
        nvlink_in(num_members, 0),
        peer_out(num_nics, 0),
        peer_in(num_nics, 0) {}

  std::vector<double> nvlink_out;  // [members]
  std::vector<double> nvlink_in;
  std::vector<double> peer_out;  // [NICs] Bytes to one peer node, by NIC.
  std::vector<double> peer_in;
};

class Folder {
 public:
  Folder(const Phase& phase, const Group& group, const Topology& topology)
      : phase_(phase),
        group_(group),
        topology_(topology),
        num_members_(group.nodes[0].ranks.size()),
        num_nodes_(group.num_nodes()),
        load_(num_members_, NumNics()) {
    for (const int rank : group.nodes[0].ranks) {
      nic_.push_back(topology.NicOf(rank));
    }
    const FabricConfig& fabric = topology.cluster().config().fabric();
    has_rails_ = fabric.kind() == FabricConfig::RAIL_OPTIMISED;
    nodes_per_leaf_ = std::max(1, fabric.nodes_per_leaf());
  }

  PhaseLoad Load() {
    AddSends();
    CountPeers();
    LoadMeter meter(topology_);
    for (int p = 0; p < num_nodes_; ++p) SeeNode(p, meter);
    if (num_nodes_ > 1) SeeLeaves(meter);
    return meter.load;
  }

 private:
  int NumNics() const {
    return topology_.cluster().Node(group_.nodes[0].node).nic().count();
  }

  void Within(int from, int to, double bytes) {
    load_.nvlink_out[from] += bytes;
    load_.nvlink_in[to] += bytes;
  }

  // From a member to one of each peer node. NVLink sees it once for each of
  // `num_peers`.
  void Across(int from, int to, double bytes, double num_peers) {
    int out = nic_[from];
    if (has_rails_ && out != nic_[to]) {
      // The member on the receiver's rail forwards it.
      Within(from, to, bytes * num_peers);
      out = nic_[to];
    }
    load_.peer_out[out] += bytes;
    load_.peer_in[nic_[to]] += bytes;
  }

  void AddRing() {
    const int k = num_members_;
    const double share = phase_.bytes / k;
    for (int c = 0; c < k; ++c) {
      for (int t = 0; t < k - 1; ++t) {
        Within((c + t) % k, (c + t + 1) % k, share);
      }
      const int last = (c + k - 1) % k;
      if (num_nodes_ > 1) {
        Across(last, c, share, 1);
      } else if (k > 1) {
        Within(last, c, share);
      }
    }
  }

  void AddSends() {
    const int k = num_members_;
    const double bytes = phase_.bytes;
    switch (phase_.pattern) {
      case Pattern::kRing:
        AddRing();
        return;
      case Pattern::kTree:
        // Of each of k chains every edge but one, both ways.
        for (int c = 0; c < k; ++c) {
          for (int t = 0; t < k - 1; ++t) {
            Within((c + t + 1) % k, (c + t) % k, bytes / k);
            Within((c + t) % k, (c + t + 1) % k, bytes / k);
          }
        }
        break;
      case Pattern::kInSwitch:
        for (int d = 0; d < k; ++d) Within(d, d, bytes);
        break;
      case Pattern::kAllPairs:
      case Pattern::kWithinAll:
        for (int d = 0; d < k; ++d) {
          for (int e = 0; e < k; ++e) {
            if (d != e) Within(d, e, bytes);
            if (phase_.pattern == Pattern::kAllPairs && num_nodes_ > 1) {
              Across(d, e, bytes, num_nodes_ - 1);
            }
          }
        }
        return;
      case Pattern::kExchange:
        for (int d = 0; d < k; ++d) {
          if (phase_.distance < k) {
            Within(d, d ^ phase_.distance, bytes);
          } else {
            Across(d, d, bytes, 1);
          }
        }
        return;
      case Pattern::kWithinRing:
        for (int d = 0; d < k && k > 1; ++d) Within(d, (d + 1) % k, bytes);
        return;
      case Pattern::kAcrossRing:
      case Pattern::kAcrossAll:
        for (int d = 0; d < k && num_nodes_ > 1; ++d) Across(d, d, bytes, 1);
        return;
      case Pattern::kMatrix:
        CHECK(false) << "an arbitrary matrix cannot be folded";
    }
    // An edge of one of the trees, both ways.
    for (int d = 0; d < k && num_nodes_ > 1; ++d) {
      Across(d, d, bytes / (2 * k), 1);
    }
  }

  bool IsTree() const {
    return phase_.pattern == Pattern::kTree ||
           phase_.pattern == Pattern::kInSwitch;
  }
  bool IsAll() const {
    return phase_.pattern == Pattern::kAllPairs ||
           phase_.pattern == Pattern::kAcrossAll;
  }

  // How many peers each node sends to, and as many it receives from.
  void CountPeers() {
    num_peers_.assign(num_nodes_, IsAll() ? num_nodes_ - 1 : 1);
    if (!IsTree()) return;
    num_peers_.assign(num_nodes_, 0);
    for (const bool second : {false, true}) {
      for (int p = 0; p < num_nodes_; ++p) {
        const int parent = TreeParent(num_nodes_, p, second);
        if (parent < 0) continue;
        ++num_peers_[p];
        ++num_peers_[parent];
      }
    }
  }

  void SeeNode(int p, LoadMeter& meter) const {
    const GroupNode& node = group_.nodes[p];
    for (int d = 0; d < num_members_; ++d) {
      meter.See(topology_.NvlinkOut(node.ranks[d]), load_.nvlink_out[d]);
      meter.See(topology_.NvlinkIn(node.ranks[d]), load_.nvlink_in[d]);
      meter.SeeNvlinkOut(load_.nvlink_out[d]);
    }
    double out = 0;
    for (int i = 0; i < NumNics(); ++i) {
      const double nic_out = load_.peer_out[i] * num_peers_[p];
      meter.See(topology_.NicOut(node.node, i), nic_out);
      meter.See(topology_.NicIn(node.node, i),
                load_.peer_in[i] * num_peers_[p]);
      out += nic_out;
    }
    meter.SeeNicsOut(out / num_members_);
  }

  int LeafGroup(int p) const { return group_.nodes[p].node / nodes_per_leaf_; }

  // Sees the leaves of a group of nodes from which `out` peers' worth of bytes
  // goes up, and to which `in` come down.
  void SeeLeaf(int leaf_group, double out, double in, LoadMeter& meter) const {
    const int node = leaf_group * nodes_per_leaf_;
    double up = 0;
    double down = 0;
    for (int i = 0; i < NumNics(); ++i) {
      up = has_rails_ ? load_.peer_out[i] : up + load_.peer_out[i];
      down = has_rails_ ? load_.peer_in[i] : down + load_.peer_in[i];
      if (!has_rails_ && i < NumNics() - 1) continue;
      const int leaf = topology_.LeafOf(node, i);
      meter.See(topology_.LeafUp(leaf), up * out);
      meter.See(topology_.LeafDown(leaf), down * in);
    }
  }

  void SeeLeaves(LoadMeter& meter) const {
    int groups = 0;
    for (int p = 0; p < num_nodes_; ++p) {
      groups = std::max(groups, LeafGroup(p) + 1);
    }
    std::vector<double> out(groups, 0);
    std::vector<double> in(groups, 0);
    const auto cross = [&](int p, int q) {
      if (LeafGroup(p) == LeafGroup(q)) return;
      ++out[LeafGroup(p)];
      ++in[LeafGroup(q)];
    };
    if (IsAll()) {
      std::vector<double> count(groups, 0);
      for (int p = 0; p < num_nodes_; ++p) ++count[LeafGroup(p)];
      for (int g = 0; g < groups; ++g) {
        out[g] = in[g] = count[g] * (num_nodes_ - count[g]);
      }
    } else if (IsTree()) {
      for (const bool second : {false, true}) {
        for (int p = 0; p < num_nodes_; ++p) {
          const int parent = TreeParent(num_nodes_, p, second);
          if (parent < 0) continue;
          cross(p, parent);
          cross(parent, p);
        }
      }
    } else {
      for (int p = 0; p < num_nodes_; ++p) {
        cross(p, phase_.pattern == Pattern::kExchange
                     ? p ^ (phase_.distance / num_members_)
                     : (p + 1) % num_nodes_);
      }
    }
    for (int g = 0; g < groups; ++g) SeeLeaf(g, out[g], in[g], meter);
  }

  const Phase& phase_;
  const Group& group_;
  const Topology& topology_;
  int num_members_;
  int num_nodes_;
  std::vector<int> nic_;  // [members]
  NodeLoad load_;
  std::vector<double> num_peers_;  // [nodes]
  bool has_rails_ = false;
  int nodes_per_leaf_ = 1;
};

}  // namespace

int TreeParent(int n, int i, bool second) {
  // The second tree is the first with the nodes renamed so that the leaves of
  // one are not the leaves of the other: mirrored, or shifted if n is odd.
  const auto rename = [&](int x) {
    if (!second) return x;
    return n % 2 == 0 ? n - 1 - x : (x + 1) % n;
  };
  const auto rename_back = [&](int x) {
    if (!second) return x;
    return n % 2 == 0 ? n - 1 - x : (x + n - 1) % n;
  };
  const int x = rename(i);
  if (x == 0) return -1;
  // The first tree: odd numbers are leaves; the parent has the lowest set bit
  // cleared and the one above it set, if there is such a node.
  const int bit = x & -x;
  int parent = (x ^ bit) | (bit << 1);
  if (parent >= n) parent = x ^ bit;
  return rename_back(parent);
}

void ForEachTransfer(const Phase& phase, const Group& group, bool has_nodes,
                     AddTransfer add) {
  switch (phase.pattern) {
    case Pattern::kRing:
      AddRing(group, phase.bytes, has_nodes, add);
      return;
    case Pattern::kTree:
      AddChains(group, phase.bytes, group.least_per_node(), add);
      AddTreeEdges(group, phase.bytes, group.least_per_node(), add);
      return;
    case Pattern::kInSwitch:
      AddTreeEdges(group, phase.bytes, group.least_per_node(), add);
      return;
    case Pattern::kWithinRing:
    case Pattern::kWithinAll:
      AddWithin(phase, group, add);
      return;
    case Pattern::kAcrossRing:
    case Pattern::kAcrossAll:
      AddAcross(phase, group, add);
      return;
    case Pattern::kExchange:
      for (int i = 0; i < group.size(); ++i) {
        add(group.ranks[i], group.ranks[i ^ phase.distance], phase.bytes);
      }
      return;
    case Pattern::kAllPairs:
    case Pattern::kMatrix:
      for (int i = 0; i < group.size(); ++i) {
        for (int j = 0; j < group.size(); ++j) {
          if (i == j) continue;
          const double bytes = phase.pattern == Pattern::kMatrix
                                   ? phase.matrix[i * group.size() + j]
                                   : phase.bytes;
          if (bytes > 0) add(group.ranks[i], group.ranks[j], bytes);
        }
      }
  }
}

namespace {

PhaseLoad LoadOfBytes(const std::vector<double>& bytes_on, const Group& group,
                      const Topology& topology) {
  LoadMeter meter(topology);
  for (LinkId id = 0; id < topology.num_links(); ++id) {
    meter.See(id, bytes_on[id]);
  }
  if (!topology.has_nodes()) return meter.load;
  for (const GroupNode& node : group.nodes) {
    for (const int rank : node.ranks) {
      meter.SeeNvlinkOut(bytes_on[topology.NvlinkOut(rank)]);
    }
    double out = 0;
    const int num_nics = topology.cluster().Node(node.node).nic().count();
    for (int i = 0; i < num_nics; ++i) {
      out += bytes_on[topology.NicOut(node.node, i)];
    }
    meter.SeeNicsOut(out / node.ranks.size());
  }
  return meter.load;
}

}  // namespace

PhaseLoad LoadOfTransfers(const Group& group, const Topology& topology,
                          absl::FunctionRef<void(AddTransfer add)> emit) {
  std::vector<double> bytes_on(topology.num_links(), 0);
  Picoseconds latency = 0;
  Route route;
  emit([&](int from, int to, double bytes) {
    topology.FindRoute(from, to, route);
    for (const LinkId id : route) bytes_on[id] += bytes;
    if (topology.has_nodes()) return;
    latency = std::max(latency, topology.RouteLatency(route));
  });
  PhaseLoad load = LoadOfBytes(bytes_on, group, topology);
  load.route_latency = latency;
  return load;
}

double BandwidthTime(const PhaseLoad& load, const Efficiency& efficiency,
                     LinkId& bottleneck) {
  const std::array<std::pair<double, LinkId>, 4> kinds = {{
      {load.nvlink.seconds / efficiency.nvlink, load.nvlink.link},
      {load.nic.seconds / efficiency.net, load.nic.link},
      {load.leaf.seconds / efficiency.net, load.leaf.link},
      {load.dimension.seconds, load.dimension.link},
  }};
  const auto longest = std::max_element(
      kinds.begin(), kinds.end(),
      [](const auto& a, const auto& b) { return a.first < b.first; });
  bottleneck = longest->second;
  return longest->first;
}

PhaseLoad UnfoldedLoad(const Phase& phase, const Group& group,
                       const Topology& topology) {
  PhaseLoad load = LoadOfTransfers(group, topology, [&](AddTransfer add) {
    ForEachTransfer(phase, group, topology.has_nodes(), add);
  });
  if (phase.pattern != Pattern::kInSwitch) return load;
  // Nothing else of this pattern passes NVLink.
  LoadMeter meter(topology);
  meter.load = load;
  for (const int rank : group.ranks) {
    meter.See(topology.NvlinkOut(rank), phase.bytes);
    meter.See(topology.NvlinkIn(rank), phase.bytes);
    meter.SeeNvlinkOut(phase.bytes);
  }
  return meter.load;
}

PhaseLoad FoldedLoad(const Phase& phase, const Group& group,
                     const Topology& topology) {
  CHECK(group.is_symmetric && topology.has_nodes());
  return Folder(phase, group, topology).Load();
}

}  // namespace strata::sim
