#include "cuda/runtime/together.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/passes/bring_together.h"

namespace strata::gpu {
namespace {

struct Operator {
  absl::string_view name;
  std::vector<const char*> attributes;  // That are one for a call.
  int shared_input = -1;                // Likewise, if there is one.
};

const Operator* Find(const Graph& graph, const Node& node) {
  static const std::vector<const char*> step = {"beta1", "beta2", "eps",
                                                "weight_decay", "max_norm"};
  static const auto* const operators = new std::vector<Operator>{
      {"AdamW", step},
      {"AdamWHalves", step},
      {"ExpertContext", {"scale"}},
      {"ExpertContextGrad", {"scale"}},
      {"Accumulate", {}, /*shared_input=*/2},
      {"AccumulateCounts", {}, /*shared_input=*/2},
  };
  const auto it = absl::c_find_if(
      *operators, [&](const Operator& op) { return op.name == node.op->name; });
  if (it == operators->end()) return nullptr;
  // Large ones fill the GPU, and what they add should not live longer.
  if (it->name == "Accumulate" && !IsSmallSum(graph, node)) return nullptr;
  return &*it;
}

bool InOneCall(const Graph& graph, const Node& a, const Node& b) {
  if (a.op != b.op) return false;
  const Operator& op = *Find(graph, a);
  if (op.shared_input >= 0 &&
      a.inputs[op.shared_input] != b.inputs[op.shared_input]) {
    return false;
  }
  return absl::c_all_of(op.attributes, [&](const char* name) {
    return a.attrs.Float(name) == b.attrs.Float(name);
  });
}

// What the nodes of a run have to do with.
class Touched {
 public:
  bool MayJoin(const Node& node) const {
    return absl::c_none_of(
               node.inputs,
               [&](ValueId id) { return changed_.count(id) > 0; }) &&
           absl::c_none_of(node.mutates, [&](int i) {
             return touched_.count(node.inputs[i]) > 0;
           });
  }

  void Join(const Node& node) {
    touched_.insert(node.inputs.begin(), node.inputs.end());
    for (const int i : node.mutates) changed_.insert(node.inputs[i]);
    changed_.insert(node.outputs.begin(), node.outputs.end());
  }

 private:
  std::set<ValueId> touched_, changed_;  // Of inputs; what is made too.
};

// The run that begins with `first`; one node, or none, if there is no more.
NodesTogether RunFrom(const Graph& graph, NodeId first) {
  NodesTogether run = {first, first, {}};
  Touched touched;
  const auto end = static_cast<NodeId>(graph.nodes().size());
  for (; run.end < end; ++run.end) {
    const Node& node = graph.node(run.end);
    if (Find(graph, node) == nullptr || !touched.MayJoin(node)) break;
    touched.Join(node);
    const auto call = absl::c_find_if(run.calls, [&](const auto& nodes) {
      return InOneCall(graph, graph.node(nodes[0]), node);
    });
    if (call == run.calls.end()) {
      run.calls.push_back({run.end});
    } else {
      call->push_back(run.end);
    }
  }
  return run;
}

}  // namespace

std::vector<NodesTogether> FindTogether(const Graph& graph) {
  std::vector<NodesTogether> all;
  const auto end = static_cast<NodeId>(graph.nodes().size());
  for (NodeId first = 0; first < end;) {
    NodesTogether run = RunFrom(graph, first);
    first = std::max(run.end, first + 1);
    if (run.end - run.first > 1) all.push_back(std::move(run));
  }
  return all;
}

}  // namespace strata::gpu
