// The gates of a stage, among those of all stages that a step graph lists.

#ifndef TRAINING_STAGE_ROUTERS_H_
#define TRAINING_STAGE_ROUTERS_H_

#include <vector>

#include "core/graph/graph.h"
#include "core/model/moe.h"

namespace strata {

// Those that have values in the stage's graph; all where there is one stage.
inline std::vector<RouterValues> OfThisStage(
    const std::vector<RouterValues>& routers) {
  std::vector<RouterValues> here;
  for (const RouterValues& router : routers) {
    if (router.expert != kNone) here.push_back(router);
  }
  return here;
}

}  // namespace strata

#endif  // TRAINING_STAGE_ROUTERS_H_
