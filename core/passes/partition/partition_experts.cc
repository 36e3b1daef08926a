#include "core/passes/partition/partition_experts.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/activation.h"
#include "core/ops/collective_rows.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/expert_placement.h"
#include "core/ops/grouped_matmul.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

constexpr absl::string_view kGroup = "ep";
// Of DispatchPlan's outputs.
constexpr int kRowSlot = 0;
constexpr int kSlotRow = 1;
constexpr int kOffset = 2;
constexpr int kRows = 3;
// Of GroupedMatMul's inputs.
constexpr int kWeight = 1;
constexpr int kProductOffset = 2;

// Whether row i of the result depends on row i of the operands alone.
bool WorksByRow(const Node& node) {
  const OpDef* const ops[] = {&kSwiGlu, &kSigmoid, &kAdd, &kScale,
                              &kSliceColumns};
  return std::find(std::begin(ops), std::end(ops), node.op) != std::end(ops);
}

// That of parameters, which a builder gives to all alike.
DType ComputeDType(const Graph& graph) {
  for (const Value& value : graph.values()) {
    if (value.role == Role::kParameter) return value.type.dtype;
  }
  return DType::kF32;
}

class ExpertPartition {
 public:
  ExpertPartition(const Graph& graph, int ep, int ep_rank,
                  const ExpertSlots& slots)
      : source_(graph),
        ep_(ep),
        ep_rank_(ep_rank),
        slots_(slots),
        b_(ComputeDType(graph)),
        home_(graph.values().size(), kNone),
        owner_(graph.values().size(), kNone) {}

  absl::StatusOr<PartitionedGraph> Run() {
    RETURN_IF_ERROR(FindShards());
    for (size_t id = 0; id < source_.values().size(); ++id) {
      const Value& value = source_.value(id);
      if (value.role != Role::kActivation) {
        AddSource(id);
      } else {
        AddNodesThrough(value.producer);
      }
    }
    AddNodesThrough(static_cast<NodeId>(source_.nodes().size()) - 1);
    // By name: what is sent back here must be so in the same order on all
    // ranks.
    const std::map<std::string, ValueId> outputs(source_.outputs().begin(),
                                                 source_.outputs().end());
    for (const auto& [name, id] : outputs) b_.Output(name, Home(id));
    PartitionedGraph result;
    ASSIGN_OR_RETURN(result.graph, b_.Finish());
    for (size_t id = 0; id < home_.size(); ++id) {
      result.value.push_back(home_[id] != kNone ? home_[id] : owner_[id]);
    }
    for (auto& [id, shard] : shards_) result.shards.push_back(shard);
    return result;
  }

 private:
  // The plan whose rows the product is over; kNone if it is not one of rows
  // that were dispatched.
  NodeId PlanOf(const Node& product) const {
    const NodeId made = source_.value(product.inputs[kProductOffset]).producer;
    return made != kNone && source_.node(made).op == &kDispatchPlan ? made
                                                                    : kNone;
  }

  absl::Status FindShards() {
    for (const Node& node : source_.nodes()) {
      if (node.op != &kGroupedMatMul || PlanOf(node) == kNone) continue;
      const ValueId weight = node.inputs[kWeight];
      const Value& value = source_.value(weight);
      if (value.role != Role::kParameter) continue;
      const int64_t experts = value.type.dims[0].bound;
      if (experts % ep_ != 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            node.scope, " has ", experts, " experts; want a multiple of ep = ",
            ep_, ", as ranks share the experts of each gate out"));
      }
      const int64_t own = experts / ep_;
      const NodeId plan = PlanOf(node);
      Shard& shard = shards_[weight];
      shard.parameter = value.name;
      shard.begin = own * ep_rank_;
      shard.end = own * (ep_rank_ + 1);
      shard.whole = experts;
      if (slots_.movable) {
        shard.placement = PlacementName(source_.node(plan).scope);
        shard.spare = slots_.spare;
      }
      plans_[plan] = {};
    }
    for (const Node& node : source_.nodes()) {
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        if (shards_.count(node.inputs[i]) == 0 ||
            (node.op == &kGroupedMatMul && PlanOf(node) != kNone &&
             i == kWeight)) {
          continue;
        }
        return absl::UnimplementedError(absl::StrCat(
            node.scope, "/", node.op->name, " reads the experts' weights ",
            source_.value(node.inputs[i]).name,
            "; only products of dispatched rows can be shared out"));
      }
    }
    return absl::OkStatus();
  }

  Dims HomeDims(const Dims& dims) const {
    Dims mapped = dims;
    for (Dim& dim : mapped) {
      if (dim.ragged()) dim.count = home_[dim.count];
    }
    return mapped;
  }

  void AddSource(ValueId id) {
    const Value& value = source_.value(id);
    for (const Dim& dim : value.type.dims) {
      if (!dim.ragged() || home_[dim.count] != kNone) continue;
      AddNodesThrough(source_.value(dim.count).producer);
    }
    Dims dims = HomeDims(value.type.dims);
    const auto shard = shards_.find(id);
    if (shard != shards_.end()) {
      dims[0] =
          Static(shard->second.end - shard->second.begin + shard->second.spare);
    }
    switch (value.role) {
      case Role::kParameter:
        home_[id] = b_.Parameter(value.name, dims);
        break;
      case Role::kState:
        home_[id] = b_.State(value.name, value.type.dtype, dims);
        break;
      default:
        home_[id] = b_.Input(value.name, value.type.dtype, dims);
    }
  }

  void AddNodesThrough(NodeId last) {
    while (next_ <= last && b_.ok()) AddNode(next_++);
  }

  // Whether a node runs where the rows of experts are.
  bool RunsAtOwner(const Node& node) const {
    if (node.op == &kGroupedMatMul) {
      return shards_.count(node.inputs[kWeight]) > 0;
    }
    return WorksByRow(node) &&
           std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId in) {
             return in != kNone && owner_[in] != kNone;
           });
  }

  void AddNode(NodeId id) {
    const Node& node = source_.node(id);
    b_.set_scope(node.scope);
    b_.set_phase(node.phase);
    const bool at_owner = RunsAtOwner(node);
    std::vector<ValueId> inputs;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId in = node.inputs[i];
      if (in == kNone) {
        inputs.push_back(kNone);
      } else if (at_owner && node.op == &kGroupedMatMul &&
                 i == kProductOffset) {
        inputs.push_back(plans_[PlanOf(node)].offset);
      } else if (at_owner && source_.value(in).role == Role::kActivation) {
        inputs.push_back(Owner(in));
      } else {
        inputs.push_back(Home(in));
      }
    }
    const std::vector<ValueId> outputs = b_.Add(*node.op, inputs, node.attrs);
    if (!b_.ok()) return;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      (at_owner ? owner_ : home_)[node.outputs[i]] = outputs[i];
    }
    if (const auto plan = plans_.find(id); plan != plans_.end()) {
      const auto by_slot =
          slots_.movable ? PlanBySlot(node, inputs[0])
                         : DispatchPlanResult{kNone, kNone, outputs[kOffset],
                                              outputs[kRows]};
      plan->second =
          ExchangePlan(b_, by_slot.offset, by_slot.rows, ep_, kGroup);
    }
  }

  // Has what reads the rows of `plan` read those of slots instead.
  DispatchPlanResult PlanBySlot(const Node& plan, ValueId expert) {
    const int64_t experts = plan.attrs.Int("num_experts");
    const int64_t slots = experts + int64_t{ep_} * slots_.spare;
    const ValueId table =
        b_.State(PlacementName(plan.scope), DType::kI32, {Static(slots)});
    const DispatchPlanResult by_slot = DispatchPlan(
        b_, PlaceChoices(b_, expert, {table, experts, ep_}), slots);
    home_[plan.outputs[kRowSlot]] = by_slot.row_slot;
    home_[plan.outputs[kSlotRow]] = by_slot.slot_row;
    home_[plan.outputs[kRows]] = by_slot.rows;
    return by_slot;
  }

  // The exchange of the plan that counts the rows of `id`.
  const RowExchange& ExchangeOf(ValueId id) const {
    const ValueId rows = source_.value(id).type.dims[0].count;
    CHECK(rows != kNone) << "rows of experts are ragged";
    return plans_.at(source_.value(rows).producer);
  }

  ValueId Home(ValueId id) {
    if (home_[id] == kNone && owner_[id] != kNone) {
      home_[id] = ReturnRows(b_, owner_[id], ExchangeOf(id),
                             source_.value(id).type.dims[0].bound, kGroup);
    }
    return home_[id];
  }

  ValueId Owner(ValueId id) {
    if (owner_[id] == kNone) {
      owner_[id] = SendRows(b_, home_[id], ExchangeOf(id), kGroup);
    }
    return owner_[id];
  }

  const Graph& source_;
  const int ep_;
  const int ep_rank_;
  const ExpertSlots slots_;
  GraphBuilder b_;
  NodeId next_ = 0;             // The first that is not there yet.
  std::vector<ValueId> home_;   // [values of source_], kNone: not there
  std::vector<ValueId> owner_;  // The same, of rows that were sent.
  std::map<NodeId, RowExchange> plans_;
  std::map<ValueId, Shard> shards_;
};

}  // namespace

std::string PlacementName(absl::string_view scope) {
  return absl::StrCat("placement.", scope);
}

absl::StatusOr<PartitionedGraph> PartitionExperts(const Graph& graph, int ep,
                                                  int ep_rank,
                                                  const ExpertSlots& slots) {
  CHECK(0 <= ep_rank && ep_rank < ep) << "rank " << ep_rank << " of " << ep;
  if (ep > 1) return ExpertPartition(graph, ep, ep_rank, slots).Run();
  PartitionedGraph whole;
  whole.graph = graph;
  whole.value.resize(graph.values().size());
  std::iota(whole.value.begin(), whole.value.end(), 0);
  return whole;
}

}  // namespace strata
