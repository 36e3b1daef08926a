// Values that go from the program of one stage to that of another.
//
// Where kernels have memory of their own, large values stay in it, from the
// sender's to the receiver's; only small ones, such as losses and counts, pass
// through the host's copies.

#ifndef TRAINING_PIPELINE_STAGE_MESSAGES_H_
#define TRAINING_PIPELINE_STAGE_MESSAGES_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/parallel/communicator.h"
#include "core/runtime/backend.h"
#include "core/runtime/program_part.h"
#include "core/tensor/tensor.h"
#include "training/pipeline/stage_links.h"
#include "training/step_graph.h"

namespace strata {

// Whether a value is too large for the host's copies, which come with every run
// of a program.
bool IsLarge(const ValueType& type);

// An input in the shape that its counts, which are inputs too, say.
TensorView LiveInput(const ProgramPart& program, absl::string_view name);
// An output as the host has it, or where kernels have it.
TensorView OutputOf(const ProgramPart& program, absl::string_view name);

// What of a tensor of that type a communicator takes.
absl::StatusOr<Payload> PayloadOfTensor(const TensorView& tensor,
                                        const ValueType& type,
                                        Backend& backend);

// Lets ReceiveValues() fill `program`'s inputs of those names. Before its first
// run.
void ExpectValues(const std::vector<StageMessage>& messages,
                  const ProgramPart& program);

// A micro-batch of this rank's stage `chunk`.
struct StageVisit {
  int micro_batch = 0;
  int chunk = 0;
};

// Receives the values of `messages` into `program`'s inputs of those names.
absl::Status ReceiveValues(const std::vector<StageMessage>& messages,
                           const StageLinks& links, const StageVisit& visit,
                           Backend& backend, const ProgramPart& program);
// Sends `program`'s outputs of those names.
absl::Status SendValues(const std::vector<StageMessage>& messages,
                        const StageLinks& links, const StageVisit& visit,
                        Backend& backend, const ProgramPart& program);

}  // namespace strata

#endif  // TRAINING_PIPELINE_STAGE_MESSAGES_H_
