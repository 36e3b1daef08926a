#include "training/pipeline/stage_links.h"

#include <memory>
#include <set>
#include <utility>

#include "absl/status/statusor.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/parallel/pipeline_schedule.h"

namespace strata {

absl::StatusOr<std::unique_ptr<StageLinks>> StageLinks::Create(
    const PipelineSchedule& schedule, Communicator& pp) {
  auto links = std::unique_ptr<StageLinks>(new StageLinks(schedule, pp));
  if (schedule.num_chunks == 1) return links;
  std::set<ChunkPair> pairs;  // On every rank the same.
  for (const int m : {0, schedule.num_micro_batches - 1}) {
    for (int from = 0; from < schedule.num_stages; ++from) {
      for (int to = 0; to < schedule.num_stages; ++to) {
        if (from == to) continue;
        pairs.insert(
            {schedule.PlaceOf(from, m).chunk, schedule.PlaceOf(to, m).chunk});
      }
    }
  }
  for (const ChunkPair& pair : pairs) {
    ASSIGN_OR_RETURN(links->groups_[pair],
                     pp.Split(/*color=*/0, pp.rank(), pp.name()));
  }
  return links;
}

Communicator* StageLinks::GroupOf(ChunkPair pair) const {
  if (schedule_.num_chunks == 1) return &pp_;
  const auto it = groups_.find(pair);
  CHECK(it != groups_.end()) << pair.first << " to " << pair.second;
  return it->second.get();
}

StageLink StageLinks::To(int stage, int m, int chunk) const {
  const StagePlace place = schedule_.PlaceOf(stage, m);
  return {GroupOf({chunk, place.chunk}), place.device};
}

StageLink StageLinks::From(int stage, int m, int chunk) const {
  const StagePlace place = schedule_.PlaceOf(stage, m);
  return {GroupOf({place.chunk, chunk}), place.device};
}

}  // namespace strata
