// The gates of a stage, among those of all stages that a step graph lists.

#ifndef TRAINING_STAGE_ROUTERS_H_
#define TRAINING_STAGE_ROUTERS_H_

#include <vector>

#include "core/graph/graph.h"
#include "core/model/moe.h"

namespace strata {

// Those whose choices the graph gives out, with its values; all where there is
// one stage. `routers` may be those of another stage's graph.
inline std::vector<RouterValues> RoutersIn(
    const Graph& graph, const std::vector<RouterValues>& routers) {
  std::vector<RouterValues> here;
  for (const RouterValues& router : routers) {
    const auto choice = graph.outputs().find(router.ExpertName());
    if (choice == graph.outputs().end()) continue;
    here.push_back(router);
    here.back().expert = choice->second;
  }
  return here;
}

}  // namespace strata

#endif  // TRAINING_STAGE_ROUTERS_H_
