#include "training/paced/graph_walk.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/collective.h"
#include "core/ops/collective_rows.h"
#include "core/parallel/mesh.h"
#include "core/passes/plan_beside.h"
#include "training/paced/paced_rank.h"

namespace strata {
namespace {

int RanksOf(const Node& node, const MeshShape& shape) {
  if (!node.attrs.Has("group")) return 1;
  const std::string& group = node.attrs.String("group");
  return group == "dp"                          ? shape.dp
         : group == "ep"                        ? shape.ep
         : group == "pp"                        ? shape.pp
         : group == "batch"                     ? shape.dp * shape.ep
         : group == "ends" || group == "mirror" ? 2
                                                : shape.size();
}

// Bytes that leave a rank, as core/parallel/traffic_meter.h has them.
double BytesSent(const Node& node, const Cost& cost, int ranks) {
  const double others_share = (ranks - 1.0) / ranks;
  if (node.op == &kAllReduce) return 2 * others_share * cost.bytes_on_wire;
  // Of these, the bytes on the wire are those of other ranks already.
  if (MovesRows(node) || node.op == &kAllGather) {
    return cost.bytes_on_wire;
  }
  return others_share * cost.bytes_on_wire;
}

}  // namespace

GraphSeconds WalkGraph(const Graph& graph, const Pace& pace,
                       const MeshShape& shape, const Binding& binding,
                       bool waits_at_end) {
  const BesidePlan plan = PlanBeside(
      graph, [&](const Node& node) { return RanksOf(node, shape) > 1; },
      waits_at_end);
  GraphSeconds now;
  std::vector<double> done(graph.nodes().size(), 0);
  std::map<std::string, double> lane_free;
  const auto wait_for = [&](const std::vector<NodeId>& nodes) {
    for (const NodeId id : nodes) {
      if (done[id] <= now.all) continue;
      now.exposed += done[id] - now.all;
      now.all = done[id];
    }
  };
  for (size_t id = 0; id < graph.nodes().size(); ++id) {
    const Node& node = graph.node(id);
    wait_for(plan.steps[id].waits_for);
    const Cost cost = CostOf(graph, node, binding);
    const double here = PacedSeconds(pace, node, cost);
    const int ranks = RanksOf(node, shape);
    const double wire =
        ranks > 1 ? WireSeconds(pace, BytesSent(node, cost, ranks)) : 0;
    if (plan.steps[id].beside) {
      double& free = lane_free[node.attrs.String("group")];
      free = done[id] = std::max(now.all, free) + here + wire;
      now.lanes = std::max(now.lanes, free);
    } else {
      now.all += here + wire;
      now.exposed += wire;
    }
  }
  if (waits_at_end) wait_for(plan.until_end);
  return now;
}

}  // namespace strata
