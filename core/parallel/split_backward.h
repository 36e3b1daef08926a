// Schedules as the trainer runs them, whose input and weight gradients are
// programs of their own, whatever the schedule calls them
// (training/pipeline/stage_runner.h).

#ifndef CORE_PARALLEL_SPLIT_BACKWARD_H_
#define CORE_PARALLEL_SPLIT_BACKWARD_H_

#include <utility>
#include <vector>

#include "core/parallel/pipeline_schedule.h"

namespace strata {

// Each backward in two: the gradient that the stage before waits for, which
// leaves as soon as it is there, and at once the weights'. So a 1F1B idles no
// more for weight gradients than ZB-H1 does while the pipeline drains.
inline void SplitBackward(PipelineSchedule& schedule) {
  for (std::vector<PipelineItem>& items : schedule.items) {
    std::vector<PipelineItem> split;
    for (PipelineItem item : items) {
      if (item.kind == PipelineItem::Kind::kBackward) {
        item.kind = PipelineItem::Kind::kInputGrad;
        split.push_back(item);
        item.kind = PipelineItem::Kind::kWeightGrad;
      }
      split.push_back(item);
    }
    items = std::move(split);
  }
}

}  // namespace strata

#endif  // CORE_PARALLEL_SPLIT_BACKWARD_H_
