#include "sim/replay/replay.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/check.h"
#include "sim/collective/algorithm.h"
#include "sim/collective/collective.h"
#include "sim/engine/event_queue.h"
#include "sim/replay/shared_links.h"

namespace strata::sim {
namespace {

using ::strata::chakra::TraceNode;

// Of a barrier: a flag.
constexpr double kBarrierBytes = 4;
// Gathers and scatters are sized pair by pair.
constexpr size_t kMaxGatherRanks = 4096;

// What a communication takes alone, and where.
struct CommCost {
  Picoseconds latency = 0;
  Picoseconds work = 0;
  const std::vector<LinkShare>* links = nullptr;
};

// Asks sim/collective, once for everything that is alike.
class CommCosts {
 public:
  CommCosts(const Cluster& cluster, const ReplayOptions& options)
      : model_(cluster),
        cluster_(cluster),
        memory_share_(options.memory_share) {}

  const Topology& topology() const { return model_.topology(); }

  absl::StatusOr<CommCost> OfJoint(const Joint& joint,
                                   const std::vector<int>& ranks) {
    const auto key = std::make_tuple(joint.channel, joint.type, joint.bytes);
    if (const auto found = joints_.find(key); found != joints_.end()) {
      return found->second;
    }
    CollectiveRequest request;
    request.ranks = ranks;
    request.bytes = static_cast<double>(joint.bytes);
    std::vector<double> matrix;
    switch (joint.type) {
      case ChakraProtoMsg::ALL_REDUCE:
        request.kind = CollectiveKind::kAllReduce;
        break;
      case ChakraProtoMsg::BARRIER:
        request.kind = CollectiveKind::kAllReduce;
        request.bytes = kBarrierBytes;
        break;
      case ChakraProtoMsg::ALL_GATHER:
        // The trace has a rank's shard.
        request.kind = CollectiveKind::kAllGather;
        request.bytes *= static_cast<double>(ranks.size());
        break;
      case ChakraProtoMsg::REDUCE_SCATTER:
      case ChakraProtoMsg::REDUCE_SCATTER_BLOCK:
        request.kind = CollectiveKind::kReduceScatter;
        break;
      case ChakraProtoMsg::ALL_TO_ALL:
        request.kind = CollectiveKind::kAllToAll;
        break;
      case ChakraProtoMsg::BROADCAST:
      case ChakraProtoMsg::REDUCE:  // The same the other way.
        request.kind = CollectiveKind::kBroadcast;
        break;
      case ChakraProtoMsg::GATHER:
      case ChakraProtoMsg::SCATTER: {
        const size_t n = ranks.size();
        if (n > kMaxGatherRanks) {
          return absl::InvalidArgumentError(absl::StrCat(
              "is over ", n, " ranks; want ", kMaxGatherRanks, " at most"));
        }
        request.kind = CollectiveKind::kAllToAllV;
        matrix.resize(n * n);
        for (size_t i = 1; i < n; ++i) {
          matrix[joint.type == ChakraProtoMsg::GATHER ? i * n : i] =
              request.bytes / static_cast<double>(n);
        }
        request.bytes_matrix = matrix;
        break;
      }
      default:
        return absl::InvalidArgumentError(
            "is of a type that this version does not know");
    }
    ASSIGN_OR_RETURN(
        const CommCost cost,
        Ask(request, {joint.channel, -1, static_cast<int>(joint.type)}));
    return joints_[key] = cost;
  }

  absl::StatusOr<CommCost> OfMessage(int from, int to, uint64_t bytes) {
    const auto key = std::make_tuple(from, to, bytes);
    if (const auto found = messages_.find(key); found != messages_.end()) {
      return found->second;
    }
    if (from == to) return messages_[key] = OfCopy(from, bytes);
    const std::array<int, 2> ranks = {from, to};
    CollectiveRequest request;
    request.kind = CollectiveKind::kSendRecv;
    request.ranks = ranks;
    request.bytes = static_cast<double>(bytes);
    ASSIGN_OR_RETURN(const CommCost cost, Ask(request, {from, to, -1}));
    return messages_[key] = cost;
  }

 private:
  // A message of a rank to itself: read and written once. It is nobody else's
  // business, so all of it is latency.
  CommCost OfCopy(int rank, uint64_t bytes) const {
    static const auto* const kNoLinks = new std::vector<LinkShare>();
    CommCost cost;
    cost.latency = FromSeconds(
        2 * static_cast<double>(bytes) /
        (cluster_.Gpu(rank).memory_gb_per_s() * 1e9 * memory_share_));
    cost.links = kNoLinks;
    return cost;
  }

  // Channel and type of a joint, or ranks of a message.
  using Ends = std::tuple<int, int, int>;

  absl::StatusOr<CommCost> Ask(CollectiveRequest& request, const Ends& ends) {
    ASSIGN_OR_RETURN(const CollectiveCost cost, model_.Cost(request));
    CommCost result;
    result.latency = cost.latency_time;
    result.work = cost.bandwidth_time;
    request.algorithm = cost.algorithm;
    std::unique_ptr<std::vector<LinkShare>>& links =
        links_[{ends, cost.algorithm}];
    if (links == nullptr) {
      links = std::make_unique<std::vector<LinkShare>>();
      if (cost.bandwidth_time > 0) {
        ASSIGN_OR_RETURN(*links, model_.LinkShares(request));
      }
    }
    result.links = links.get();
    return result;
  }

  CollectiveModel model_;
  const Cluster& cluster_;
  const double memory_share_;
  std::map<std::tuple<int, uint64_t, uint64_t>, CommCost> joints_;
  std::map<std::tuple<int, int, uint64_t>, CommCost> messages_;
  std::map<std::pair<Ends, CollectiveAlgorithm>,
           std::unique_ptr<std::vector<LinkShare>>>
      links_;
};

// What runs one at a time: a rank's lanes.
struct Lane {
  std::priority_queue<NodeIndex, std::vector<NodeIndex>,
                      std::greater<NodeIndex>>
      ready;  // The least id first.
  bool busy = false;
  NodeIndex before = -1;  // The node that had the lane last.
};

// What runs one at a time in a group.
struct Channel {
  std::queue<int32_t> ready;  // Joints that all ranks have joined.
  bool busy = false;
  NodeIndex before = -1;
};

constexpr int kLanes = 3;  // Computations, host operations, loads and stores.

class Replayer : public EventHandler {
 public:
  Replayer(const Cluster& cluster, const ReplayOptions& options,
           ReplayResult& result)
      : cluster_(cluster),
        options_(options),
        result_(result),
        plan_(result.plan),
        costs_(cluster, options),
        links_(costs_.topology().num_links(), queue_) {}

  absl::Status Run() {
    const int num_ranks = static_cast<int>(plan_.workload->ranks.size());
    result_.times.resize(plan_.role.size());
    waits_.resize(plan_.role.size());
    arrived_.assign(plan_.role.size(), false);
    lanes_.resize(static_cast<size_t>(num_ranks) * kLanes);
    dispatch_is_scheduled_.resize(num_ranks);
    channels_.resize(plan_.channel_ranks.size());
    for (const Joint& joint : plan_.joints) {
      missing_.push_back(static_cast<int64_t>(joint.nodes.size()));
    }
    RETURN_IF_ERROR(FindCosts());
    for (int rank = 0; rank < num_ranks; ++rank) {
      const std::vector<TraceNode>& nodes = plan_.workload->ranks[rank].nodes;
      for (size_t i = 0; i < nodes.size(); ++i) {
        waits_[plan_.first_node[rank] + i] =
            static_cast<uint32_t>(nodes[i].parents.size());
      }
      for (size_t i = 0; i < nodes.size(); ++i) {
        if (nodes[i].parents.empty()) {
          Join(0, plan_.first_node[rank] + static_cast<NodeIndex>(i), -1);
        }
      }
    }
    queue_.Run();
    // The queue's last event may be a stale one.
    for (const NodeTime& time : result_.times) {
      result_.total = std::max(result_.total, time.end);
    }
    result_.num_events = queue_.num_run();
    if (result_.total >= kForever) {
      return absl::OutOfRangeError("the traces take more than 106 days");
    }
    AddNotes();
    return absl::OkStatus();
  }

  void OnEvent(Picoseconds now, uint64_t tag) override {
    const uint64_t index = tag >> 2;
    switch (tag & 3) {
      case kDispatch:
        Dispatch(now, static_cast<int>(index));
        return;
      case kNodeEnd:
        EndNode(now, static_cast<NodeIndex>(index));
        return;
      case kJointEnd:
        EndJoint(now, static_cast<int32_t>(index));
        return;
      default:
        EndMessage(now, static_cast<NodeIndex>(index));
        return;
    }
  }

 private:
  static constexpr uint64_t kDispatch = 0;
  static constexpr uint64_t kNodeEnd = 1;
  static constexpr uint64_t kJointEnd = 2;
  static constexpr uint64_t kMessageEnd = 3;
  static uint64_t TagOf(uint64_t what, int64_t index) {
    return what | static_cast<uint64_t>(index) << 2;
  }

  // Of all communications, so that nothing fails under way.
  absl::Status FindCosts() {
    for (const Joint& joint : plan_.joints) {
      absl::StatusOr<CommCost> cost =
          costs_.OfJoint(joint, plan_.channel_ranks[joint.channel]);
      RETURN_IF_ERROR(WithPlace(cost.status(), joint.nodes[0]));
      joint_cost_.push_back(*cost);
    }
    message_cost_.resize(plan_.role.size());
    for (size_t i = 0; i < plan_.role.size(); ++i) {
      if (plan_.role[i] != NodeRole::kSend) continue;
      const NodeIndex node = static_cast<NodeIndex>(i);
      absl::StatusOr<CommCost> cost =
          costs_.OfMessage(plan_.RankOf(node), plan_.RankOf(plan_.peer[node]),
                           *plan_.Node(node).comm_bytes);
      RETURN_IF_ERROR(WithPlace(cost.status(), node));
      message_cost_[i] = *cost;
    }
    return absl::OkStatus();
  }

  absl::Status WithPlace(const absl::Status& status, NodeIndex node) const {
    if (status.ok()) return status;
    return absl::InvalidArgumentError(
        absl::StrCat(plan_.Place(node), " ", status.message()));
  }

  Lane& LaneOf(NodeIndex node, int rank) {
    const NodeRole role = plan_.role[node];
    const int lane = role == NodeRole::kCompute ? 0
                     : role == NodeRole::kHost  ? 1
                                                : 2;
    return lanes_[static_cast<size_t>(rank) * kLanes + lane];
  }

  // The node's parents are done, the last of them `cause`.
  void Join(Picoseconds now, NodeIndex node, NodeIndex cause) {
    NodeTime& time = result_.times[node];
    time.joined = time.met = time.start = now;
    time.cause = cause;
    switch (plan_.role[node]) {
      case NodeRole::kNothing:
        queue_.Schedule(now, this, TagOf(kNodeEnd, node));
        return;
      case NodeRole::kHost:
      case NodeRole::kCompute:
      case NodeRole::kMemory: {
        const int rank = plan_.RankOf(node);
        LaneOf(node, rank).ready.push(node);
        ScheduleDispatch(now, rank);
        return;
      }
      case NodeRole::kCollective: {
        const int32_t joint = plan_.joint_of[node];
        if (--missing_[joint] > 0) return;
        for (const NodeIndex member : plan_.joints[joint].nodes) {
          NodeTime& other = result_.times[member];
          other.met = now;
          if (member != node) other.cause = node;
        }
        channels_[plan_.joints[joint].channel].ready.push(joint);
        StartJoint(now, plan_.joints[joint].channel);
        return;
      }
      case NodeRole::kSend: {
        const CommCost& cost = message_cost_[node];
        links_.Start(cost.latency, cost.work, *cost.links, this,
                     TagOf(kMessageEnd, node));
        return;
      }
      case NodeRole::kReceive:
        if (arrived_[node]) {
          queue_.Schedule(now, this, TagOf(kNodeEnd, node));
        }
        return;
    }
  }

  // Once for all that becomes ready at one time, so that the least id goes
  // first.
  void ScheduleDispatch(Picoseconds now, int rank) {
    if (dispatch_is_scheduled_[rank]) return;
    dispatch_is_scheduled_[rank] = true;
    queue_.Schedule(now, this, TagOf(kDispatch, rank));
  }

  void Dispatch(Picoseconds now, int rank) {
    dispatch_is_scheduled_[rank] = false;
    for (int i = 0; i < kLanes; ++i) {
      Lane& lane = lanes_[static_cast<size_t>(rank) * kLanes + i];
      if (lane.busy || lane.ready.empty()) continue;
      const NodeIndex node = lane.ready.top();
      lane.ready.pop();
      lane.busy = true;
      NodeTime& time = result_.times[node];
      time.start = now;
      if (now > time.joined) time.cause = lane.before;
      lane.before = node;
      queue_.Schedule(AddTime(now, DurationOf(node, rank)), this,
                      TagOf(kNodeEnd, node));
    }
  }

  Picoseconds DurationOf(NodeIndex node, int rank) {
    const TraceNode& trace =
        plan_.workload->ranks[rank].nodes[node - plan_.first_node[rank]];
    const GpuConfig& gpu = cluster_.Gpu(rank);
    const double slowdown = cluster_.Slowdown(rank);
    double seconds = static_cast<double>(trace.duration_us) * 1e-6;
    const double bytes = static_cast<double>(trace.tensor_bytes.value_or(0)) /
                         (gpu.memory_gb_per_s() * 1e9 * options_.memory_share);
    if (plan_.role[node] == NodeRole::kMemory) {
      if (trace.duration_us == 0) seconds = bytes;
    } else if (plan_.role[node] == NodeRole::kCompute) {
      const double flops = static_cast<double>(trace.num_ops.value_or(0));
      if (trace.num_ops.has_value() &&
          (options_.roofline || trace.duration_us == 0)) {
        seconds = std::max(
            flops / (gpu.bf16_tflops() * 1e12 * options_.flops_share), bytes);
        ++num_roofline_;
      } else if (trace.duration_us == 0) {
        ++num_without_time_;
      }
    }
    return FromSeconds(seconds * slowdown);
  }

  void StartJoint(Picoseconds now, int channel_index) {
    Channel& channel = channels_[channel_index];
    if (channel.busy || channel.ready.empty()) return;
    const int32_t joint = channel.ready.front();
    channel.ready.pop();
    channel.busy = true;
    for (const NodeIndex node : plan_.joints[joint].nodes) {
      NodeTime& time = result_.times[node];
      time.start = now;
      if (now > time.met) time.cause = channel.before;
    }
    channel.before = plan_.joints[joint].nodes[0];
    const CommCost& cost = joint_cost_[joint];
    links_.Start(cost.latency, cost.work, *cost.links, this,
                 TagOf(kJointEnd, joint));
  }

  void EndJoint(Picoseconds now, int32_t joint) {
    const int channel = plan_.joints[joint].channel;
    channels_[channel].busy = false;
    for (const NodeIndex node : plan_.joints[joint].nodes) Finish(now, node);
    StartJoint(now, channel);
  }

  void EndMessage(Picoseconds now, NodeIndex send) {
    const NodeIndex receive = plan_.peer[send];
    arrived_[receive] = true;
    Finish(now, send);
    if (waits_[receive] != 0) return;  // It is buffered.
    NodeTime& time = result_.times[receive];
    time.met = std::max(time.joined, result_.times[send].start);
    time.start = time.met;
    if (now > time.joined) time.cause = send;
    Finish(now, receive);
  }

  void EndNode(Picoseconds now, NodeIndex node) {
    const NodeRole role = plan_.role[node];
    if (role == NodeRole::kHost || role == NodeRole::kCompute ||
        role == NodeRole::kMemory) {
      const int rank = plan_.RankOf(node);
      LaneOf(node, rank).busy = false;
      ScheduleDispatch(now, rank);
    }
    Finish(now, node);
  }

  void Finish(Picoseconds now, NodeIndex node) {
    result_.times[node].end = now;
    const int rank = plan_.RankOf(node);
    const NodeIndex first = plan_.first_node[rank];
    const chakra::ChildLists& children = plan_.children[rank];
    for (uint32_t c = children.first[node - first];
         c < children.first[node - first + 1]; ++c) {
      const NodeIndex child = first + children.child[c];
      if (--waits_[child] == 0) Join(now, child, node);
    }
  }

  void AddNotes() {
    if (num_roofline_ > 0) {
      result_.notes.push_back(
          absl::StrCat(num_roofline_,
                       " computations take the roofline's time: their FLOPs "
                       "at ",
                       options_.flops_share * 100,
                       " % of the BF16 rate, their bytes "
                       "at ",
                       options_.memory_share * 100, " % of the memory's"));
    }
    if (num_without_time_ > 0) {
      result_.notes.push_back(absl::StrCat(
          num_without_time_,
          " computations have neither duration nor num_ops; they take no "
          "time"));
    }
    const int num_ranks = static_cast<int>(plan_.workload->ranks.size());
    if (num_ranks < cluster_.num_ranks()) {
      result_.notes.push_back(
          absl::StrCat("the traces have ", num_ranks,
                       num_ranks == 1 ? " rank; " : " ranks; ",
                       cluster_.num_ranks() - num_ranks, " of the ",
                       cluster_.num_ranks(), " GPUs have nothing to do"));
    }
  }

  const Cluster& cluster_;
  const ReplayOptions& options_;
  ReplayResult& result_;
  const TracePlan& plan_;
  CommCosts costs_;
  EventQueue queue_;
  SharedLinks links_;
  std::vector<CommCost> joint_cost_;    // [joints]
  std::vector<CommCost> message_cost_;  // [nodes], of sends
  std::vector<uint32_t> waits_;         // [nodes], parents not done
  std::vector<bool> arrived_;           // [nodes], of receives
  std::vector<int64_t> missing_;        // [joints], ranks that have not joined
  std::vector<Lane> lanes_;             // [ranks * kLanes]
  std::vector<Channel> channels_;
  std::vector<bool> dispatch_is_scheduled_;  // [ranks]
  int64_t num_roofline_ = 0;
  int64_t num_without_time_ = 0;
};

}  // namespace

absl::StatusOr<ReplayResult> ReplayTraces(const chakra::Workload& workload,
                                          const Cluster& cluster,
                                          const ReplayOptions& options) {
  const int num_ranks = static_cast<int>(workload.ranks.size());
  if (num_ranks > cluster.num_ranks()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the traces have ", num_ranks, " ranks, cluster ", cluster.name(),
        " has ", cluster.num_ranks(), " GPUs; want at least as many"));
  }
  RETURN_IF_ERROR(chakra::CheckWorkload(workload, chakra::TraceRules::kReplay));
  ReplayResult result;
  ASSIGN_OR_RETURN(result.plan, PlanTraces(workload));
  RETURN_IF_ERROR(Replayer(cluster, options, result).Run());
  return result;
}

}  // namespace strata::sim
