#include "core/trace/router_tap.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/graph/graph.h"
#include "core/model/moe.h"
#include "core/ops/dispatch.h"
#include "core/ops/gate_select.h"
#include "core/runtime/program.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {
namespace {

std::string WeightName(const RouterValues& router) {
  return absl::StrCat(router.ExpertName(), ".weight");
}

std::string ConsideredName(const RouterValues& router) {
  return absl::StrCat(router.ExpertName(), ".considered");
}

// The first forward node of operator `op` whose input `i` is `value`.
const Node* FindReader(const Graph& graph, const OpDef& op, size_t i,
                       ValueId value) {
  for (const Node& node : graph.nodes()) {
    if (node.op == &op && node.phase == Phase::kForward &&
        node.inputs.size() > i && node.inputs[i] == value) {
      return &node;
    }
  }
  return nullptr;
}

// The weights that the outputs of the chosen experts are combined by.
ValueId WeightOf(const Graph& graph, const RouterValues& router) {
  const Node* const plan = FindReader(graph, kDispatchPlan, 0, router.expert);
  CHECK(plan != nullptr) << "no dispatch of " << router.ExpertName();
  const ValueId slot_row = plan->outputs[1];
  const Node* const combine = FindReader(graph, kCombineRows, 2, slot_row);
  CHECK(combine != nullptr && combine->inputs[3] != kNone)
      << "no weights of " << router.ExpertName();
  return combine->inputs[3];
}

// The survivors' mask that the choice was made under; kNone if it saw all, or
// if it was made elsewhere: a replayed choice is an input.
ValueId ConsideredOf(const Graph& graph, const RouterValues& router) {
  const NodeId producer = graph.value(router.expert).producer;
  if (producer == kNone) return kNone;
  const Node& choice = graph.node(producer);
  return choice.op == &kAdaptiveSelect ? choice.inputs[1] : kNone;
}

}  // namespace

void ExposeTokens(Graph& graph, const std::vector<RouterValues>& routers) {
  for (const RouterValues& router : routers) {
    graph.SetOutput(WeightName(router), WeightOf(graph, router));
    const ValueId considered = ConsideredOf(graph, router);
    if (considered != kNone) {
      graph.SetOutput(ConsideredName(router), considered);
    }
  }
}

RouterTap::RouterTap(const Graph& graph,
                     const std::vector<RouterValues>& routers, bool with_tokens)
    : with_tokens_(with_tokens), choices_(routers.size()) {
  for (const RouterValues& router : routers) {
    Gate gate;
    gate.tokens = router.TokensName();
    gate.expert = router.ExpertName();
    if (with_tokens) {
      gate.weight = WeightName(router);
      if (ConsideredOf(graph, router) != kNone) {
        gate.considered = ConsideredName(router);
      }
    }
    gate.shape.set_layer(router.layer);
    gate.shape.set_tier(router.tier);
    gate.shape.set_num_experts(router.num_experts);
    gate.shape.set_k_max(graph.value(router.expert).type.dims[1].bound);
    gate.shape.set_has_considered(!gate.considered.empty());
    gates_.push_back(std::move(gate));
  }
}

void RouterTap::AddGates(RoutingTraceHeader& header) const {
  for (const Gate& gate : gates_) *header.add_gates() = gate.shape;
  header.set_has_tokens(with_tokens_);
}

absl::Span<const GateChoices> RouterTap::Read(const Program& program) {
  for (size_t g = 0; g < gates_.size(); ++g) {
    const Gate& gate = gates_[g];
    GateChoices& choices = choices_[g];
    choices.num_tokens = *program.Output(gate.tokens).as<int32_t>();
    choices.expert = program.Output(gate.expert).span<int32_t>();
    if (!gate.weight.empty()) {
      choices.weight = program.Output(gate.weight).span<float>();
    }
    if (!gate.considered.empty()) {
      choices.considered = program.Output(gate.considered).span<uint8_t>();
    }
  }
  return choices_;
}

}  // namespace strata
