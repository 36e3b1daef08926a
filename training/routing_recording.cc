#include "training/routing_recording.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/runtime/program.h"
#include "core/trace/router_tap.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_recorder.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

absl::StatusOr<std::unique_ptr<RoutingRecording>> RoutingRecording::Start(
    const RecordOptions& options, RoutingTraceHeader header, RouterTap tap,
    int64_t max_tokens) {
  if (options.num_ranks < 1 || options.num_ranks > max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--routing-ranks is ", options.num_ranks, "; want 1 to ",
                     max_tokens, ", the tokens of a batch"));
  }
  header.set_format_version(kRoutingTraceVersion);
  header.set_num_ranks(options.num_ranks);
  tap.AddGates(header);
  const absl::StatusOr<RoutingLayout> layout = RoutingLayout::Create(header);
  if (!layout.ok()) {
    return absl::Status(
        layout.status().code(),
        absl::StrCat("cannot record routing: ", layout.status().message()));
  }
  ASSIGN_OR_RETURN(
      RoutingRecorder recorder,
      RoutingRecorder::Create(options.path, header, options.overwrite));
  return std::unique_ptr<RoutingRecording>(
      new RoutingRecording(std::move(tap), *layout, std::move(recorder)));
}

void RoutingRecording::Begin(int64_t step, int64_t micro_batch) {
  record_.set_step(step);
  record_.set_micro_batch(micro_batch);
  record_.clear_sequence_tokens();
  record_.clear_sequence_domain();
}

void RoutingRecording::AddSequence(int64_t num_tokens, int domain) {
  record_.add_sequence_tokens(num_tokens);
  record_.add_sequence_domain(domain);
}

absl::Status RoutingRecording::Finish(const Program& program) {
  RETURN_IF_ERROR(EncodeChoices(layout_, tap_.Read(program), record_));
  return recorder_.Append(record_);
}

}  // namespace strata
