#include "cuda/runtime/together.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata::gpu {
namespace {

bool RunsTogether(const Node& node) {
  return node.op->name == absl::string_view("AdamW") ||
         node.op->name == absl::string_view("AdamWHalves");
}

bool InOneCall(const Node& a, const Node& b) {
  if (a.op != b.op) return false;
  for (const char* name :
       {"beta1", "beta2", "eps", "weight_decay", "max_norm"}) {
    if (a.attrs.Float(name) != b.attrs.Float(name)) return false;
  }
  return true;
}

// What the nodes of a run have to do with.
class Touched {
 public:
  bool MayJoin(const Node& node) const {
    return absl::c_none_of(
               node.inputs,
               [&](ValueId id) { return updated_.count(id) > 0; }) &&
           absl::c_none_of(node.mutates, [&](int i) {
             return touched_.count(node.inputs[i]) > 0;
           });
  }

  void Join(const Node& node) {
    touched_.insert(node.inputs.begin(), node.inputs.end());
    for (const int i : node.mutates) updated_.insert(node.inputs[i]);
  }

 private:
  std::set<ValueId> touched_, updated_;
};

// The run that begins with `first`; one node, or none, if there is no more.
NodesTogether RunFrom(const Graph& graph, NodeId first) {
  NodesTogether run = {first, first, {}};
  Touched touched;
  const auto end = static_cast<NodeId>(graph.nodes().size());
  for (; run.end < end; ++run.end) {
    const Node& node = graph.node(run.end);
    if (!RunsTogether(node) || !touched.MayJoin(node)) break;
    touched.Join(node);
    const auto call = absl::c_find_if(run.calls, [&](const auto& nodes) {
      return InOneCall(graph.node(nodes[0]), node);
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
