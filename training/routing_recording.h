// A recording: the routing trace of a trainer's steps, or of its validation.
//
//   ASSIGN_OR_RETURN(auto recording,
//                    trainer->StartRecording(options, source, weights_hash));
//   RETURN_IF_ERROR(trainer->Step(recording.get()).status());   // many times
//   RETURN_IF_ERROR(recording->Close());
//
// Of ranks that train together each records its micro-batches, and of these the
// gates of its stages; the first one gathers and writes them. The trace is then
// that of one rank, but for roundings.

#ifndef TRAINING_ROUTING_RECORDING_H_
#define TRAINING_ROUTING_RECORDING_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/parallel/mesh.h"
#include "core/runtime/program.h"
#include "core/trace/router_tap.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_recorder.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

struct RecordOptions {
  std::string path;        // Of the trace; empty: nothing is recorded.
  bool overwrite = false;  // Replace a file that is there.
  bool tokens = false;     // Each token's choices too, not only counts.
  int64_t num_ranks = 1;   // Virtual ranks (docs/routing_trace.md).
};

// Reads the gates of one of a rank's stages.
struct StageTap {
  int stage = 0;  // Of the pipeline.
  RouterTap tap;
};

class RoutingRecording {
 public:
  // Begins the trace. The gates, ranks and has_tokens of `header` are set here.
  // `taps`: of this rank's stages, by chunk. `mesh`: null for one rank; of
  // several, all call this, and the mesh must outlive the recording.
  //
  // Returns INVALID_ARGUMENT if there are more ranks than `max_tokens`, those
  // of a batch, or if the model has no gate; otherwise the errors of
  // RoutingRecorder::Create.
  static absl::StatusOr<std::unique_ptr<RoutingRecording>> Start(
      const RecordOptions& options, RoutingTraceHeader header,
      std::vector<StageTap> taps, int64_t max_tokens,
      const Mesh* mesh = nullptr);

  // Begins the record of a batch ...
  void Begin(int64_t step, int64_t micro_batch);
  // ... says what its sequences are, in order ...
  void AddSequence(int64_t num_tokens, int domain);
  // ... and ends it with what the gates of stage `chunk` of this rank did in
  // `program`'s latest run.
  //
  // Returns the errors of EncodeChoices and RoutingRecorder::Append.
  absl::Status Finish(const Program& program, int chunk = 0);

  // Of several ranks, to be called by each when every stage has recorded its
  // batches: the first one writes those of all, by step and micro-batch.
  //
  // Returns the errors of Append there, and of the mesh.
  absl::Status Gather();

  // As of the recorder: until Close() the trace has no end mark. Ranks other
  // than the first have nothing to write.
  absl::Status Flush() {
    return recorder_ ? recorder_->Flush() : absl::OkStatus();
  }
  absl::Status Close() {
    return recorder_ ? recorder_->Close() : absl::OkStatus();
  }

  int64_t num_records() const {
    return recorder_ ? recorder_->num_records() : 0;
  }
  int64_t num_bytes() const { return recorder_ ? recorder_->num_bytes() : 0; }

 private:
  struct Stage {
    int number = 0;
    RouterTap tap;
    std::optional<RoutingLayout> layout;  // None: the stage has no gate.
  };
  // A stage's record of a batch.
  using StageRecord = std::pair<int, RoutingRecord>;

  explicit RoutingRecording(const Mesh* mesh) : mesh_(mesh) {}

  // `records`: of all stages.
  absl::Status Write(std::vector<StageRecord> records);

  const Mesh* const mesh_;
  int num_stages_ = 1;                       // Of the pipeline.
  std::vector<Stage> stages_;                // By chunk.
  std::optional<RoutingRecorder> recorder_;  // The first rank's.
  RoutingRecord record_;
  std::vector<StageRecord> pending_;  // Of several ranks, since Gather().
};

}  // namespace strata

#endif  // TRAINING_ROUTING_RECORDING_H_
