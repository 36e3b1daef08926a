// Which schedule a mesh runs, and which stages a rank of it has; what users
// cannot have is told in their words.
//
//   schedule        stages    rank r of pp has
//   gpipe, 1f1b,    pp        r
//   zb-h1, zb1p
//   interleaved     pp x c    r, pp + r, 2 pp + r, ...
//   dualpipe        pp        r and pp - 1 - r: each stage is on two ranks, of
//                             which each runs half of the micro-batches
//   dualpipev       2 pp      r and 2 pp - 1 - r

#ifndef TRAINING_PIPELINE_PIPELINE_PLAN_H_
#define TRAINING_PIPELINE_PIPELINE_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"

namespace strata {

struct PipelineOptions {
  PipelineKind schedule = PipelineKind::k1F1B;
  // Stages of a rank: 0 is what the schedule has, of interleaved 2.
  int chunks = 0;
};

// By the schedule's name. Returns the errors of ParsePipelineKind.
absl::StatusOr<PipelineOptions> ParsePipeline(absl::string_view schedule,
                                              int chunks);

// Whether the schedule holds each stage on two ranks (MeshShape::mirrored).
bool IsMirrored(PipelineKind schedule);

// Whether it gives a rank several stages.
bool HasSeveralStages(PipelineKind schedule);

// That the mesh can have such a pipeline, whatever the model.
//
// Returns INVALID_ARGUMENT if the schedule gives a rank several stages and pp
// is 1, or odd with dualpipe, or if the schedule has not so many chunks.
absl::Status CheckPipeline(const PipelineOptions& options,
                           const MeshShape& shape);

// The schedule of a pipeline of shape.pp ranks, for `micro_batches` a step.
//
// Returns the errors of CheckPipeline(), and INVALID_ARGUMENT if there are too
// few micro-batches for it, or not the multiple that it wants, fewer layers
// than stages, or a mesh that is mirrored for another schedule, or is not.
absl::StatusOr<PipelineSchedule> PlanPipeline(const PipelineOptions& options,
                                              const MeshShape& shape,
                                              int64_t micro_batches,
                                              int64_t num_layers);

// The stages of a device, by chunk.
std::vector<int> StagesOf(const PipelineSchedule& schedule, int device);

// The chunk of an item's gradients; of a pair that of its backward half.
int BackwardChunk(const PipelineItem& item);

// With which of a device's items each of its chunks ends its weight gradients:
// [chunks], indexes of items.
std::vector<int> LastWeightGrads(const PipelineSchedule& schedule, int device);

// The chunks in the order of these.
std::vector<int> ChunksByEnd(const std::vector<int>& last_weight_grads);

// Whether the first and the last stage are on ranks of their own, the first and
// the last: gradients of what both read are then to be summed over the two.
bool EndsAreApart(PipelineKind schedule);

}  // namespace strata

#endif  // TRAINING_PIPELINE_PIPELINE_PLAN_H_
