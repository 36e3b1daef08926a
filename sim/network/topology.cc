#include "sim/network/topology.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

constexpr double kGigabyte = 1e9;

int NumNics(const NodeConfig& node) { return node.nic().count(); }

}  // namespace

Topology::Topology(const Cluster& cluster) : cluster_(&cluster) {
  if (cluster.config().dimension().empty()) {
    AddNodeLinks();
    AddLeaves();
  } else {
    AddDimensions();
  }
}

void Topology::AddNodeLinks() {
  const Cluster& cluster = *cluster_;
  const Picoseconds switch_latency =
      FromMicroseconds(cluster.config().fabric().switch_latency_us());
  for (int rank = 0; rank < cluster.num_ranks(); ++rank) {
    const ScaleUpConfig& nvlink = cluster.Node(cluster.NodeOf(rank)).scale_up();
    const double rate = nvlink.gb_per_s() * kGigabyte / cluster.Slowdown(rank);
    links_.push_back(
        {LinkKind::kNvlink, rate, FromMicroseconds(nvlink.latency_us())});
    links_.push_back({LinkKind::kNvlink, rate, 0});
  }
  for (int node = 0; node < cluster.num_nodes(); ++node) {
    const NicConfig& nic = cluster.Node(node).nic();
    const Picoseconds latency = FromMicroseconds(nic.latency_us());
    first_nic_.push_back(links_.size());
    for (int i = 0; i < nic.count(); ++i) {
      const double rate = nic.gb_per_s() * kGigabyte;
      links_.push_back(
          {LinkKind::kNic, rate, AddTime(latency, switch_latency)});
      links_.push_back({LinkKind::kNic, rate, latency});
    }
    // A slow rank's NIC is as slow as the rank.
    std::vector<double> slowest(nic.count(), 1);
    for (int i = 0; i < cluster.NumGpus(node); ++i) {
      const int rank = cluster.FirstRank(node) + i;
      double& factor = slowest[NicOf(rank)];
      factor = std::max(factor, cluster.Slowdown(rank));
    }
    for (int i = 0; i < nic.count(); ++i) SlowNic(node, i, slowest[i]);
  }
}

void Topology::AddLeaves() {
  const Cluster& cluster = *cluster_;
  const FabricConfig& fabric = cluster.config().fabric();
  first_leaf_ = links_.size();
  if (cluster.num_nodes() == 1) return;
  if (fabric.kind() == FabricConfig::FAT_TREE) {
    leaves_per_group_ = 1;
  } else {
    for (int node = 0; node < cluster.num_nodes(); ++node) {
      leaves_per_group_ =
          std::max(leaves_per_group_, NumNics(cluster.Node(node)));
    }
  }
  const int groups = (cluster.num_nodes() - 1) / fabric.nodes_per_leaf() + 1;
  const Picoseconds latency = FromMicroseconds(fabric.switch_latency_us());
  links_.resize(first_leaf_ + 2 * groups * leaves_per_group_,
                {LinkKind::kLeaf, 0, latency});
  for (int node = 0; node < cluster.num_nodes(); ++node) {
    const NicConfig& nic = cluster.Node(node).nic();
    for (int i = 0; i < nic.count(); ++i) {
      const LinkId up = LeafUp(LeafOf(node, i));
      links_[up].bytes_per_second +=
          nic.gb_per_s() * kGigabyte / fabric.oversubscription();
      links_[up + 1].bytes_per_second = links_[up].bytes_per_second;
    }
  }
}

void Topology::AddDimensions() {
  const Cluster& cluster = *cluster_;
  int stride = 1;
  for (const DimensionConfig& config : cluster.config().dimension()) {
    Dimension dimension;
    dimension.kind = config.kind();
    dimension.size = config.size();
    dimension.stride = stride;
    dimension.first_link = links_.size();
    dimension.links_per_rank =
        config.kind() == DimensionConfig::FULLY_CONNECTED ? config.size() : 2;
    const Picoseconds latency = FromMicroseconds(config.latency_us());
    for (int rank = 0; rank < cluster.num_ranks(); ++rank) {
      const double rate =
          config.gb_per_s() * kGigabyte / cluster.Slowdown(rank);
      for (int i = 0; i < dimension.links_per_rank; ++i) {
        // Of a switch the way up has the latency of both.
        const bool down = config.kind() == DimensionConfig::SWITCH && i == 1;
        links_.push_back({LinkKind::kDimension, rate, down ? 0 : latency});
      }
    }
    dimensions_.push_back(dimension);
    stride *= config.size();
  }
}

int Topology::NicOf(int rank) const {
  const int node = cluster_->NodeOf(rank);
  const NodeConfig& config = cluster_->Node(node);
  return (rank - cluster_->FirstRank(node)) * NumNics(config) /
         config.num_gpus();
}

int Topology::LeafOf(int node, int nic) const {
  if (leaves_per_group_ == 0) return -1;
  const int group = node / cluster_->config().fabric().nodes_per_leaf();
  return group * leaves_per_group_ + (leaves_per_group_ == 1 ? 0 : nic);
}

void Topology::SlowNic(int node, int nic, double factor) {
  CHECK(factor >= 1) << factor;
  for (const LinkId id : {NicOut(node, nic), NicIn(node, nic)}) {
    links_[id].bytes_per_second /= factor;
  }
}

int Topology::RankOnRail(int node, int nic, int local) const {
  const int first = cluster_->FirstRank(node);
  const int gpus = cluster_->NumGpus(node);
  if (local < gpus && NicOf(first + local) == nic) return first + local;
  for (int i = 0; i < gpus; ++i) {
    if (NicOf(first + i) == nic) return first + i;
  }
  return -1;
}

void Topology::FindRoute(int from, int to, Route& route) const {
  route.clear();
  if (from == to) return;
  if (!dimensions_.empty()) {
    FindRouteOverDimensions(from, to, route);
    return;
  }
  const int from_node = cluster_->NodeOf(from);
  const int to_node = cluster_->NodeOf(to);
  if (from_node == to_node) {
    route.push_back(NvlinkOut(from));
    route.push_back(NvlinkIn(to));
    return;
  }
  int nic = NicOf(from);
  const int to_nic = NicOf(to);
  if (nic != to_nic && leaves_per_group_ > 1) {
    const int proxy =
        RankOnRail(from_node, to_nic, to - cluster_->FirstRank(to_node));
    // A node that is used in part may have no GPU on that rail.
    if (proxy >= 0) {
      route.push_back(NvlinkOut(from));
      route.push_back(NvlinkIn(proxy));
      nic = to_nic;
    }
  }
  route.push_back(NicOut(from_node, nic));
  const int from_leaf = LeafOf(from_node, nic);
  const int to_leaf = LeafOf(to_node, to_nic);
  if (from_leaf != to_leaf) {
    route.push_back(LeafUp(from_leaf));
    route.push_back(LeafDown(to_leaf));
  }
  route.push_back(NicIn(to_node, to_nic));
}

void Topology::FindRouteOverDimensions(int from, int to, Route& route) const {
  int at = from;
  for (const Dimension& dimension : dimensions_) {
    const int size = dimension.size;
    const int target = to / dimension.stride % size;
    int here = at / dimension.stride % size;
    const auto link = [&](int rank, int i) {
      return dimension.first_link + rank * dimension.links_per_rank + i;
    };
    const auto move_to = [&](int coordinate) {
      at += (coordinate - here) * dimension.stride;
      here = coordinate;
    };
    if (here == target) continue;
    switch (dimension.kind) {
      case DimensionConfig::SWITCH:
        route.push_back(link(at, 0));
        move_to(target);
        route.push_back(link(at, 1));
        break;
      case DimensionConfig::FULLY_CONNECTED:
        route.push_back(link(at, target));
        move_to(target);
        break;
      default: {
        const int ahead = (target - here + size) % size;
        const bool up = dimension.kind == DimensionConfig::MESH
                            ? target > here
                            : ahead <= size - ahead;
        while (here != target) {
          route.push_back(link(at, up ? 0 : 1));
          move_to((here + (up ? 1 : size - 1)) % size);
        }
      }
    }
  }
}

Picoseconds Topology::RouteLatency(const Route& route) const {
  Picoseconds latency = 0;
  for (const LinkId id : route) latency = AddTime(latency, links_[id].latency);
  return latency;
}

std::string Topology::LinkName(LinkId id) const {
  CHECK(id >= 0 && id < num_links()) << id << " of " << num_links();
  if (!dimensions_.empty()) {
    int d = dimensions_.size() - 1;
    while (dimensions_[d].first_link > id) --d;
    const int offset = id - dimensions_[d].first_link;
    return absl::StrCat("dimension ", d, ", rank ",
                        offset / dimensions_[d].links_per_rank, ", link ",
                        offset % dimensions_[d].links_per_rank);
  }
  if (id >= first_leaf_) {
    return absl::StrCat("leaf ", (id - first_leaf_) / 2,
                        (id - first_leaf_) % 2 == 0 ? ", up" : ", down");
  }
  if (id >= first_nic_[0]) {
    const int node =
        std::upper_bound(first_nic_.begin(), first_nic_.end(), id) -
        first_nic_.begin() - 1;
    const int offset = id - first_nic_[node];
    return absl::StrCat("NIC ", offset / 2, " of node ", node,
                        offset % 2 == 0 ? ", out" : ", in");
  }
  return absl::StrCat("NVLink of rank ", id / 2,
                      id % 2 == 0 ? ", out" : ", in");
}

}  // namespace strata::sim
