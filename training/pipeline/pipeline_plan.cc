#include "training/pipeline/pipeline_plan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"

namespace strata {
namespace {

template <typename... Parts>
absl::Status Wrong(PipelineKind schedule, const Parts&... parts) {
  return absl::InvalidArgumentError(
      absl::StrCat("--schedule=", Name(schedule), " ", parts...));
}

int ChunksOf(const PipelineOptions& options) {
  if (options.chunks > 0) return options.chunks;
  return HasSeveralStages(options.schedule) ? 2 : 1;
}

// That the ranks of a stage have as many micro-batches as the schedule wants.
absl::Status CheckMicroBatches(PipelineKind schedule, int pp, int64_t m) {
  constexpr char kWhence[] =
      ", train.accumulation over dp x ep, in a step; there are ";
  if (schedule == PipelineKind::kInterleaved && m % pp != 0) {
    return Wrong(schedule, "wants a multiple of pp = ", pp, " micro-batches",
                 kWhence, m);
  }
  if (schedule == PipelineKind::kDualPipe && (m < 2 * pp || m % 2 != 0)) {
    return Wrong(schedule, "wants an even number of at least 2 x pp = ", 2 * pp,
                 " micro-batches", kWhence, m);
  }
  if (schedule == PipelineKind::kDualPipeV && m < 2 * pp) {
    return Wrong(schedule, "wants at least 2 x pp = ", 2 * pp, " micro-batches",
                 kWhence, m);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PipelineOptions> ParsePipeline(absl::string_view schedule,
                                              int chunks) {
  PipelineOptions options;
  ASSIGN_OR_RETURN(options.schedule, ParsePipelineKind(schedule));
  options.chunks = chunks;
  return options;
}

bool IsMirrored(PipelineKind schedule) {
  return schedule == PipelineKind::kDualPipe;
}

bool HasSeveralStages(PipelineKind schedule) {
  return schedule == PipelineKind::kInterleaved ||
         schedule == PipelineKind::kDualPipe ||
         schedule == PipelineKind::kDualPipeV;
}

bool EndsAreApart(PipelineKind schedule) {
  return schedule != PipelineKind::kDualPipe &&
         schedule != PipelineKind::kDualPipeV;
}

absl::Status CheckPipeline(const PipelineOptions& options,
                           const MeshShape& shape) {
  const PipelineKind schedule = options.schedule;
  const bool interleaved = schedule == PipelineKind::kInterleaved;
  const int chunks = ChunksOf(options);
  const int own = ChunksOf({schedule, /*chunks=*/0});
  if (interleaved ? chunks < 2 : chunks != own) {
    return Wrong(schedule, "gives a rank ", own, interleaved ? " or more" : "",
                 own == 1 ? " stage" : " stages", "; --chunks is ", chunks);
  }
  if (!HasSeveralStages(schedule)) return absl::OkStatus();
  if (shape.pp == 1) {
    return Wrong(schedule,
                 "gives each rank of a pipeline several stages, and --pp is 1");
  }
  if (IsMirrored(schedule) && shape.pp % 2 != 0) {
    return Wrong(schedule, "has each stage on two ranks; --pp is ", shape.pp,
                 ", want an even number");
  }
  return absl::OkStatus();
}

absl::StatusOr<PipelineSchedule> PlanPipeline(const PipelineOptions& options,
                                              const MeshShape& shape,
                                              int64_t micro_batches,
                                              int64_t num_layers) {
  RETURN_IF_ERROR(CheckPipeline(options, shape));
  RETURN_IF_ERROR(CheckMicroBatches(options.schedule, shape.pp, micro_batches));
  if (IsMirrored(options.schedule) != shape.mirrored) {
    return Wrong(options.schedule, shape.mirrored ? "is not for a mirrored mesh"
                                                  : "is for a mirrored mesh");
  }
  PipelineShape pipeline;
  pipeline.kind = options.schedule;
  pipeline.num_devices = shape.pp;
  pipeline.num_micro_batches = static_cast<int>(micro_batches);
  pipeline.num_chunks = ChunksOf(options);
  ASSIGN_OR_RETURN(PipelineSchedule schedule, MakePipelineSchedule(pipeline));
  // Of one stage a rank, who cuts the model tells.
  if (schedule.num_stages > shape.pp && num_layers < schedule.num_stages) {
    return Wrong(options.schedule, "has ", schedule.num_chunks,
                 " stages on each of pp = ", shape.pp, " ranks; there are ",
                 num_layers, " layers, want at least ", schedule.num_stages);
  }
  return schedule;
}

std::vector<int> StagesOf(const PipelineSchedule& schedule, int device) {
  std::vector<int> stages;
  for (int chunk = 0; chunk < schedule.num_chunks; ++chunk) {
    stages.push_back(schedule.StageOf(device, chunk));
  }
  return stages;
}

int BackwardChunk(const PipelineItem& item) {
  return item.backward_micro_batch >= 0 ? item.backward_chunk : item.chunk;
}

std::vector<int> LastWeightGrads(const PipelineSchedule& schedule, int device) {
  std::vector<int> last(schedule.num_chunks, -1);
  const std::vector<PipelineItem>& items = schedule.items[device];
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].has_weight_grad()) {
      last[BackwardChunk(items[i])] = static_cast<int>(i);
    }
  }
  return last;
}

std::vector<int> ChunksByEnd(const std::vector<int>& last_weight_grads) {
  std::vector<int> chunks(last_weight_grads.size());
  std::iota(chunks.begin(), chunks.end(), 0);
  std::sort(chunks.begin(), chunks.end(), [&](int a, int b) {
    return last_weight_grads[a] < last_weight_grads[b];
  });
  return chunks;
}

}  // namespace strata
