#include "sim/collective/collective.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/collective/algorithm.h"
#include "sim/collective/cached_share.h"
#include "sim/collective/group.h"
#include "sim/collective/message_exchange.h"
#include "sim/collective/nccl_choice.h"
#include "sim/collective/phase.h"
#include "sim/engine/time.h"
#include "sim/network/topology.h"

namespace strata::sim {
namespace {

constexpr double kGigabyte = 1e9;
constexpr double kMicrosecond = 1e-6;
// No buffer is as large, and no time of it overflows.
constexpr double kMaxBytes = 1e18;

struct Timing {
  double latency = 0;    // Seconds.
  double bandwidth = 0;  // Seconds.
  double total() const { return latency + bandwidth; }
};

// A plan and what it puts on the links.
struct LoadedPlan {
  Plan plan;
  std::vector<PhaseLoad> loads;  // [phases]
};

// Keeps the better of two timings, with its bottleneck.
struct Best {
  Timing timing;
  LinkId bottleneck = -1;
  bool is_set = false;

  void Offer(const Timing& offered, LinkId link) {
    if (is_set && timing.total() <= offered.total()) return;
    timing = offered;
    bottleneck = link;
    is_set = true;
  }
};

// The bytes of all phases; the bottleneck is that of the longest.
double SumOfPhases(const LoadedPlan& loaded, const Efficiency& efficiency,
                   LinkId& bottleneck) {
  double sum = 0;
  double longest = -1;
  for (size_t i = 0; i < loaded.loads.size(); ++i) {
    LinkId link = -1;
    const double seconds = loaded.plan.phases[i].phase.times *
                           BandwidthTime(loaded.loads[i], efficiency, link);
    sum += seconds;
    if (seconds <= longest) continue;
    longest = seconds;
    bottleneck = link;
  }
  return sum;
}

// Whether NCCL takes the protocol: by its own cost model for a ring within a
// node that says how NCCL sees it, else the best one is taken.
bool IsTaken(NcclProtocol protocol, const Plan& plan, const NodeConfig& node,
             bool one_node) {
  if (!one_node || !node.has_tuner() ||
      plan.algorithm != CollectiveAlgorithm::kRing) {
    return true;
  }
  const Phase& ring = plan.phases[0].phase;
  return protocol == RingProtocol(node.tuner(), ring.steps, ring.bytes);
}

// Seconds in which a channel copies `bytes` that have come to their place.
double ChannelCopy(double bytes, const NcclConstants& nccl) {
  const double rate = nccl.channel_copy_gb_per_s() * kGigabyte;
  return rate > 0 ? bytes / rate : 0;
}

// Bytes of a GPU's memory: the caller's, its own part twice, and the slots of
// its channels.
double TouchedByRing(const Plan& plan, const NodeConfig& node,
                     const Group& group) {
  const double channels = std::max(1, node.tuner().channels());
  const double slice =
      std::min(plan.copy_bytes / channels / kSlicesPerChunk, kLargestSlice);
  return plan.copy_bytes * (group.size() + 1) +
         channels * kSlots / kSlotsOfSlice * slice;
}

// Of rings, trees, halving-doubling.
void TimeProtocols(const LoadedPlan& loaded, const NodeConfig& node,
                   const Group& group, Best& best) {
  const NcclConstants& nccl = node.nccl();
  const bool one_per_node = group.most_per_node() == 1;
  const bool one_node = group.num_nodes() == 1;
  const std::array<std::pair<NcclProtocol, const NcclConstants::Protocol*>, 3>
      protocols = {{{NcclProtocol::kLl, &nccl.ll()},
                    {NcclProtocol::kLl128, &nccl.ll128()},
                    {NcclProtocol::kSimple, &nccl.simple()}}};
  for (const auto& [name, protocol] : protocols) {
    if (!IsTaken(name, loaded.plan, node, one_node)) continue;
    Timing timing;
    timing.latency = nccl.launch_us() + protocol->base_us() +
                     protocol->threads_us() *
                         std::min(1.0, loaded.plan.copy_bytes / kFullBlock);
    for (const PlanPhase& planned : loaded.plan.phases) {
      const Phase& phase = planned.phase;
      // NCCL counts a ring's step as a tree's where each step is between nodes
      // (src/graph/tuning.cc).
      timing.latency +=
          phase.times *
          (phase.steps * protocol->step_us() +
           phase.net_steps * (one_per_node ? protocol->tree_step_us()
                                           : protocol->net_step_us()) +
           phase.tree_steps * protocol->tree_step_us());
    }
    timing.latency *= kMicrosecond;
    LinkId link = -1;
    timing.bandwidth = SumOfPhases(
        loaded, {protocol->efficiency(), protocol->net_efficiency()}, link);
    const double copy_rate =
        protocol->copy_gb_per_s() > 0
            ? protocol->copy_gb_per_s()
            : protocol->efficiency() * node.scale_up().gb_per_s();
    double copy_time = loaded.plan.copy_bytes / (copy_rate * kGigabyte);
    if (name == NcclProtocol::kSimple && one_node) {
      copy_time *= ReadingTime(node, TouchedByRing(loaded.plan, node, group));
    }
    timing.bandwidth += copy_time;
    if (name == NcclProtocol::kSimple && node.tuner().channels() > 0) {
      // The last slice of a channel's part.
      const double part = loaded.plan.copy_bytes / node.tuner().channels();
      timing.bandwidth +=
          ChannelCopy(std::min(part / kSlicesPerChunk, kLargestSlice), nccl);
    }
    best.Offer(timing, link);
  }
}

// Of messages within a node whose channels are known.
Timing ExchangeTiming(const Plan& plan, const NodeConfig& node,
                      const Group& group, const Topology& topology) {
  MessageExchange exchange;
  exchange.num_ranks = group.size();
  for (const int rank : group.ranks) {
    exchange.port_rate.push_back(
        topology.link(topology.NvlinkOut(rank)).bytes_per_second);
  }
  Timing timing;
  for (const PlanPhase& planned : plan.phases) {
    const Phase& phase = planned.phase;
    exchange.all_alike = phase.pattern != Pattern::kMatrix;
    const ExchangeSeconds seconds =
        SecondsOfExchange(node, exchange, plan.peers, [&](int from, int to) {
          return exchange.all_alike
                     ? phase.bytes
                     : phase.matrix[from * exchange.num_ranks + to];
        });
    timing.latency = std::max(timing.latency, seconds.latency);
    timing.bandwidth += phase.times * seconds.bytes;
  }
  return timing;
}

void TimePointToPoint(const LoadedPlan& loaded, const NodeConfig& node,
                      const Topology& topology, const Group& group,
                      Best& best) {
  const NcclConstants::PointToPoint& constants = node.nccl().point_to_point();
  const auto crosses_nics = [](const PhaseLoad& load) {
    return load.nic.seconds > 0;
  };
  LinkId link = -1;
  // Both directions carry data, and what acknowledges the other's.
  const double nvlink =
      constants.efficiency() / (1 + 2 * constants.packet_overhead());
  const double links_time =
      SumOfPhases(loaded, {nvlink, constants.net_efficiency()}, link);
  if (group.num_nodes() == 1 && node.tuner().channels() > 0) {
    best.Offer(ExchangeTiming(loaded.plan, node, group, topology), link);
    return;
  }
  Timing timing;
  timing.latency =
      constants.launch_us() + constants.per_peer_us() * loaded.plan.peers;
  if (std::any_of(loaded.loads.begin(), loaded.loads.end(), crosses_nics)) {
    timing.latency += constants.net_us();
  }
  timing.latency *= kMicrosecond;
  // Small messages go as flagged words, each channel at its own pace.
  const double message = loaded.plan.flow_bytes;
  timing.bandwidth =
      std::max(links_time, message / (constants.ll_gb_per_s() * kGigabyte));
  best.Offer(timing, link);
  // Large ones as chunks, of which the last is copied when all of it is there.
  timing.latency += constants.simple_us() * kMicrosecond;
  timing.bandwidth =
      links_time + ChannelCopy(std::min(message, kNetChunk), node.nccl());
  best.Offer(timing, link);
}

void TimeInSwitch(const LoadedPlan& loaded, const NodeConfig& node,
                  Best& best) {
  const NcclConstants& nccl = node.nccl();
  Timing timing;
  timing.latency = nccl.in_switch().launch_us();
  for (const PlanPhase& planned : loaded.plan.phases) {
    timing.latency += planned.phase.tree_steps * nccl.simple().tree_step_us();
  }
  timing.latency *= kMicrosecond;
  LinkId link = -1;
  timing.bandwidth = SumOfPhases(
      loaded, {nccl.in_switch().efficiency(), nccl.simple().net_efficiency()},
      link);
  best.Offer(timing, link);
}

// Over generic dimensions: alpha and beta of the links, nothing else.
void TimeDimensions(const LoadedPlan& loaded, Best& best) {
  Timing timing;
  for (size_t i = 0; i < loaded.loads.size(); ++i) {
    const Phase& phase = loaded.plan.phases[i].phase;
    timing.latency += phase.times *
                      (phase.steps + phase.net_steps + phase.tree_steps) *
                      ToSeconds(loaded.loads[i].route_latency);
  }
  LinkId link = -1;
  timing.bandwidth = SumOfPhases(loaded, {}, link);
  best.Offer(timing, link);
}

// By the constants of one kind of node.
Best TimeOf(const LoadedPlan& loaded, const NodeConfig& node,
            const Topology& topology, const Group& group) {
  Best best;
  if (!topology.has_nodes()) {
    TimeDimensions(loaded, best);
  } else if (loaded.plan.transport == Transport::kPointToPoint) {
    TimePointToPoint(loaded, node, topology, group, best);
  } else if (loaded.plan.transport == Transport::kInSwitch) {
    TimeInSwitch(loaded, node, best);
  } else {
    TimeProtocols(loaded, node, group, best);
  }
  return best;
}

// Whether the i-th rank of the group's p-th node has index p * k + i, as
// halving-doubling folds need.
bool IsNodeMajor(const Group& group) {
  const int k = group.most_per_node();
  for (int p = 0; p < group.num_nodes(); ++p) {
    const std::vector<int>& indices = group.nodes[p].indices;
    for (size_t i = 0; i < indices.size(); ++i) {
      if (indices[i] != p * k + static_cast<int>(i)) return false;
    }
  }
  return true;
}

LoadedPlan LoadOf(Plan plan, const Group& group, const Topology& topology,
                  bool fold) {
  LoadedPlan loaded;
  loaded.plan = std::move(plan);
  for (const PlanPhase& planned : loaded.plan.phases) {
    const Phase& phase = planned.phase;
    const Group& members =
        planned.group < 0 ? group : loaded.plan.groups[planned.group];
    const bool can_fold =
        fold && topology.has_nodes() && members.is_symmetric &&
        phase.pattern != Pattern::kMatrix &&
        (phase.pattern != Pattern::kExchange || IsNodeMajor(members));
    loaded.loads.push_back(can_fold ? FoldedLoad(phase, members, topology)
                                    : UnfoldedLoad(phase, members, topology));
  }
  return loaded;
}

absl::Status CheckBytes(double bytes) {
  // Written so that NaN fails.
  if (bytes >= 0 && bytes <= kMaxBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%g bytes; want 0 to %g", bytes, kMaxBytes));
}

absl::Status CheckMatrix(absl::Span<const double> matrix, int size) {
  if (matrix.size() != static_cast<size_t>(size) * size) {
    return absl::InvalidArgumentError(
        absl::StrFormat("bytes_matrix has %d numbers; want %d x %d",
                        matrix.size(), size, size));
  }
  for (size_t i = 0; i < matrix.size(); ++i) {
    const absl::Status status = CheckBytes(matrix[i]);
    if (status.ok()) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("bytes_matrix[%d][%d]: %s", i / size, i % size,
                        std::string(status.message())));
  }
  return absl::OkStatus();
}

// Of all-to-all-v, and of send/recv as its smallest case.
Plan MatrixPlan(absl::Span<const double> matrix, const Group& group) {
  Plan plan;
  plan.algorithm = CollectiveAlgorithm::kDirect;
  plan.transport = Transport::kPointToPoint;
  Phase phase;
  phase.pattern = Pattern::kMatrix;
  phase.matrix = matrix;
  phase.steps = 1;
  plan.phases.push_back({phase});
  const int n = group.size();
  for (int i = 0; i < n; ++i) {
    double peers = 0;
    for (int j = 0; j < n; ++j) {
      if (i == j || matrix[i * n + j] <= 0) continue;
      ++peers;
      plan.flow_bytes = std::max(plan.flow_bytes, matrix[i * n + j]);
    }
    plan.peers = std::max(plan.peers, peers);
  }
  return plan;
}

double SlowestOf(const Cluster& cluster, const Group& group) {
  double slowest = 1;
  for (const int rank : group.ranks) {
    slowest = std::max(slowest, cluster.Slowdown(rank));
  }
  return slowest;
}

CollectiveCost CostOf(const LoadedPlan& loaded, const Group& group,
                      const Topology& topology) {
  // Where nodes differ, all wait for those whose constants are the slowest.
  Best slowest;
  std::vector<int> seen;
  const Cluster& cluster = topology.cluster();
  for (const GroupNode& node : group.nodes) {
    const int kind = cluster.KindOf(node.node);
    if (std::find(seen.begin(), seen.end(), kind) != seen.end()) continue;
    seen.push_back(kind);
    const Best best = TimeOf(loaded, cluster.Node(node.node), topology, group);
    if (!slowest.is_set || best.timing.total() > slowest.timing.total()) {
      slowest = best;
    }
  }
  CollectiveCost cost;
  cost.algorithm = loaded.plan.algorithm;
  cost.latency_time =
      FromSeconds(slowest.timing.latency * SlowestOf(cluster, group));
  cost.bandwidth_time = FromSeconds(slowest.timing.bandwidth);
  cost.time = AddTime(cost.latency_time, cost.bandwidth_time);
  if (slowest.bottleneck >= 0) {
    cost.bottleneck = topology.LinkName(slowest.bottleneck);
  }
  for (size_t i = 0; i < loaded.loads.size(); ++i) {
    const int times = loaded.plan.phases[i].phase.times;
    cost.intra_node_bytes_per_rank += times * loaded.loads[i].nvlink_bytes;
    cost.inter_node_bytes_per_rank += times * loaded.loads[i].nic_bytes;
  }
  return cost;
}

bool IsPairwise(CollectiveKind kind) {
  return kind == CollectiveKind::kAllToAllV ||
         kind == CollectiveKind::kSendRecv;
}

absl::Status CheckRequest(const CollectiveRequest& request,
                          const Group& group) {
  if (request.kind == CollectiveKind::kAllToAllV) {
    RETURN_IF_ERROR(CheckMatrix(request.bytes_matrix, group.size()));
  } else {
    RETURN_IF_ERROR(CheckBytes(request.bytes));
  }
  if (request.kind == CollectiveKind::kSendRecv && group.size() != 2) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "send/recv in a group of %d ranks; want 2", group.size()));
  }
  if (IsPairwise(request.kind) &&
      request.algorithm != CollectiveAlgorithm::kAuto &&
      request.algorithm != CollectiveAlgorithm::kDirect) {
    return absl::InvalidArgumentError(
        absl::StrFormat("no %s algorithm for %s; want direct",
                        NameOf(request.algorithm), NameOf(request.kind)));
  }
  return absl::OkStatus();
}

// Seconds that each link is busy over all of a plan's phases.
std::vector<double> SecondsOnLinks(const Plan& plan, const Group& group,
                                   const Topology& topology) {
  std::vector<double> seconds(topology.num_links(), 0);
  Route route;
  const auto add = [&](LinkId link, double bytes) {
    seconds[link] += bytes / topology.link(link).bytes_per_second;
  };
  for (const PlanPhase& planned : plan.phases) {
    const Phase& phase = planned.phase;
    const Group& members =
        planned.group < 0 ? group : plan.groups[planned.group];
    ForEachTransfer(phase, members, topology.has_nodes(),
                    [&](int from, int to, double bytes) {
                      topology.FindRoute(from, to, route);
                      for (const LinkId link : route) {
                        add(link, bytes * phase.times);
                      }
                    });
    if (phase.pattern != Pattern::kInSwitch) continue;
    for (const int rank : members.ranks) {
      add(topology.NvlinkOut(rank), phase.bytes * phase.times);
      add(topology.NvlinkIn(rank), phase.bytes * phase.times);
    }
  }
  return seconds;
}

}  // namespace

CollectiveModel::CollectiveModel(const Cluster& cluster, Folding folding)
    : CollectiveModel(Topology(cluster), folding) {}

CollectiveModel::CollectiveModel(Topology topology, Folding folding)
    : topology_(std::move(topology)), fold_(folding == Folding::kFold) {}

absl::StatusOr<CollectiveCost> CollectiveModel::Cost(
    const CollectiveRequest& request) const {
  ASSIGN_OR_RETURN(
      const Group group,
      ResolveGroup(topology_.cluster(), request.ranks, request.group));
  RETURN_IF_ERROR(CheckRequest(request, group));
  CollectiveCost none;
  none.algorithm = request.algorithm;
  if (group.size() == 1) return none;

  if (IsPairwise(request.kind)) {
    const std::array<double, 4> message = {0, request.bytes, 0, 0};
    const absl::Span<const double> matrix =
        request.kind == CollectiveKind::kSendRecv ? absl::MakeConstSpan(message)
                                                  : request.bytes_matrix;
    Plan plan = MatrixPlan(matrix, group);
    if (plan.flow_bytes == 0) return none;
    return CostOf(LoadOf(std::move(plan), group, topology_, fold_), group,
                  topology_);
  }

  std::vector<CollectiveAlgorithm> algorithms = {request.algorithm};
  if (request.algorithm == CollectiveAlgorithm::kAuto) {
    algorithms =
        Candidates(request.kind, request.in_switch_type, group, topology_);
  }
  absl::StatusOr<CollectiveCost> best = none;
  for (const CollectiveAlgorithm algorithm : algorithms) {
    ASSIGN_OR_RETURN(Plan plan, MakePlan(request.kind, algorithm, request.bytes,
                                         group, topology_));
    if (request.bytes == 0) return none;
    const CollectiveCost cost = CostOf(
        LoadOf(std::move(plan), group, topology_, fold_), group, topology_);
    if (best->time == 0 || cost.time < best->time) best = cost;
  }
  return best;
}

absl::StatusOr<std::vector<LinkShare>> CollectiveModel::LinkShares(
    const CollectiveRequest& request) const {
  ASSIGN_OR_RETURN(
      const Group group,
      ResolveGroup(topology_.cluster(), request.ranks, request.group));
  RETURN_IF_ERROR(CheckRequest(request, group));
  if (request.algorithm == CollectiveAlgorithm::kAuto) {
    return absl::InvalidArgumentError(
        "links of the algorithm auto; want the one that Cost has chosen");
  }
  std::vector<LinkShare> shares;
  if (group.size() == 1) return shares;
  const std::array<double, 4> message = {0, request.bytes, 0, 0};
  absl::StatusOr<Plan> plan;
  if (request.kind == CollectiveKind::kSendRecv) {
    plan = MatrixPlan(message, group);
  } else if (request.kind == CollectiveKind::kAllToAllV) {
    plan = MatrixPlan(request.bytes_matrix, group);
  } else {
    plan = MakePlan(request.kind, request.algorithm, request.bytes, group,
                    topology_);
  }
  RETURN_IF_ERROR(plan.status());
  const std::vector<double> seconds = SecondsOnLinks(*plan, group, topology_);
  const double busiest = *std::max_element(seconds.begin(), seconds.end());
  for (size_t link = 0; link < seconds.size(); ++link) {
    if (seconds[link] <= 0) continue;
    shares.push_back({static_cast<LinkId>(link), seconds[link] / busiest});
  }
  return shares;
}

}  // namespace strata::sim
