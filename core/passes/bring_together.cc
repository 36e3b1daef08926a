#include "core/passes/bring_together.h"

#include <algorithm>
#include <set>
#include <vector>

#include "core/graph/graph.h"
#include "core/ops/fused_gate.h"
#include "core/ops/optimizer.h"
#include "core/passes/nodes_before.h"

namespace strata {
namespace {

// Where a node goes, if nothing forbids it.
enum Place { kFirst, kInItsPlace, kGradients, kSums };

Place PlaceOf(const Graph& graph, const Node& node) {
  if (node.op == &kExpertContext) return kFirst;
  if (node.op == &kExpertContextGrad) return kGradients;
  if (IsSmallSum(graph, node)) return kSums;
  return kInItsPlace;
}

}  // namespace

bool IsSmallSum(const Graph& graph, const Node& node) {
  return node.op == &kAccumulate &&
         graph.value(node.inputs[0]).type.max_bytes() <= kSmallSumBytes;
}

Graph BringTogether(const Graph& graph) {
  const std::vector<std::set<NodeId>> before = NodesBefore(graph);
  const auto end = static_cast<NodeId>(before.size());
  std::vector<int> place(before.size());
  for (NodeId id = 0; id < end; ++id) {
    place[id] = PlaceOf(graph, graph.node(id));
    for (const NodeId other : before[id]) {
      if (place[id] == kFirst && place[other] != kFirst) {
        place[id] = kInItsPlace;
      }
    }
  }
  // What stays keeps what it waits for in its place.
  for (NodeId id = end - 1; id >= 0; --id) {
    if (place[id] > kInItsPlace) continue;
    for (const NodeId other : before[id]) {
      place[other] = std::min<int>(place[other], kInItsPlace);
    }
  }
  for (NodeId id = 0; id < end; ++id) {
    for (const NodeId other : before[id]) {
      place[id] = std::max(place[id], place[other]);
    }
  }
  std::vector<NodeId> order(before.size());
  for (NodeId id = 0; id < end; ++id) order[id] = id;
  std::stable_sort(order.begin(), order.end(),
                   [&](NodeId a, NodeId b) { return place[a] < place[b]; });
  return InOrder(graph, order);
}

}  // namespace strata
