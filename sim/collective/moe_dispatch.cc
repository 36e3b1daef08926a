#include "sim/collective/moe_dispatch.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/collective/algorithm.h"
#include "sim/collective/collective.h"
#include "sim/collective/group.h"
#include "sim/collective/phase.h"
#include "sim/engine/time.h"
#include "sim/network/topology.h"

namespace strata::sim {
namespace {

constexpr double kGigabyte = 1e9;
constexpr int kElementsPerScale = 128;  // DeepSeek-V3's fp8 blocks.
constexpr double kBytesPerScale = 4;
constexpr int64_t kMaxTokens = int64_t{1} << 32;
constexpr int64_t kMaxHidden = int64_t{1} << 24;

// How a token's choices fall on the group.
struct Spread {
  std::vector<double> rank_share;  // [ranks] Of all choices.
  std::vector<double> to_rank;     // [ranks] That a token goes to it.
  std::vector<double> to_node;     // [nodes]
};

// The probability that at least one of `draws` out of `pool` alike, without
// replacement, falls on a share of it. Exact where all are alike.
double HitProbability(double share, double pool, int draws) {
  double miss = 1;
  for (int i = 0; i < draws; ++i) {
    if (pool - i <= 0) return 1;
    miss *= std::max(0.0, 1 - share * pool / (pool - i));
  }
  return 1 - miss;
}

Spread SpreadOf(const MoeDispatchRequest& request, const Group& group) {
  Spread spread;
  const int n = group.size();
  const int per_rank = request.num_experts / n;
  double total = 0;
  for (const double load : request.expert_load) total += load;
  spread.rank_share.assign(n, 1.0 / n);
  if (total > 0) {
    for (int r = 0; r < n; ++r) {
      double sum = 0;
      for (int e = 0; e < per_rank; ++e) {
        sum += request.expert_load[r * per_rank + e];
      }
      spread.rank_share[r] = sum / total;
    }
  }

  // Of m nodes a token first keeps `limit`, each with the probability that its
  // share gives it, and then chooses among their experts.
  const double m = group.num_nodes();
  const double limit =
      request.node_limit == 0 ? m : std::min<double>(request.node_limit, m);
  const double pool = request.num_experts * limit / m;
  spread.to_rank.resize(n);
  for (const GroupNode& node : group.nodes) {
    double share = 0;
    for (const int i : node.indices) share += spread.rank_share[i];
    const double keep = limit < m ? HitProbability(share, m, limit) : 1;
    // What the kept nodes have between them, if this is one of them.
    const double kept =
        limit < m ? share + (limit - 1) / (m - 1) * (1 - share) : 1;
    const auto hit = [&](double part) {
      return kept <= 0 ? 0
                       : keep * HitProbability(std::min(1.0, part / kept), pool,
                                               request.top_k);
    };
    spread.to_node.push_back(hit(share));
    for (const int i : node.indices) {
      spread.to_rank[i] = hit(spread.rank_share[i]);
    }
  }
  return spread;
}

double BytesOfToken(int64_t hidden, int bytes_per_element) {
  const double scales =
      bytes_per_element == 1
          ? kBytesPerScale * std::ceil(1.0 * hidden / kElementsPerScale)
          : 0;
  return static_cast<double>(hidden) * bytes_per_element + scales;
}

// By the sender's rail to each node, from there to the GPUs; `reverse` is
// combine, which goes the same way back.
void EmitNormal(const Group& group, const Spread& spread, double bytes,
                bool reverse, AddTransfer add) {
  const auto send = [&](int from, int to, double share) {
    if (from == to || share <= 0) return;
    reverse ? add(to, from, share * bytes) : add(from, to, share * bytes);
  };
  for (int q = 0; q < group.num_nodes(); ++q) {
    const GroupNode& to = group.nodes[q];
    const int k = to.ranks.size();
    std::vector<double> sources(k, 0);  // Ranks whose tokens each one forwards.
    for (int p = 0; p < group.num_nodes(); ++p) {
      const GroupNode& from = group.nodes[p];
      for (size_t i = 0; i < from.ranks.size(); ++i) {
        ++sources[i % k];
        if (p != q) send(from.ranks[i], to.ranks[i % k], spread.to_node[q]);
      }
    }
    for (int d = 0; d < k; ++d) {
      for (int e = 0; e < k; ++e) {
        send(to.ranks[d], to.ranks[e],
             sources[d] * spread.to_rank[to.indices[e]]);
      }
    }
  }
}

// Straight to each expert's rank, once for each expert.
void EmitLowLatency(const Group& group, const Spread& spread, int top_k,
                    double bytes, bool reverse, AddTransfer add) {
  for (int i = 0; i < group.size(); ++i) {
    for (int j = 0; j < group.size(); ++j) {
      const double share = top_k * spread.rank_share[j];
      if (i == j || share <= 0) continue;
      const int from = group.ranks[reverse ? j : i];
      const int to = group.ranks[reverse ? i : j];
      add(from, to, share * bytes);
    }
  }
}

// SMs that the low latency kernels run on: whole groups of warps for experts.
int LowLatencySms(int num_experts, int device_sms) {
  const int groups = (num_experts + device_sms - 1) / device_sms;
  return (num_experts + groups - 1) / groups;
}

class Dispatcher {
 public:
  Dispatcher(const CollectiveModel& model, const MoeDispatchRequest& request,
             const Group& group)
      : model_(model),
        request_(request),
        group_(group),
        spread_(SpreadOf(request, group)) {}

  MoeDispatchCost Cost() const {
    MoeDispatchCost cost;
    cost.dispatch = CostOf(/*combine=*/false);
    cost.combine = CostOf(/*combine=*/true);
    const double n = group_.size();
    for (const double share : spread_.to_rank) cost.gpus_per_token += share;
    // A source's own node does not count.
    for (int p = 0; p < group_.num_nodes(); ++p) {
      const double others = n - group_.nodes[p].ranks.size();
      cost.nodes_per_token += spread_.to_node[p] * others / n;
    }
    return cost;
  }

 private:
  const DeepEpConstants::Kernel& KernelOf(const DeepEpConstants& constants,
                                          bool combine) const {
    if (request_.kernel == MoeKernel::kNormal) {
      return combine ? constants.combine() : constants.dispatch();
    }
    return combine ? constants.low_latency_combine()
                   : constants.low_latency_dispatch();
  }

  // Seconds that the SMs of the busiest rank take.
  double SmTime(const NodeConfig& node, const DeepEpConstants::Kernel& kernel,
                double bytes_per_token) const {
    const double tokens = request_.tokens_per_rank;
    if (request_.kernel == MoeKernel::kLowLatency) {
      const int sms = LowLatencySms(request_.num_experts,
                                    std::max(1, node.gpu().num_sms()));
      return std::ceil(tokens / sms) * kernel.token_us() * 1e-6;
    }
    double sent = 0;
    double received = 0;
    for (const double share : spread_.to_rank) {
      sent += share;
      received = std::max(received, share * group_.size());
    }
    const int sms = request_.num_sms > 0 ? request_.num_sms
                                         : node.deep_ep().saturating_sms();
    return tokens * bytes_per_token *
           (std::max(sent, received) + kernel.read_share()) /
           (kernel.sm_gb_per_s() * kGigabyte * sms);
  }

  CollectiveCost CostOf(bool combine) const {
    const double bytes_per_token =
        BytesOfToken(request_.hidden, combine ? request_.combine_bytes
                                              : request_.dispatch_bytes);
    const double bytes = bytes_per_token * request_.tokens_per_rank;
    const Topology& topology = model_.topology();
    const PhaseLoad load =
        LoadOfTransfers(group_, topology, [&](AddTransfer add) {
          if (request_.kernel == MoeKernel::kNormal) {
            EmitNormal(group_, spread_, bytes, combine, add);
          } else {
            EmitLowLatency(group_, spread_, request_.top_k, bytes, combine,
                           add);
          }
        });
    CollectiveCost cost;
    cost.algorithm =
        group_.num_nodes() > 1 && request_.kernel == MoeKernel::kNormal
            ? CollectiveAlgorithm::kHierarchical
            : CollectiveAlgorithm::kDirect;
    if (request_.tokens_per_rank == 0) return cost;
    cost.intra_node_bytes_per_rank = load.nvlink_bytes;
    cost.inter_node_bytes_per_rank = load.nic_bytes;
    for (const GroupNode& member : group_.nodes) {
      const NodeConfig& node = topology.cluster().Node(member.node);
      const DeepEpConstants::Kernel& kernel = KernelOf(node.deep_ep(), combine);
      double latency_us =
          kernel.launch_us() +
          kernel.latency_ns_per_element() * 1e-3 * request_.hidden +
          kernel.launch_ns_per_expert() * 1e-3 * request_.num_experts;
      if (group_.num_nodes() > 1) latency_us += kernel.net_us();
      double slowdown = 1;
      for (const int rank : member.ranks) {
        slowdown = std::max(slowdown, topology.cluster().Slowdown(rank));
      }
      LinkId link = -1;
      const double links_time = BandwidthTime(
          load, {kernel.efficiency(), kernel.net_efficiency()}, link);
      const double sm_time = SmTime(node, kernel, bytes_per_token) * slowdown;
      const Picoseconds latency = FromMicroseconds(latency_us * slowdown);
      const Picoseconds bandwidth = FromSeconds(std::max(sm_time, links_time));
      const Picoseconds time = AddTime(latency, bandwidth);
      if (time <= cost.time) continue;
      cost.time = time;
      cost.latency_time = latency;
      cost.bandwidth_time = bandwidth;
      cost.bottleneck =
          sm_time > links_time || link < 0
              ? absl::StrFormat("the kernel's SMs on node %d", member.node)
              : topology.LinkName(link);
    }
    return cost;
  }

  const CollectiveModel& model_;
  const MoeDispatchRequest& request_;
  const Group& group_;
  Spread spread_;
};

absl::Status InRange(const char* name, int64_t value, int64_t least,
                     int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is %d; want %d to %d", name, value, least, most));
}

absl::Status Validate(const MoeDispatchRequest& request, const Group& group,
                      const Topology& topology) {
  RETURN_IF_ERROR(
      InRange("tokens_per_rank", request.tokens_per_rank, 0, kMaxTokens));
  RETURN_IF_ERROR(InRange("hidden", request.hidden, 1, kMaxHidden));
  RETURN_IF_ERROR(InRange("dispatch_bytes", request.dispatch_bytes, 1, 8));
  RETURN_IF_ERROR(InRange("combine_bytes", request.combine_bytes, 1, 8));
  if (request.num_experts < 1 || request.num_experts % group.size() != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d experts do not divide over %d ranks",
                        request.num_experts, group.size()));
  }
  RETURN_IF_ERROR(InRange("top_k", request.top_k, 1, request.num_experts));
  RETURN_IF_ERROR(
      InRange("node_limit", request.node_limit, 0, group.num_nodes()));
  RETURN_IF_ERROR(InRange("num_sms", request.num_sms, 0, 10000));
  if (!request.expert_load.empty()) {
    RETURN_IF_ERROR(InRange("the size of expert_load",
                            request.expert_load.size(), request.num_experts,
                            request.num_experts));
  }
  for (size_t e = 0; e < request.expert_load.size(); ++e) {
    const double load = request.expert_load[e];
    if (load >= 0 && std::isfinite(load)) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("expert_load[%d] is %g; want 0 or more", e, load));
  }
  if (!topology.has_nodes()) {
    return absl::InvalidArgumentError(
        "DeepEP needs nodes and a fabric; the cluster has dimensions");
  }
  for (const GroupNode& node : group.nodes) {
    if (topology.cluster().Node(node.node).has_deep_ep()) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "node %d is of kind \"%s\", which has no constants of DeepEP",
        node.node, topology.cluster().Node(node.node).name()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MoeDispatchCost> MoeDispatch(const CollectiveModel& model,
                                            const MoeDispatchRequest& request) {
  ASSIGN_OR_RETURN(const Group group,
                   ResolveGroup(model.cluster(), request.ranks, request.group));
  RETURN_IF_ERROR(Validate(request, group, model.topology()));
  return Dispatcher(model, request, group).Cost();
}

}  // namespace strata::sim
