// Lays the activations of a graph in one arena: values whose lifetimes do not
// overlap share memory (C4).

#ifndef CORE_PASSES_PLAN_MEMORY_H_
#define CORE_PASSES_PLAN_MEMORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/graph/graph.h"
#include "core/passes/plan_beside.h"

namespace strata {

struct MemoryPlan {
  std::vector<int64_t> offset;  // [values], bytes; -1 where not in the arena
  int64_t arena_bytes = 0;
  int num_values = 0;             // That lie in the arena.
  int64_t unshared_bytes = 0;     // One buffer a value.
  int64_t lower_bound_bytes = 0;  // The largest sum of live bytes at any node.

  // "412 values, 96.3 MB without reuse, 31.0 MB with (0.32x), ..."
  std::string ToString() const;
};

// Plans every activation of `graph` at its bounds, in node order. A value lives
// from the node that makes it to the last that reads it, or, where that runs
// beside others, to the one that waits for it; what nodes that begin at once
// make or read, from the first of these to the last; outputs of the graph, and
// counts (read when shapes are resolved), to the end. Places the largest first,
// each at the lowest offset that is free for all its life.
//
// `reuse` = false gives each value memory of its own: the baseline of C4.
// `elsewhere` [values], or empty: those that have a place already.
MemoryPlan PlanMemory(const Graph& graph, bool reuse = true,
                      const BesidePlan& beside = {},
                      const std::vector<bool>& elsewhere = {});

}  // namespace strata

#endif  // CORE_PASSES_PLAN_MEMORY_H_
