// A recording: the routing trace of a trainer's steps, or of its validation.
//
//   ASSIGN_OR_RETURN(auto recording,
//                    trainer->StartRecording(options, source, weights_hash));
//   RETURN_IF_ERROR(trainer->Step(recording.get()).status());   // many times
//   RETURN_IF_ERROR(recording->Close());

#ifndef TRAINING_ROUTING_RECORDING_H_
#define TRAINING_ROUTING_RECORDING_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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

class RoutingRecording {
 public:
  // Begins the trace. The gates, ranks and has_tokens of `header` are set here.
  //
  // Returns INVALID_ARGUMENT if there are more ranks than `max_tokens`, those
  // of a batch, or if the model has no gate; otherwise the errors of
  // RoutingRecorder::Create.
  static absl::StatusOr<std::unique_ptr<RoutingRecording>> Start(
      const RecordOptions& options, RoutingTraceHeader header, RouterTap tap,
      int64_t max_tokens);

  // Begins the record of a batch ...
  void Begin(int64_t step, int64_t micro_batch);
  // ... says what its sequences are, in order ...
  void AddSequence(int64_t num_tokens, int domain);
  // ... and ends it with what the gates did in `program`'s latest run.
  //
  // Returns the errors of EncodeChoices and RoutingRecorder::Append.
  absl::Status Finish(const Program& program);

  // As of the recorder: until Close() the trace has no end mark.
  absl::Status Flush() { return recorder_.Flush(); }
  absl::Status Close() { return recorder_.Close(); }

  int64_t num_records() const { return recorder_.num_records(); }
  int64_t num_bytes() const { return recorder_.num_bytes(); }

 private:
  RoutingRecording(RouterTap tap, RoutingLayout layout,
                   RoutingRecorder recorder)
      : tap_(std::move(tap)),
        layout_(std::move(layout)),
        recorder_(std::move(recorder)) {}

  RouterTap tap_;
  RoutingLayout layout_;
  RoutingRecorder recorder_;
  RoutingRecord record_;
};

}  // namespace strata

#endif  // TRAINING_ROUTING_RECORDING_H_
