#include "core/passes/plan_memory.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "core/graph/graph.h"

namespace strata {
namespace {

constexpr int64_t kAlignment = 64;  // A cache line, and the widest vector.

struct Item {
  ValueId id = kNone;
  int64_t bytes = 0;
  int first = 0;  // Node with which what makes it begins.
  int last = 0;   // Last node that reads it.
  int64_t offset = -1;
};

int64_t AlignedBytes(const Value& value) {
  return (value.type.max_bytes() + kAlignment - 1) / kAlignment * kAlignment;
}

// A node with an attribute "in_place" may put its first output where the input
// of that number lies. It does if that is an activation that nobody reads any
// more, which is then one life with it. Returns that input; else kNone.
ValueId InPlace(const Node& node) {
  if (!node.attrs.Has("in_place")) return kNone;
  return node.inputs[node.attrs.Int("in_place")];
}

// The lives of values; one that takes over another's place has none of its own,
// and `holder` [values] says whose it prolongs.
std::vector<Item> Lifetimes(const Graph& graph, bool in_place,
                            const BesidePlan& beside,
                            const std::vector<bool>& elsewhere,
                            std::vector<ValueId>& holder) {
  const auto is_elsewhere = [&](ValueId id) {
    return !elsewhere.empty() && elsewhere[id];
  };
  const int end = static_cast<int>(graph.nodes().size());
  std::vector<int> last(graph.values().size(), -1);
  for (int n = 0; n < end; ++n) {
    for (const ValueId id : graph.node(n).inputs) {
      if (id != kNone) last[id] = n;
    }
    for (const ValueId id : graph.node(n).outputs) last[id] = n;
  }
  const auto lives_until = [&](NodeId node, int until) {
    for (const ValueId id : graph.node(node).inputs) {
      if (id != kNone) last[id] = std::max(last[id], until);
    }
    for (const ValueId id : graph.node(node).outputs) {
      last[id] = std::max(last[id], until);
    }
  };
  for (size_t n = 0; n < beside.steps.size(); ++n) {
    for (const NodeId node : beside.steps[n].waits_for) {
      lives_until(node, static_cast<int>(n));
    }
  }
  for (const NodeId node : beside.until_end) lives_until(node, end);
  for (const NodeRun& run : beside.together) {
    for (NodeId node = run.first; node < run.end; ++node) {
      lives_until(node, run.end - 1);
    }
  }
  for (const auto& [name, id] : graph.outputs()) last[id] = end;
  for (const Value& value : graph.values()) {
    for (const Dim& dim : value.type.dims) {
      if (dim.ragged()) last[dim.count] = end;
    }
  }

  holder.resize(graph.values().size());
  for (size_t id = 0; id < holder.size(); ++id) {
    holder[id] = static_cast<ValueId>(id);
  }
  for (int n = 0; n < end && in_place; ++n) {
    const Node& node = graph.node(n);
    const ValueId from = InPlace(node);
    if (from == kNone || graph.value(from).role != Role::kActivation) continue;
    const ValueId to = node.outputs[0];
    if (is_elsewhere(from) || is_elsewhere(to)) continue;
    const ValueId held = holder[from];
    // `last` of the holder is that of its latest tenant.
    if (last[held] != n || graph.value(to).type.max_bytes() !=
                               graph.value(held).type.max_bytes()) {
      continue;
    }
    holder[to] = held;
    last[held] = last[to];
  }

  std::vector<int> begins(end);  // [nodes]
  for (int n = 0; n < end; ++n) begins[n] = n;
  for (const NodeRun& run : beside.together) {
    std::fill(begins.begin() + run.first, begins.begin() + run.end, run.first);
  }
  std::vector<Item> items;
  for (size_t id = 0; id < graph.values().size(); ++id) {
    const Value& value = graph.value(id);
    if (value.role != Role::kActivation || is_elsewhere(id)) continue;
    if (holder[id] != static_cast<ValueId>(id)) continue;
    items.push_back({static_cast<ValueId>(id), AlignedBytes(value),
                     begins[value.producer], last[id]});
  }
  return items;
}

int64_t LowerBound(const std::vector<Item>& items, int num_nodes) {
  std::vector<int64_t> change(num_nodes + 2, 0);
  for (const Item& item : items) {
    change[item.first] += item.bytes;
    change[item.last + 1] -= item.bytes;
  }
  int64_t live = 0;
  int64_t most = 0;
  for (const int64_t c : change) most = std::max(most, live += c);
  return most;
}

// The lowest offset at which `item` overlaps none of `placed` in time and room.
// `placed` is sorted by offset.
int64_t FirstFit(const Item& item, const std::vector<Item>& placed) {
  int64_t offset = 0;
  for (const Item& other : placed) {
    if (other.last < item.first || item.last < other.first) continue;
    if (other.offset >= offset + item.bytes) break;
    offset = std::max(offset, other.offset + other.bytes);
  }
  return offset;
}

}  // namespace

MemoryPlan PlanMemory(const Graph& graph, bool reuse, const BesidePlan& beside,
                      const std::vector<bool>& elsewhere) {
  std::vector<ValueId> holder;
  std::vector<Item> items = Lifetimes(graph, reuse, beside, elsewhere, holder);
  MemoryPlan plan;
  plan.offset.assign(graph.values().size(), -1);
  plan.lower_bound_bytes =
      LowerBound(items, static_cast<int>(graph.nodes().size()));
  for (size_t id = 0; id < graph.values().size(); ++id) {
    const Value& value = graph.value(id);
    if (value.role != Role::kActivation) continue;
    if (!elsewhere.empty() && elsewhere[id]) continue;
    ++plan.num_values;
    plan.unshared_bytes += AlignedBytes(value);
  }

  if (!reuse) {
    for (const Item& item : items) {
      plan.offset[item.id] = plan.arena_bytes;
      plan.arena_bytes += item.bytes;
    }
    return plan;
  }
  std::stable_sort(
      items.begin(), items.end(),
      [](const Item& a, const Item& b) { return a.bytes > b.bytes; });
  std::vector<Item> placed;
  placed.reserve(items.size());
  for (Item& item : items) {
    item.offset = FirstFit(item, placed);
    plan.offset[item.id] = item.offset;
    plan.arena_bytes = std::max(plan.arena_bytes, item.offset + item.bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), item,
                                   [](const Item& a, const Item& b) {
                                     return a.offset < b.offset;
                                   }),
                  item);
  }
  for (size_t id = 0; id < holder.size(); ++id) {
    plan.offset[id] = plan.offset[holder[id]];
  }
  return plan;
}

std::string MemoryPlan::ToString() const {
  const auto mb = [](int64_t bytes) { return bytes / 1e6; };
  return absl::StrFormat(
      "%d values: %.1f MB without reuse, %.1f MB with (%.3fx), lower bound "
      "%.1f MB",
      num_values, mb(unshared_bytes), mb(arena_bytes),
      unshared_bytes == 0 ? 1.0
                          : static_cast<double>(arena_bytes) / unshared_bytes,
      mb(lower_bound_bytes));
}

}  // namespace strata
