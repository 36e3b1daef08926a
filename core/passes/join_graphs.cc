#include "core/passes/join_graphs.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/ops/collective_rows.h"

namespace strata {
namespace {

bool IsShared(const Value& value) {
  return value.role == Role::kParameter || value.role == Role::kState;
}

// Parameters and states that the graph's nodes change.
std::set<std::string> Changed(const Graph& graph) {
  std::set<std::string> names;
  for (const Node& node : graph.nodes()) {
    for (const int i : node.mutates) {
      names.insert(graph.value(node.inputs[i]).name);
    }
  }
  return names;
}

// That what both use is the same, and is read alone.
absl::Status CheckShared(const Graph& first, const Graph& second) {
  std::set<std::string> changed = Changed(first);
  changed.merge(Changed(second));
  for (const Value& value : second.values()) {
    if (!IsShared(value)) continue;
    const ValueId id = first.FindSource(value.name);
    if (id == kNone) continue;
    const std::string types[] = {ToText(first, first.value(id).type),
                                 ToText(second, value.type)};
    if (types[0] != types[1]) {
      return absl::InvalidArgumentError(
          absl::StrCat("two graphs have ", value.name, " as ", types[0],
                       " and as ", types[1]));
    }
    if (changed.count(value.name) > 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "two graphs use ", value.name,
          ", which one of them changes: joined, they would not know in which "
          "order"));
    }
  }
  for (const Value& value : second.values()) {
    for (const Dim& dim : value.type.dims) {
      if (dim.ragged() && IsShared(second.value(dim.count))) {
        return absl::InvalidArgumentError(absl::StrCat(
            second.value(dim.count).name, " is a state and sizes a value"));
      }
    }
  }
  return absl::OkStatus();
}

// Copies `part`'s values into `joined`, those that are there by name excepted.
// Returns the id of each there.
absl::StatusOr<std::vector<ValueId>> AddValues(const JoinPart& part,
                                               Graph& joined) {
  std::vector<Value> values = part.graph.values();
  std::vector<bool> is_new;
  for (Value& value : values) {
    if (value.role == Role::kInput) {
      value.name = absl::StrCat(part.prefix, value.name);
    }
    const ValueId there =
        value.role == Role::kActivation ? kNone : joined.FindSource(value.name);
    if (there != kNone && (value.role == Role::kInput ||
                           value.role != joined.value(there).role)) {
      return absl::InvalidArgumentError(
          absl::StrCat("two graphs have, as ", Name(joined.value(there).role),
                       " and as ", Name(value.role), ", a ", value.name));
    }
    is_new.push_back(there == kNone);
  }
  std::vector<ValueId> here = CopyValues(values, is_new, joined);
  for (size_t id = 0; id < values.size(); ++id) {
    if (!is_new[id]) here[id] = joined.FindSource(values[id].name);
  }
  return here;
}

// Whether a call of a group of ranks is the node or waits for it, [nodes].
std::vector<bool> IsBeforeCalls(const Graph& graph) {
  std::vector<bool> is_before(graph.nodes().size(), false);
  // Of the nodes found so far, which stand behind the one that is looked at.
  std::set<ValueId> used, changed;
  for (auto id = static_cast<NodeId>(is_before.size()) - 1; id >= 0; --id) {
    const Node& node = graph.node(id);
    const auto is_in = [](const std::set<ValueId>& values) {
      return [&values](ValueId value) { return values.count(value) > 0; };
    };
    is_before[id] =
        node.attrs.Has("group") ||
        std::any_of(node.outputs.begin(), node.outputs.end(), is_in(used)) ||
        std::any_of(node.inputs.begin(), node.inputs.end(), is_in(changed)) ||
        std::any_of(node.mutates.begin(), node.mutates.end(),
                    [&](int i) { return used.count(node.inputs[i]) > 0; });
    if (!is_before[id]) continue;
    for (const ValueId value : node.inputs) used.insert(value);
    for (const int i : node.mutates) changed.insert(node.inputs[i]);
    const auto use_counts = [&](ValueId value) {
      if (value == kNone) return;
      for (const Dim& dim : graph.value(value).type.dims) {
        if (dim.ragged()) used.insert(dim.count);
      }
    };
    for (const ValueId value : node.inputs) use_counts(value);
    for (const ValueId value : node.outputs) use_counts(value);
  }
  return is_before;
}

// A graph's nodes, in its order.
struct Pieces {
  std::vector<std::vector<NodeId>> turns;  // Each ends with an exchange.
  std::vector<NodeId> rest;
};

Pieces Cut(const Graph& graph) {
  const std::vector<bool> is_before = IsBeforeCalls(graph);
  Pieces pieces;
  std::vector<NodeId> turn;
  for (NodeId id = 0; id < static_cast<NodeId>(is_before.size()); ++id) {
    if (!is_before[id]) {
      pieces.rest.push_back(id);
      continue;
    }
    turn.push_back(id);
    if (MovesRows(graph.node(id))) {
      pieces.turns.push_back(std::exchange(turn, {}));
    }
  }
  if (!turn.empty()) pieces.turns.push_back(std::move(turn));
  return pieces;
}

// A part on its way into the joined graph.
class Source {
 public:
  Source(const JoinPart& part, std::vector<ValueId> here)
      : part_(part), here_(std::move(here)), pieces_(Cut(part.graph)) {}

  bool has_turn() const { return next_ < pieces_.turns.size(); }
  // Of its turns, the share that has been taken when the next one has.
  double share() const {
    return static_cast<double>(next_ + 1) /
           static_cast<double>(pieces_.turns.size());
  }
  void TakeTurn(Graph& joined) { Take(pieces_.turns[next_++], joined); }
  void TakeRest(Graph& joined) { Take(pieces_.rest, joined); }

  absl::Status AddOutputs(Graph& joined) const {
    for (const auto& [name, value] : part_.graph.outputs()) {
      const std::string output = absl::StrCat(part_.prefix, name);
      if (joined.outputs().contains(output)) {
        return absl::InvalidArgumentError(
            absl::StrCat("two graphs have an output of the name ", output));
      }
      joined.SetOutput(output, here_[value]);
    }
    return absl::OkStatus();
  }

 private:
  void Take(const std::vector<NodeId>& nodes, Graph& joined) {
    for (const NodeId id : nodes) {
      Node node = part_.graph.node(id);
      for (ValueId& value : node.inputs) {
        if (value != kNone) value = here_[value];
      }
      for (ValueId& value : node.outputs) value = here_[value];
      joined.AddNode(std::move(node));
    }
  }

  const JoinPart& part_;
  const std::vector<ValueId> here_;
  const Pieces pieces_;
  size_t next_ = 0;
};

}  // namespace

absl::StatusOr<Graph> JoinGraphs(const JoinPart& first,
                                 const JoinPart& second) {
  RETURN_IF_ERROR(CheckShared(first.graph, second.graph));
  Graph joined;
  ASSIGN_OR_RETURN(std::vector<ValueId> first_here, AddValues(first, joined));
  ASSIGN_OR_RETURN(std::vector<ValueId> second_here, AddValues(second, joined));
  Source a(first, std::move(first_here));
  Source b(second, std::move(second_here));
  while (a.has_turn() || b.has_turn()) {
    const bool is_first =
        a.has_turn() && (!b.has_turn() || a.share() <= b.share());
    (is_first ? a : b).TakeTurn(joined);
  }
  a.TakeRest(joined);
  b.TakeRest(joined);
  RETURN_IF_ERROR(a.AddOutputs(joined));
  RETURN_IF_ERROR(b.AddOutputs(joined));
  return joined;
}

}  // namespace strata
