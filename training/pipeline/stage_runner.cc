#include "training/pipeline/stage_runner.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/passes/partition/cut_graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "training/step_graph.h"

namespace strata {
namespace {

// An input in the shape that its counts, which are inputs too, say.
TensorView LiveInput(const Program& program, absl::string_view name) {
  TensorView view = program.Input(name);
  const Graph& graph = program.graph();
  const Dims& dims = graph.value(graph.FindSource(name)).type.dims;
  if (dims.empty() || !dims[0].ragged()) return view;
  const Value& count = graph.value(dims[0].count);
  view.shape[0] = *program.Input(count.name).as<int32_t>();
  return view;
}

// Values up to this size pass through the host's copies, which come with every
// run of a program; a message of that size is the network's latency.
constexpr int64_t kSmallBytes = 4096;

bool IsLarge(const ValueType& type) { return type.max_bytes() > kSmallBytes; }

const ValueType& InputType(const Program& program, absl::string_view name) {
  return program.graph().value(program.graph().FindSource(name)).type;
}

const ValueType& OutputType(const Program& program, absl::string_view name) {
  return program.graph().value(program.graph().outputs().at(name)).type;
}

// An output as the host has it, or where kernels have it.
TensorView OutputOf(const Program& program, absl::string_view name) {
  return IsLarge(OutputType(program, name)) ? program.OutputInPlace(name)
                                            : program.Output(name);
}

// What of the tensor a communicator takes.
absl::StatusOr<Payload> PayloadOfTensor(const TensorView& tensor,
                                        const ValueType& type,
                                        Backend& backend) {
  Payload payload = {tensor.data, tensor.num_elements(), tensor.dtype};
  if (IsLarge(type)) {
    ASSIGN_OR_RETURN(payload.data, backend.KernelAddress(tensor.data));
  }
  return payload;
}

std::vector<std::string> Names(const std::vector<ValueId>& exports) {
  std::vector<std::string> names;
  for (const ValueId id : exports) names.push_back(PieceValueName("phase", id));
  return names;
}

}  // namespace

absl::Status CheckRunnable(const PipelineShape& shape) {
  switch (shape.kind) {
    case PipelineKind::kGPipe:
    case PipelineKind::k1F1B:
    case PipelineKind::kZbH1:
    case PipelineKind::kZb1p:
      return CheckPipelineShape(shape);
    default:
      return absl::UnimplementedError(absl::StrCat(
          "the schedule ", Name(shape.kind),
          " gives a rank several stages; training runs gpipe, 1f1b, zb-h1 and "
          "zb1p so far"));
  }
}

void ExpectValues(const std::vector<StageMessage>& messages, Program& program) {
  for (const StageMessage& m : messages) {
    if (IsLarge(InputType(program, m.value))) program.FillInPlace(m.value);
  }
}

absl::Status ReceiveValues(const std::vector<StageMessage>& messages,
                           Backend& backend, Communicator& pp,
                           Program& program) {
  for (const StageMessage& m : messages) {
    ASSIGN_OR_RETURN(const Payload payload,
                     PayloadOfTensor(LiveInput(program, m.value),
                                     InputType(program, m.value), backend));
    RETURN_IF_ERROR(pp.Receive(payload, m.stage));
  }
  return absl::OkStatus();
}

absl::Status SendValues(const std::vector<StageMessage>& messages,
                        const Program& program, Backend& backend,
                        Communicator& pp) {
  for (const StageMessage& m : messages) {
    ASSIGN_OR_RETURN(const Payload payload,
                     PayloadOfTensor(OutputOf(program, m.value),
                                     OutputType(program, m.value), backend));
    RETURN_IF_ERROR(pp.Send(payload, m.stage));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<StageRunner>> StageRunner::Create(
    const StepGraph& step, PipelineSchedule schedule, Backend& backend,
    StateStore& state, Communicator& pp) {
  CHECK_EQ(schedule.num_devices, pp.size());
  auto runner = std::unique_ptr<StageRunner>(
      new StageRunner(std::move(schedule), backend, pp));
  runner->received_ = step.received;
  runner->sent_ = step.sent;
  ASSIGN_OR_RETURN(std::vector<GraphPiece> pieces, SplitPhases(step.graph));
  runner->kept_forward_ = Names(pieces[0].exports);
  runner->kept_input_grad_ = Names(pieces[1].exports);
  const auto compile = [&](GraphPiece& piece) {
    return Program::Compile(std::move(piece.graph), backend, state);
  };
  ASSIGN_OR_RETURN(runner->forward_, compile(pieces[0]));
  ASSIGN_OR_RETURN(runner->input_grad_, compile(pieces[1]));
  ASSIGN_OR_RETURN(runner->weight_grad_, compile(pieces[2]));
  runner->ExpectKept();
  return runner;
}

// Inputs that come from a stash, or from another stage.
void StageRunner::ExpectKept() {
  ExpectValues(received_, *forward_);
  std::vector<std::string> names = kept_forward_;
  names.insert(names.end(), kept_input_grad_.begin(), kept_input_grad_.end());
  for (const StageMessage& m : received_) names.push_back(m.value);
  for (const StageMessage& m : sent_) {
    if (!m.grad.empty()) names.push_back(m.grad);
  }
  for (Program* const program : {input_grad_.get(), weight_grad_.get()}) {
    for (const std::string& name : names) {
      if (program->HasInput(name) && IsLarge(InputType(*program, name))) {
        program->FillInPlace(name);
      }
    }
  }
}

std::vector<Program*> StageRunner::programs() const {
  return {forward_.get(), input_grad_.get(), weight_grad_.get()};
}

double StageRunner::StepFlops() const {
  double flops = 0;
  for (const Program* const program : programs()) {
    flops += CostOf(program->graph(), program->LiveBinding()).flops;
  }
  return flops * schedule_.num_micro_batches;
}

StageRunner::Stash& StageRunner::StashOf(int micro_batch) {
  Stash* free = nullptr;
  for (const auto& stash : stashes_) {
    if (stash->micro_batch == micro_batch) return *stash;
    if (stash->micro_batch < 0) free = stash.get();
  }
  if (free == nullptr) {
    stashes_.push_back(std::make_unique<Stash>());
    free = stashes_.back().get();
  }
  free->micro_batch = micro_batch;
  return *free;
}

absl::StatusOr<StageRunner::Kept*> StageRunner::RoomFor(const std::string& name,
                                                        const ValueType& type,
                                                        int64_t num_bytes,
                                                        Stash& stash) {
  Kept& kept = stash.values[name];
  kept.num_bytes = num_bytes;
  if (!IsLarge(type)) {
    kept.host.resize(num_bytes);
  } else if (kept.memory == nullptr) {
    ASSIGN_OR_RETURN(kept.memory, backend_.Allocate(type.max_bytes()));
  }
  return &kept;
}

absl::Status StageRunner::Keep(const Program& program,
                               const std::vector<std::string>& outputs,
                               Stash& stash) {
  for (const std::string& name : outputs) {
    RETURN_IF_ERROR(KeepOne(name, OutputType(program, name),
                            OutputOf(program, name), stash));
  }
  return absl::OkStatus();
}

absl::Status StageRunner::KeepOne(const std::string& name,
                                  const ValueType& type, const TensorView& view,
                                  Stash& stash) {
  ASSIGN_OR_RETURN(Kept* const kept,
                   RoomFor(name, type, view.num_bytes(), stash));
  if (kept->memory != nullptr) {
    return backend_.Copy(kept->memory->data(), view.data, kept->num_bytes);
  }
  const char* const data = static_cast<const char*>(view.data);
  kept->host.assign(data, data + view.num_bytes());
  return absl::OkStatus();
}

absl::Status StageRunner::Restore(const Stash& stash, Program& program) {
  for (const auto& [name, kept] : stash.values) {
    if (kept.num_bytes == 0 || !program.HasInput(name)) continue;
    void* const to = program.Input(name).data;
    if (kept.memory != nullptr) {
      RETURN_IF_ERROR(backend_.Copy(to, kept.memory->data(), kept.num_bytes));
    } else {
      std::memcpy(to, kept.host.data(), kept.num_bytes);
    }
  }
  return absl::OkStatus();
}

absl::Status StageRunner::Forward(int m, Fill fill, Look look) {
  RETURN_IF_ERROR(fill(m, *forward_));
  RETURN_IF_ERROR(ReceiveValues(received_, backend_, pp_, *forward_));
  RETURN_IF_ERROR(forward_->Run());
  RETURN_IF_ERROR(SendValues(sent_, *forward_, backend_, pp_));
  Stash& stash = StashOf(m);
  RETURN_IF_ERROR(Keep(*forward_, kept_forward_, stash));
  // What other stages sent may be an input of the later programs too.
  for (const StageMessage& message : received_) {
    RETURN_IF_ERROR(KeepOne(message.value, InputType(*forward_, message.value),
                            LiveInput(*forward_, message.value), stash));
  }
  for (const StageMessage& message : sent_) {
    if (message.grad.empty()) continue;  // Its gradient is of its size.
    const TensorView value = forward_->OutputInPlace(message.value);
    RETURN_IF_ERROR(RoomFor(message.grad, OutputType(*forward_, message.value),
                            value.num_bytes(), stash)
                        .status());
  }
  look(m, *forward_);
  return absl::OkStatus();
}

absl::Status StageRunner::InputGrad(int m, Fill fill) {
  Stash& stash = StashOf(m);
  for (const StageMessage& message : sent_) {
    if (message.grad.empty()) continue;
    Kept& kept = stash.values[message.grad];
    const DType dtype = OutputType(*forward_, message.value).dtype;
    Payload payload = {kept.host.data(), kept.num_bytes / SizeOf(dtype), dtype};
    if (kept.memory != nullptr) {
      ASSIGN_OR_RETURN(payload.data,
                       backend_.KernelAddress(kept.memory->data()));
    }
    RETURN_IF_ERROR(pp_.Receive(payload, message.stage));
  }
  RETURN_IF_ERROR(fill(m, *input_grad_));
  RETURN_IF_ERROR(Restore(stash, *input_grad_));
  RETURN_IF_ERROR(input_grad_->Run());
  for (const StageMessage& message : received_) {
    if (message.grad.empty()) continue;
    ASSIGN_OR_RETURN(
        const Payload payload,
        PayloadOfTensor(OutputOf(*input_grad_, message.grad),
                        OutputType(*input_grad_, message.grad), backend_));
    RETURN_IF_ERROR(pp_.Send(payload, message.stage));
  }
  return Keep(*input_grad_, kept_input_grad_, stash);
}

absl::Status StageRunner::WeightGrad(int m, Fill fill) {
  Stash& stash = StashOf(m);
  RETURN_IF_ERROR(fill(m, *weight_grad_));
  RETURN_IF_ERROR(Restore(stash, *weight_grad_));
  const TensorView& keep = weight_grad_->Input("keep");
  const int32_t value = any_weight_grad_ ? 1 : 0;
  if (keep.dtype == DType::kF64) {
    *keep.as<double>() = value;
  } else {
    *keep.as<float>() = static_cast<float>(value);
  }
  any_weight_grad_ = true;
  RETURN_IF_ERROR(weight_grad_->Run());
  stash.micro_batch = -1;
  return absl::OkStatus();
}

absl::Status StageRunner::Run(Fill fill, Look look) {
  any_weight_grad_ = false;
  for (const auto& stash : stashes_) stash->micro_batch = -1;
  for (const PipelineItem& item : schedule_.items[pp_.rank()]) {
    if (item.has_forward()) {
      RETURN_IF_ERROR(Forward(item.micro_batch, fill, look));
      continue;
    }
    if (item.has_input_grad()) {
      RETURN_IF_ERROR(InputGrad(item.micro_batch, fill));
    }
    if (item.has_weight_grad()) {
      RETURN_IF_ERROR(WeightGrad(item.micro_batch, fill));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
