#include "training/pipeline/stage_messages.h"

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/parallel/communicator.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/tensor/tensor.h"
#include "training/pipeline/stage_links.h"
#include "training/step_graph.h"

namespace strata {
namespace {

// A message of that size is the network's latency.
constexpr int64_t kSmallBytes = 4096;

}  // namespace

bool IsLarge(const ValueType& type) { return type.max_bytes() > kSmallBytes; }

TensorView LiveInput(const ProgramPart& program, absl::string_view name) {
  TensorView view = program.Input(name);
  const Dims& dims = program.InputType(name).dims;
  if (dims.empty() || !dims[0].ragged()) return view;
  const Program& whole = program.program();
  const Value& count = whole.graph().value(dims[0].count);
  view.shape[0] = *whole.Input(count.name).as<int32_t>();
  return view;
}

TensorView OutputOf(const ProgramPart& program, absl::string_view name) {
  return IsLarge(program.OutputType(name)) ? program.OutputInPlace(name)
                                           : program.Output(name);
}

absl::StatusOr<Payload> PayloadOfTensor(const TensorView& tensor,
                                        const ValueType& type,
                                        Backend& backend) {
  Payload payload = {tensor.data, tensor.num_elements(), tensor.dtype};
  if (IsLarge(type)) {
    ASSIGN_OR_RETURN(payload.data, backend.KernelAddress(tensor.data));
  }
  return payload;
}

void ExpectValues(const std::vector<StageMessage>& messages,
                  const ProgramPart& program) {
  for (const StageMessage& m : messages) {
    if (IsLarge(program.InputType(m.value))) program.FillInPlace(m.value);
  }
}

absl::Status ReceiveValues(const std::vector<StageMessage>& messages,
                           const StageLinks& links, const StageVisit& visit,
                           Backend& backend, const ProgramPart& program) {
  for (const StageMessage& m : messages) {
    ASSIGN_OR_RETURN(const Payload payload,
                     PayloadOfTensor(LiveInput(program, m.value),
                                     program.InputType(m.value), backend));
    const StageLink link = links.From(m.stage, visit.micro_batch, visit.chunk);
    RETURN_IF_ERROR(link.group->Receive(payload, link.rank));
  }
  return absl::OkStatus();
}

absl::Status SendValues(const std::vector<StageMessage>& messages,
                        const StageLinks& links, const StageVisit& visit,
                        Backend& backend, const ProgramPart& program) {
  for (const StageMessage& m : messages) {
    ASSIGN_OR_RETURN(const Payload payload,
                     PayloadOfTensor(OutputOf(program, m.value),
                                     program.OutputType(m.value), backend));
    const StageLink link = links.To(m.stage, visit.micro_batch, visit.chunk);
    RETURN_IF_ERROR(link.group->Send(payload, link.rank));
  }
  return absl::OkStatus();
}

}  // namespace strata
