// Which nodes of a program run beside others, and which wait for them.
//
//   node                 AllReduce(A)  x = ...  AllReduce(B)  y = f(A)  end
//   the program's thread begins A      x        begins B      waits, y  waits
//   the lane of a group        A------------------ B-------------------
//
// A node that exchanges data, and has an attribute "beside", may run beside
// those that follow it, up to the first that wants what it is about: that reads
// what it writes, or writes what it reads, or is a call of its group in its own
// place. The order of the calls of a group is that of the graph
// (core/runtime/lanes.h).

#ifndef CORE_PASSES_PLAN_BESIDE_H_
#define CORE_PASSES_PLAN_BESIDE_H_

#include <functional>
#include <vector>

#include "core/graph/graph.h"

namespace strata {

// Nodes [first, end) that begin at once (Backend::RunsTogether()).
struct NodeRun {
  NodeId first = 0, end = 0;
};

struct BesidePlan {
  struct Step {
    bool beside = false;  // Others run before it is done.
    // Nodes that were begun and must be done first, in order; each is waited
    // for once, at the end of the graph if nowhere before.
    std::vector<NodeId> waits_for;
  };
  std::vector<Step> steps;        // [nodes]
  std::vector<NodeId> until_end;  // That the end waits for, in order.
  // What a node of a run reads or writes is the run's.
  std::vector<NodeRun> together;
};

// `can`: whether the backend can, of nodes with attributes "beside" and
// "group". What the next node
// waits for, with nothing else of the group under way, runs in its place; the
// last node too, unless others run before the end waits (Program::RunAhead).
BesidePlan PlanBeside(const Graph& graph,
                      const std::function<bool(const Node&)>& can,
                      bool waits_at_end = true);

}  // namespace strata

#endif  // CORE_PASSES_PLAN_BESIDE_H_
