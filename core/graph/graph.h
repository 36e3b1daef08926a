// The graph of operators: what a model computes, before anything is allocated.
//
//   Value   dtype [dims]  role     made by one node, or by none (inputs, state)
//   Node    operator, attributes, input values -> output values
//
// Nodes stand in an order in which they can run (each value is made before it
// is used), and values are never assigned twice. State (parameters, router
// bias, optimizer moments, KV caches) lives outside programs; a node that
// updates some in place lists that input in `mutates`, and stays in its place
// relative to every other node that touches the same value.

#ifndef CORE_GRAPH_GRAPH_H_
#define CORE_GRAPH_GRAPH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/attrs.h"
#include "core/tensor/dtype.h"

namespace strata {

using ValueId = int32_t;
using NodeId = int32_t;
inline constexpr int32_t kNone = -1;

// An extent: Static(n), or Ragged(bound, count), where `count` is a scalar I32
// value of the graph that says at run time how many of the `bound` there are
// (tokens of a batch, rows routed to experts, tokens that have not left).
struct Dim {
  int64_t bound = 0;
  ValueId count = kNone;

  bool ragged() const { return count != kNone; }
  friend bool operator==(const Dim& a, const Dim& b) {
    return a.bound == b.bound && a.count == b.count;
  }
  friend bool operator!=(const Dim& a, const Dim& b) { return !(a == b); }
};

inline Dim Static(int64_t n) { return {n, kNone}; }
inline Dim Ragged(int64_t bound, ValueId count) { return {bound, count}; }

using Dims = absl::InlinedVector<Dim, 4>;

struct ValueType {
  DType dtype = DType::kF32;
  Dims dims;  // Only the first may be ragged.

  int rank() const { return static_cast<int>(dims.size()); }
  // Elements and bytes when every ragged extent is at its bound.
  int64_t max_elements() const;
  int64_t max_bytes() const;
};

enum class Role : uint8_t {
  kInput,       // Given anew for each run.
  kParameter,   // Trained state.
  kState,       // Other state: bias, moments, caches.
  kActivation,  // Made by a node.
};

struct Value {
  std::string name;
  ValueType type;
  Role role = Role::kActivation;
  NodeId producer = kNone;
};

// Which subgraph of a training step a node belongs to. Weight gradients never
// feed input gradients, so pipeline schedules may run them later.
enum class Phase : uint8_t { kForward, kInputGrad, kWeightGrad, kUpdate };

absl::string_view Name(Phase phase);
absl::string_view Name(Role role);

struct OpDef;  // core/graph/op_def.h

struct Node {
  const OpDef* op = nullptr;
  Attrs attrs;
  absl::InlinedVector<ValueId, 6> inputs;  // kNone where optional and absent.
  absl::InlinedVector<ValueId, 4> outputs;
  absl::InlinedVector<int, 2> mutates;  // Indexes into `inputs`.
  Phase phase = Phase::kForward;
  std::string scope;  // "layers.3.moe.tier.1": where in the model it stands.
};

class Graph {
 public:
  const std::vector<Value>& values() const { return values_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const Value& value(ValueId id) const { return values_[id]; }
  const Node& node(NodeId id) const { return nodes_[id]; }
  // Values that a caller reads after a run, by name.
  const absl::flat_hash_map<std::string, ValueId>& outputs() const {
    return outputs_;
  }
  // The value of that name among inputs, parameters and state; else kNone.
  ValueId FindSource(absl::string_view name) const;

  ValueId AddValue(Value value);
  NodeId AddNode(Node node);
  void SetOutput(absl::string_view name, ValueId value);

 private:
  std::vector<Value> values_;
  std::vector<Node> nodes_;
  absl::flat_hash_map<std::string, ValueId> outputs_;
  absl::flat_hash_map<std::string, ValueId> sources_;
};

// Adds to `to` those of `values` that `is_there` [values] names, in order and
// without producers. Returns the id of each there; kNone where it is not. What
// sizes a value has to be there too, and may come behind it.
std::vector<ValueId> CopyValues(const std::vector<Value>& values,
                                const std::vector<bool>& is_there, Graph& to);

// Checks that each value is made once and before its use, that ragged counts
// are I32 scalars made before the values they size, that only state is updated
// in place, and that no weight-gradient node feeds an input-gradient node.
absl::Status Verify(const Graph& graph);

// The sum of the elements of all values of `role`.
int64_t CountElements(const Graph& graph, Role role);

// One line a node: outputs = Op(inputs) {attributes}, with types.
std::string ToText(const Graph& graph);
// Where a node stands in the model, and what it does: "layers.3.mlp/MatMul".
std::string ToText(const Node& node);

// "f32[<=2048 n12, 128]"
std::string ToText(const Graph& graph, const ValueType& type);

}  // namespace strata

#endif  // CORE_GRAPH_GRAPH_H_
