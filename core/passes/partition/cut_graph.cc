#include "core/passes/partition/cut_graph.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {
namespace {

// Makes one piece.
class Cutter {
 public:
  Cutter(const Graph& graph, absl::Span<const int> piece_of, int piece,
         absl::string_view prefix)
      : source_(graph),
        piece_of_(piece_of),
        piece_(piece),
        prefix_(prefix),
        value_(graph.values().size(), kNone) {}

  // `exports`: what other pieces need of this one.
  absl::StatusOr<GraphPiece> Run(const std::set<ValueId>& exports) {
    for (size_t id = 0; id < source_.nodes().size(); ++id) {
      if (piece_of_[id] == piece_) AddNode(source_.node(id));
    }
    const std::map<std::string, ValueId> outputs(source_.outputs().begin(),
                                                 source_.outputs().end());
    for (const auto& [name, id] : outputs) {
      const NodeId producer = source_.value(id).producer;
      if (producer == kNone || piece_of_[producer] == piece_) {
        made_.SetOutput(name, Here(id));
      }
    }
    for (const ValueId id : exports) {
      made_.SetOutput(PieceValueName(prefix_, id), Here(id));
    }
    RETURN_IF_ERROR(status_);
    RETURN_IF_ERROR(Verify(made_));
    GraphPiece piece;
    piece.graph = std::move(made_);
    piece.value = std::move(value_);
    piece.imports.assign(imports_.begin(), imports_.end());
    piece.exports.assign(exports.begin(), exports.end());
    return piece;
  }

 private:
  static bool Makes(const Node& node, ValueId id) {
    return std::find(node.outputs.begin(), node.outputs.end(), id) !=
           node.outputs.end();
  }

  // Types stay what they are: passes have made some other than operators infer.
  void AddNode(Node node) {
    for (ValueId& input : node.inputs) {
      if (input != kNone) input = Here(input);
    }
    for (const ValueId output : node.outputs) {
      for (const Dim& dim : source_.value(output).type.dims) {
        if (dim.ragged() && !Makes(node, dim.count)) Here(dim.count);
      }
    }
    // Values of a node may be counted by another of them.
    auto next = static_cast<ValueId>(made_.values().size());
    for (const ValueId output : node.outputs) value_[output] = next++;
    for (ValueId& output : node.outputs) {
      Value value = source_.value(output);
      value.producer = kNone;
      for (Dim& dim : value.type.dims) {
        if (dim.ragged()) dim.count = value_[dim.count];
      }
      output = made_.AddValue(std::move(value));
    }
    made_.AddNode(std::move(node));
  }

  // The value here; if it is not made here it becomes a source.
  ValueId Here(ValueId id) {
    if (value_[id] != kNone) return value_[id];
    Value value = source_.value(id);
    for (Dim& dim : value.type.dims) {
      if (dim.ragged()) dim.count = Here(dim.count);
    }
    if (value.role == Role::kActivation) {
      if (piece_of_[value.producer] >= piece_) {
        status_.Update(absl::InternalError(
            absl::StrCat("piece ", piece_, " reads what piece ",
                         piece_of_[value.producer], " makes")));
        return kNone;
      }
      imports_.insert(id);
      value.role = Role::kInput;
      value.name = PieceValueName(prefix_, id);
    }
    value.producer = kNone;
    return value_[id] = made_.AddValue(std::move(value));
  }

  const Graph& source_;
  const absl::Span<const int> piece_of_;
  const int piece_;
  const absl::string_view prefix_;
  Graph made_;
  absl::Status status_;
  std::vector<ValueId> value_;
  std::set<ValueId> imports_;
};

// The block that a scope is in; -1 for none.
int BlockOf(absl::string_view scope, int num_blocks) {
  constexpr absl::string_view kPrefix = "model.layers.";
  if (!absl::StartsWith(scope, kPrefix)) return -1;
  scope.remove_prefix(kPrefix.size());
  int block = 0;
  for (const char c : scope) {
    if (c < '0' || c > '9') break;
    block = 10 * block + (c - '0');
    if (block >= num_blocks) return -1;
  }
  return block;
}

// first[s]: the block that stage s begins with, such that the largest sum of
// costs of a stage is the least. By the usual recurrence over prefixes.
std::vector<int> FirstBlocks(const std::vector<double>& cost, int num_stages) {
  const int n = static_cast<int>(cost.size());
  std::vector<double> before(n + 1, 0);
  for (int i = 0; i < n; ++i) before[i + 1] = before[i] + cost[i];
  constexpr double kNever = std::numeric_limits<double>::infinity();
  // best[s][i]: of the first i blocks in s stages; from[s][i]: where the last
  // of those stages begins.
  std::vector<std::vector<double>> best(num_stages + 1,
                                        std::vector<double>(n + 1, kNever));
  std::vector<std::vector<int>> from(num_stages + 1, std::vector<int>(n + 1));
  best[0][0] = 0;
  for (int s = 1; s <= num_stages; ++s) {
    for (int i = s; i <= n; ++i) {
      for (int j = s - 1; j < i; ++j) {
        const double most = std::max(best[s - 1][j], before[i] - before[j]);
        if (most < best[s][i]) {
          best[s][i] = most;
          from[s][i] = j;
        }
      }
    }
  }
  std::vector<int> first(num_stages);
  for (int s = num_stages, i = n; s > 0; --s) i = first[s - 1] = from[s][i];
  return first;
}

}  // namespace

std::string PieceValueName(absl::string_view prefix, ValueId id) {
  return absl::StrCat(prefix, ".", id);
}

absl::StatusOr<std::vector<GraphPiece>> CutGraph(const Graph& graph,
                                                 absl::Span<const int> piece_of,
                                                 int num_pieces,
                                                 absl::string_view prefix) {
  CHECK_EQ(piece_of.size(), graph.nodes().size());
  std::vector<GraphPiece> pieces(num_pieces);
  std::vector<std::set<ValueId>> exports(num_pieces);
  // From the last: a piece imports from those before it alone.
  for (int piece = num_pieces - 1; piece >= 0; --piece) {
    ASSIGN_OR_RETURN(
        pieces[piece],
        Cutter(graph, piece_of, piece, prefix).Run(exports[piece]));
    for (const ValueId id : pieces[piece].imports) {
      exports[piece_of[graph.value(id).producer]].insert(id);
    }
  }
  return pieces;
}

absl::StatusOr<std::vector<int>> BalancedStages(const Graph& graph,
                                                int num_blocks,
                                                int num_stages) {
  if (num_blocks < num_stages) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", num_blocks, " layers; want at least pp = ", num_stages,
        ", as a stage has one or more"));
  }
  // The block of a node is the latest that has begun; a node before the first
  // costs the first stage.
  std::vector<double> cost(num_blocks, 0);
  std::vector<int> block_of;
  int block = 0;
  for (const Node& node : graph.nodes()) {
    block = std::max(block, BlockOf(node.scope, num_blocks));
    block_of.push_back(block);
    cost[block] += CostOf(graph, node, Binding()).flops;
  }
  const std::vector<int> first = FirstBlocks(cost, num_stages);
  std::vector<int> stage_of;
  for (const int of_node : block_of) {
    stage_of.push_back(
        static_cast<int>(std::upper_bound(first.begin(), first.end(), of_node) -
                         first.begin() - 1));
  }
  return stage_of;
}

}  // namespace strata
