#include "core/passes/plan_beside.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "core/graph/graph.h"

namespace strata {
namespace {

// Whether `a` changes what `b` reads or changes.
bool Changes(const Node& a, const Node& b) {
  const auto uses = [&](ValueId id) {
    return id != kNone && (absl::c_linear_search(b.inputs, id) ||
                           absl::c_linear_search(b.outputs, id));
  };
  return absl::c_any_of(a.outputs, uses) ||
         absl::c_any_of(a.mutates, [&](int i) { return uses(a.inputs[i]); });
}

bool IsOfGroup(const Node& node, const std::string& group) {
  return node.attrs.Has("group") && node.attrs.String("group") == group;
}

}  // namespace

BesidePlan PlanBeside(const Graph& graph,
                      const std::function<bool(const Node&)>& can,
                      bool waits_at_end) {
  BesidePlan plan;
  std::vector<NodeId>& begun = plan.until_end;
  for (const Node& node : graph.nodes()) {
    const auto id = static_cast<NodeId>(plan.steps.size());
    BesidePlan::Step& step = plan.steps.emplace_back();
    step.beside = node.attrs.Has("beside") && can(node);
    // What a lane began before what is waited for is done then too.
    std::set<std::string> groups;
    for (auto it = begun.rbegin(); it != begun.rend(); ++it) {
      const Node& other = graph.node(*it);
      const std::string& group = other.attrs.String("group");
      if (Changes(node, other) || Changes(other, node) ||
          (!step.beside && IsOfGroup(node, group))) {
        groups.insert(group);
      }
      if (groups.count(group) > 0) step.waits_for.push_back(*it);
    }
    absl::c_reverse(step.waits_for);
    for (const NodeId other : step.waits_for) {
      begun.erase(absl::c_find(begun, other));
    }
    // What the node before began gains nothing where only that is waited for.
    if (id > 0 && step.waits_for == std::vector<NodeId>{id - 1}) {
      plan.steps[id - 1].beside = false;
      step.waits_for.clear();
    }
    if (step.beside) begun.push_back(id);
  }
  if (const auto last = static_cast<NodeId>(plan.steps.size()) - 1;
      waits_at_end && begun == std::vector<NodeId>{last}) {
    plan.steps[last].beside = false;
    begun.clear();
  }
  return plan;
}

}  // namespace strata
