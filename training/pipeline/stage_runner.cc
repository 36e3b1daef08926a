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

Payload PayloadOfTensor(const TensorView& tensor) {
  return {tensor.data, tensor.num_elements(), tensor.dtype};
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

absl::Status ReceiveValues(const std::vector<StageMessage>& messages,
                           Communicator& pp, Program& program) {
  for (const StageMessage& m : messages) {
    RETURN_IF_ERROR(
        pp.Receive(PayloadOfTensor(LiveInput(program, m.value)), m.stage));
  }
  return absl::OkStatus();
}

absl::Status SendValues(const std::vector<StageMessage>& messages,
                        const Program& program, Communicator& pp) {
  for (const StageMessage& m : messages) {
    RETURN_IF_ERROR(pp.Send(PayloadOfTensor(program.Output(m.value)), m.stage));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<StageRunner>> StageRunner::Create(
    const StepGraph& step, PipelineSchedule schedule, Backend& backend,
    StateStore& state, Communicator& pp) {
  CHECK_EQ(schedule.num_devices, pp.size());
  auto runner =
      std::unique_ptr<StageRunner>(new StageRunner(std::move(schedule), pp));
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
  return runner;
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

void StageRunner::Keep(const Program& program,
                       const std::vector<std::string>& outputs, Stash& stash) {
  for (const std::string& name : outputs) {
    KeepOne(name, program.Output(name), stash);
  }
}

void StageRunner::KeepOne(const std::string& name, const TensorView& view,
                          Stash& stash) {
  const char* const data = static_cast<const char*>(view.data);
  stash.bytes[name].assign(data, data + view.num_bytes());
}

void StageRunner::Restore(const Stash& stash, Program& program) {
  for (const auto& [name, bytes] : stash.bytes) {
    if (bytes.empty() || !program.HasInput(name)) continue;
    std::memcpy(program.Input(name).data, bytes.data(), bytes.size());
  }
}

absl::Status StageRunner::Forward(int m, Fill fill, Look look) {
  RETURN_IF_ERROR(fill(m, *forward_));
  RETURN_IF_ERROR(ReceiveValues(received_, pp_, *forward_));
  RETURN_IF_ERROR(forward_->Run());
  RETURN_IF_ERROR(SendValues(sent_, *forward_, pp_));
  Stash& stash = StashOf(m);
  Keep(*forward_, kept_forward_, stash);
  // What other stages sent may be an input of the later programs too.
  for (const StageMessage& message : received_) {
    KeepOne(message.value, LiveInput(*forward_, message.value), stash);
  }
  for (const StageMessage& message : sent_) {
    if (message.grad.empty()) continue;  // Its gradient is of its size.
    stash.bytes[message.grad].resize(
        forward_->Output(message.value).num_bytes());
  }
  look(m, *forward_);
  return absl::OkStatus();
}

absl::Status StageRunner::InputGrad(int m, Fill fill) {
  Stash& stash = StashOf(m);
  for (const StageMessage& message : sent_) {
    if (message.grad.empty()) continue;
    std::vector<char>& bytes = stash.bytes[message.grad];
    const DType dtype = forward_->Output(message.value).dtype;
    const auto count = static_cast<int64_t>(bytes.size()) / SizeOf(dtype);
    RETURN_IF_ERROR(pp_.Receive({bytes.data(), count, dtype}, message.stage));
  }
  RETURN_IF_ERROR(fill(m, *input_grad_));
  Restore(stash, *input_grad_);
  RETURN_IF_ERROR(input_grad_->Run());
  for (const StageMessage& message : received_) {
    if (message.grad.empty()) continue;
    RETURN_IF_ERROR(pp_.Send(PayloadOfTensor(input_grad_->Output(message.grad)),
                             message.stage));
  }
  Keep(*input_grad_, kept_input_grad_, stash);
  return absl::OkStatus();
}

absl::Status StageRunner::WeightGrad(int m, Fill fill) {
  Stash& stash = StashOf(m);
  RETURN_IF_ERROR(fill(m, *weight_grad_));
  Restore(stash, *weight_grad_);
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
