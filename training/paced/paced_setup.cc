#include "training/paced/paced_setup.h"

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/gate.h"
#include "core/ops/collective_rows.h"
#include "core/passes/hide_exchanges.h"
#include "core/passes/partition/cut_graph.h"
#include "core/tensor/dtype.h"
#include "training/paced/graph_walk.h"
#include "training/step_graph.h"

namespace strata {
namespace {

bool IsOfExchange(const Graph& graph, ValueId value) {
  const NodeId producer = graph.value(value).producer;
  return producer != kNone && graph.node(producer).op == &kExchangePlan;
}

}  // namespace

absl::StatusOr<StepGraph> PacedGradients(const PacedSetup& setup,
                                         const MeshPlace& place,
                                         const GradientSums& sums) {
  ASSIGN_OR_RETURN(StepGraph step,
                   BuildGradientGraph(setup.model, setup.train.batch_size(),
                                      setup.train.seq_len(), DType::kF32,
                                      RouteSource::kBalanced, place, sums));
  if (setup.overlap_rows) step.graph = HideExchanges(step.graph);
  return step;
}

Binding EvenLoads(const Graph& graph, int ranks,
                  std::set<std::string> arrived) {
  return [&graph, ranks, arrived = std::move(arrived)](ValueId count,
                                                       int64_t bound) {
    const bool is_shared = IsOfExchange(graph, count) ||
                           arrived.count(graph.value(count).name) > 0;
    return static_cast<double>(bound) / (is_shared ? ranks : 1);
  };
}

std::set<std::string> ArrivedRows(const Graph& gradients) {
  std::set<std::string> names;
  for (size_t id = 0; id < gradients.values().size(); ++id) {
    const auto value = static_cast<ValueId>(id);
    if (IsOfExchange(gradients, value)) {
      names.insert(PieceValueName("phase", value));
    }
  }
  return names;
}

GraphSeconds Walk(const Graph& graph, const PacedSetup& setup,
                  const std::set<std::string>& arrived) {
  return WalkGraph(graph, setup.pace, setup.shape,
                   EvenLoads(graph, setup.shape.ep, arrived));
}

}  // namespace strata
