#include "core/passes/chunk_losses.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/head_loss.h"
#include "core/ops/loss.h"
#include "core/ops/matmul.h"

namespace strata {
namespace {

constexpr int64_t kChunkLogits = int64_t{1} << 27;
constexpr int64_t kLeastRows = 128;  // And a multiple of it.

// The nodes that one HeadLoss stands for, or one HeadScore: of that there are
// the first two.
struct Loss {
  NodeId logits = kNone, loss = kNone, grad = kNone, dx = kNone, dw = kNone;
  std::set<NodeId> before;  // What makes dloss.
};

class Finder {
 public:
  explicit Finder(const Graph& graph)
      : graph_(graph), readers_(graph.values().size()) {
    const auto num_nodes = static_cast<NodeId>(graph.nodes().size());
    for (NodeId id = 0; id < num_nodes; ++id) {
      for (const ValueId input : graph.node(id).inputs) {
        if (input != kNone) readers_[input].push_back(id);
      }
      for (const int i : graph.node(id).mutates) {
        updated_.insert(graph.node(id).inputs[i]);
      }
    }
    for (const auto& [name, value] : graph.outputs()) {
      readers_[value].push_back(kNone);  // A caller.
    }
  }

  // What `loss`, a CrossEntropy, is part of; false if it has to stay.
  bool Find(NodeId loss, Loss& found) const {
    const Node& node = graph_.node(loss);
    const ValueId logits = node.inputs[0], target = node.inputs[1];
    const ValueId lse = node.outputs[2];
    found.loss = loss;
    found.logits = graph_.value(logits).producer;
    if (!IsProduct(found.logits, false, true)) return false;
    if (readers_[lse].empty()) return readers_[logits].size() == 1;
    if (readers_[lse].size() != 1 || readers_[logits].size() != 2) return false;
    found.grad = readers_[lse][0];
    if (found.grad == kNone) return false;
    const Node& grad = graph_.node(found.grad);
    if (grad.op != &kCrossEntropyGrad || grad.inputs[1] != logits ||
        grad.inputs[2] != target || grad.inputs[3] != lse) {
      return false;
    }
    return FindProducts(grad.outputs[0], found) &&
           FindBefore(grad.inputs[0], found);
  }

 private:
  bool IsProduct(NodeId id, bool transpose_lhs, bool transpose_rhs) const {
    if (id == kNone || graph_.node(id).op != &kMatMul) return false;
    const Attrs& attrs = graph_.node(id).attrs;
    return (attrs.Int("transpose_lhs") != 0) == transpose_lhs &&
           (attrs.Int("transpose_rhs") != 0) == transpose_rhs;
  }

  // The two readers of dlogits.
  bool FindProducts(ValueId dlogits, Loss& found) const {
    const ValueId x = graph_.node(found.logits).inputs[0];
    const ValueId w = graph_.node(found.logits).inputs[1];
    if (readers_[dlogits].size() != 2 || updated_.count(w) > 0) return false;
    for (const NodeId id : readers_[dlogits]) {
      if (IsProduct(id, false, false) && graph_.node(id).inputs[1] == w) {
        found.dx = id;
      } else if (IsProduct(id, true, false) && graph_.node(id).inputs[1] == x) {
        found.dw = id;
      }
    }
    return found.dx != kNone && found.dw != kNone;
  }

  // The nodes behind dloss, which work on scalars: none may need what comes
  // later, or state.
  bool FindBefore(ValueId dloss, Loss& found) const {
    std::vector<ValueId> open = {dloss};
    while (!open.empty()) {
      const ValueId value = open.back();
      open.pop_back();
      const NodeId id = graph_.value(value).producer;
      if (graph_.value(value).type.rank() != 0) return false;
      if (id == kNone) {
        if (graph_.value(value).role != Role::kInput) return false;
        continue;
      }
      if (graph_.node(id).op == &kCrossEntropy ||
          !graph_.node(id).mutates.empty()) {
        return false;
      }
      if (id < found.loss || !found.before.insert(id).second) continue;
      for (const ValueId input : graph_.node(id).inputs) {
        if (input != kNone) open.push_back(input);
      }
    }
    return true;
  }

  const Graph& graph_;
  std::vector<std::vector<NodeId>> readers_;  // [values]
  std::set<ValueId> updated_;
};

// The graph with other nodes, as a list of what to add in order.
class Writer {
 public:
  Writer(const Graph& graph, const std::map<NodeId, Loss>& losses)
      : graph_(graph), losses_(losses), done_(graph.nodes().size()) {
    std::vector<bool> stays(graph.values().size(), true);
    for (const auto& [id, loss] : losses) {
      stays[graph.node(loss.logits).outputs[0]] = false;
      stays[graph.node(loss.loss).outputs[2]] = false;
      done_[loss.logits] = true;
      if (loss.grad == kNone) continue;
      stays[graph.node(loss.grad).outputs[0]] = false;
      for (const NodeId part : {loss.grad, loss.dx, loss.dw}) {
        done_[part] = true;
      }
    }
    result_.value = CopyValues(graph.values(), stays, result_.graph);
  }

  ChunkedLosses Write(int64_t chunk_rows) && {
    const auto num_nodes = static_cast<NodeId>(graph_.nodes().size());
    for (NodeId id = 0; id < num_nodes; ++id) {
      const auto it = losses_.find(id);
      if (it == losses_.end()) {
        Add(id);
        continue;
      }
      for (const NodeId before : it->second.before) Add(before);
      AddLoss(it->second, chunk_rows);
    }
    for (const auto& [name, id] : graph_.outputs()) {
      result_.graph.SetOutput(name, result_.value[id]);
    }
    return std::move(result_);
  }

 private:
  void Add(NodeId id) {
    if (done_[id]) return;
    done_[id] = true;
    Node node = graph_.node(id);
    for (ValueId& input : node.inputs) {
      if (input != kNone) input = result_.value[input];
    }
    for (ValueId& output : node.outputs) output = result_.value[output];
    result_.graph.AddNode(std::move(node));
  }

  void AddLoss(const Loss& loss, int64_t chunk_rows) {
    const Node& logits = graph_.node(loss.logits);
    const Node& forward = graph_.node(loss.loss);
    const int64_t vocab = graph_.value(logits.inputs[1]).type.dims[0].bound;
    const auto moved = [&](ValueId id) { return result_.value[id]; };
    Node node;
    node.op = loss.grad == kNone ? &kHeadScore : &kHeadLoss;
    node.attrs = {
        {"chunk_rows", chunk_rows > 0 ? chunk_rows : LossChunkRows(vocab)}};
    node.inputs = {moved(logits.inputs[0]), moved(logits.inputs[1]),
                   moved(forward.inputs[1])};
    node.outputs = {moved(forward.outputs[0]), moved(forward.outputs[1]),
                    moved(forward.outputs[3])};
    if (loss.grad != kNone) {
      node.inputs.push_back(moved(graph_.node(loss.grad).inputs[0]));
      node.outputs.push_back(moved(graph_.node(loss.dx).outputs[0]));
      node.outputs.push_back(moved(graph_.node(loss.dw).outputs[0]));
    }
    node.phase = forward.phase;
    node.scope = forward.scope;
    result_.graph.AddNode(std::move(node));
  }

  const Graph& graph_;
  const std::map<NodeId, Loss>& losses_;
  std::vector<bool> done_;  // [nodes]
  ChunkedLosses result_;
};

}  // namespace

int64_t LossChunkRows(int64_t vocab) {
  return std::max(kLeastRows, kChunkLogits / vocab / kLeastRows * kLeastRows);
}

ChunkedLosses ChunkLosses(const Graph& graph, int64_t chunk_rows) {
  const Finder finder(graph);
  std::map<NodeId, Loss> losses;  // By the place of each.
  for (size_t id = 0; id < graph.nodes().size(); ++id) {
    const auto node = static_cast<NodeId>(id);
    if (graph.node(node).op != &kCrossEntropy) continue;
    Loss loss;
    if (finder.Find(node, loss)) losses[node] = std::move(loss);
  }
  return Writer(graph, losses).Write(chunk_rows);
}

}  // namespace strata
