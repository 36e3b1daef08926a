// A replay: fills a program's choices from a routing trace that was recorded
// with tokens.
//
//   graph built with RouteSource::kReplay (core/model/gate.h)
//   ASSIGN_OR_RETURN(auto replay, RoutingReplay::Open(path, run, routers));
//   before each run of the program:
//     replay->Begin(step, micro_batch);
//     replay->AddSequence(num_tokens, domain);          each of the batch
//     RETURN_IF_ERROR(replay->Feed(*program));
//
// Experts and exits are the trace's; what a choice weighs the model computes
// itself, from the weights that it has. A trace is an untrusted file: whatever
// it holds, the program gets choices that its graph can run, or none.

#ifndef CORE_TRACE_ROUTING_REPLAY_H_
#define CORE_TRACE_ROUTING_REPLAY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/moe.h"
#include "core/runtime/program.h"
#include "core/trace/routing_reader.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

class RoutingReplay {
 public:
  // `run` is the header that a recording of the run would have: who records,
  // model, data, seed.
  //
  // Returns INVALID_ARGUMENT, naming the file, if the trace has no tokens, is
  // not of `run`'s model and data, or was recorded by another command; in
  // training also if the seed, and so the order of the data, is another.
  // Otherwise the errors of RoutingReader::Open.
  static absl::StatusOr<std::unique_ptr<RoutingReplay>> Open(
      const std::string& path, const RoutingTraceHeader& run,
      const std::vector<RouterValues>& routers);

  // Goes back to the first record.
  //
  // Returns the errors of RoutingReader::Open.
  absl::Status Rewind();

  // Says which batch comes, and what its sequences are, in order.
  void Begin(int64_t step, int64_t micro_batch);
  void AddSequence(int64_t num_tokens, int domain);

  // Fills the choices of that batch into the inputs of `program`. Records of
  // earlier batches are passed over, so that a run which goes on from a
  // checkpoint finds its place.
  //
  // Returns OUT_OF_RANGE if the trace ends before the batch, INVALID_ARGUMENT
  // if it has no record of the batch, or one of other sequences, DATA_LOSS if
  // it is damaged; each names the file and the record.
  absl::Status Feed(Program& program);

 private:
  // Names of inputs, made once.
  struct Gate {
    std::string expert;
    std::string stay;
  };

  RoutingReplay(std::string path, RoutingReader reader)
      : path_(std::move(path)), reader_(std::move(reader)) {}

  absl::Status FindRecord();
  absl::Status CheckSequences() const;
  absl::Status FeedGate(int64_t gate, Program& program) const;
  template <typename... Parts>
  absl::Status RecordError(const Parts&... parts) const;

  std::string path_;
  RoutingReader reader_;
  std::vector<Gate> gates_;
  RoutingRecord batch_;   // Which, and its sequences.
  RoutingRecord record_;  // Of the trace.
};

}  // namespace strata

#endif  // CORE_TRACE_ROUTING_REPLAY_H_
