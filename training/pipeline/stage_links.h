// What carries messages between the stages of a pipeline.
//
//   rank 0: chunk 0 ---0 to 0---> chunk 0 :rank 1    a group of pp's ranks
//           chunk 1 <--0 to 1---                     for each pair of chunks
//                   ---1 to 1---> chunk 1
//
// A rank that holds several stages sends another rank several streams of
// messages, and that one need not want them in the order in which they are
// sent: a forward of chunk 1 may be before, there, what is after it here. Of
// one chunk to one chunk both ends have the micro-batches in order, in every
// schedule; so each pair of chunks that talk has a group of its own, and
// messages need no names. A rank may send to itself.

#ifndef TRAINING_PIPELINE_STAGE_LINKS_H_
#define TRAINING_PIPELINE_STAGE_LINKS_H_

#include <map>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "core/parallel/communicator.h"
#include "core/parallel/pipeline_schedule.h"

namespace strata {

// The other end of a message.
struct StageLink {
  Communicator* group = nullptr;
  int rank = 0;
};

class StageLinks {
 public:
  // To be called by every rank of `pp`, which must outlive the links; where
  // ranks hold one stage each, it carries the messages itself.
  static absl::StatusOr<std::unique_ptr<StageLinks>> Create(
      const PipelineSchedule& schedule, Communicator& pp);

  // From this rank's stage `chunk` to where micro-batch `m` passes `stage`.
  StageLink To(int stage, int m, int chunk) const;
  // From there to this rank's stage `chunk`.
  StageLink From(int stage, int m, int chunk) const;

 private:
  using ChunkPair = std::pair<int, int>;  // That sends, that receives.

  StageLinks(const PipelineSchedule& schedule, Communicator& pp)
      : schedule_(schedule), pp_(pp) {}

  Communicator* GroupOf(ChunkPair pair) const;

  const PipelineSchedule schedule_;
  Communicator& pp_;
  std::map<ChunkPair, std::unique_ptr<Communicator>> groups_;
};

}  // namespace strata

#endif  // TRAINING_PIPELINE_STAGE_LINKS_H_
