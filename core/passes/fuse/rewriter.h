// A graph in which some nodes are about to be replaced by one.
//
// Patterns look at the graph as it was and propose; the rewriter refuses what
// would change the meaning of anything else.

#ifndef CORE_PASSES_FUSE_REWRITER_H_
#define CORE_PASSES_FUSE_REWRITER_H_

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/attrs.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata {

class Rewriter {
 public:
  // Whether something runs the operator on the dtype that selects its kernel.
  using HasKernel = std::function<bool(const OpDef& op, DType dtype)>;
  // Whether what would become `op` of those inputs is to stay (fuse.h); may be
  // null.
  using Stays = std::function<bool(const OpDef& op,
                                   const std::vector<const Value*>& inputs)>;

  Rewriter(const Graph& graph, HasKernel has_kernel, Stays stays);

  const Graph& graph() const { return graph_; }

  // --- Looking ---

  // The node that makes `value`, if it is of that operator and still there.
  const Node* Maker(ValueId value, const OpDef& op) const;
  // The nodes that read `value`, in order; a node once for each time.
  absl::Span<const NodeId> Readers(ValueId value) const;
  // The only reader of `value`, if it is of that operator, reads it as its
  // input number `input`, and is still there.
  const Node* OnlyReader(ValueId value, const OpDef& op, int input = 0) const;
  bool IsOutput(ValueId value) const { return is_output_[value]; }
  bool IsThere(const Node& node) const { return !gone_[IdOf(node)]; }
  NodeId IdOf(const Node& node) const {
    return static_cast<NodeId>(&node - graph_.nodes().data());
  }

  // --- Changing ---

  // A node that stands for others. `outputs` are, in the order of the
  // operator's, values that the others made, or kNone for new ones.
  struct Fusion {
    std::vector<const Node*> nodes;
    const OpDef* op = nullptr;
    Attrs attrs;
    std::vector<ValueId> inputs;
    std::vector<ValueId> outputs;
  };

  // Replaces nodes by one that stands where the last of them stood, in the
  // scope of the first. Does nothing and returns false if
  //   a value that only `nodes` make, and that is none of `outputs`, is read by
  //     another node, is an output of the graph, or sizes a value that stays;
  //   an output of the new node is read before its place;
  //   state that they update is touched, or state that they read updated, by
  //   another node between them;
  //   the operator's inference does not give the outputs' types;
  //   nothing runs it;
  //   it is to stay.
  bool Replace(const Fusion& fusion);

  // The outputs of a node that is put before the first one replaced, the same
  // for the same operator, attributes and inputs; for what many fused nodes
  // read. None if nothing runs it, or if an input is no source of the graph.
  std::vector<ValueId> Shared(const OpDef& op, const Attrs& attrs,
                              std::vector<ValueId> inputs);

  // The graph with all replacements made, and values that nobody makes any more
  // left out.
  Graph Finish() const;

 private:
  bool Allowed(const Fusion& fusion, NodeId place) const;
  bool Fits(const Fusion& fusion, std::vector<ValueType>& types) const;

  const Graph& graph_;
  const HasKernel has_kernel_;
  const Stays stays_;
  Graph work_;  // The same values and, behind them, new ones; no nodes.
  std::vector<std::vector<NodeId>> readers_;  // [values]
  std::vector<std::vector<ValueId>> sized_;   // [values], which it counts
  std::vector<bool> is_output_;               // [values]
  std::vector<bool> gone_;                    // [nodes]
  std::map<NodeId, Node> at_;                 // What stands in a node's place.
  std::map<ValueId, ValueType> new_types_;    // Of values behind the graph's.
  struct SharedNode {
    Node node;
    NodeId before = 0;  // The first node that may read it.
    bool used = false;
  };
  std::map<std::string, SharedNode> shared_;
};

}  // namespace strata

#endif  // CORE_PASSES_FUSE_REWRITER_H_
