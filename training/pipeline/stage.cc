#include "training/pipeline/stage.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/passes/partition/cut_graph.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "training/pipeline/stage_links.h"
#include "training/pipeline/stage_messages.h"
#include "training/pipeline/stash.h"
#include "training/program_inputs.h"
#include "training/step_graph.h"

namespace strata {
namespace {

std::vector<std::string> Names(const std::vector<ValueId>& exports) {
  std::vector<std::string> names;
  for (const ValueId id : exports) names.push_back(PieceValueName("phase", id));
  return names;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Stage>> Stage::Create(const StepGraph& step,
                                                     const StepGraph* last,
                                                     int chunk,
                                                     const Context& context) {
  auto stage = std::unique_ptr<Stage>(new Stage(chunk, context));
  stage->received_ = step.received;
  stage->sent_ = step.sent;
  ASSIGN_OR_RETURN(std::vector<GraphPiece> pieces, SplitPhases(step.graph));
  stage->kept_forward_ = Names(pieces[0].exports);
  stage->kept_input_grad_ = Names(pieces[1].exports);
  const auto compile = [&](GraphPiece& piece) {
    return Program::Compile(std::move(piece.graph), context.backend,
                            context.state);
  };
  ASSIGN_OR_RETURN(stage->forward_, compile(pieces[0]));
  ASSIGN_OR_RETURN(stage->input_grad_, compile(pieces[1]));
  ASSIGN_OR_RETURN(stage->weight_grad_, compile(pieces[2]));
  if (last != nullptr) {
    ASSIGN_OR_RETURN(std::vector<GraphPiece> with, SplitPhases(last->graph));
    // What it reads is what the others keep.
    CHECK(Names(with[0].exports) == stage->kept_forward_);
    CHECK(Names(with[1].exports) == stage->kept_input_grad_);
    Program::Options options;
    options.runs_ahead = true;
    ASSIGN_OR_RETURN(stage->last_weight_grad_,
                     Program::Compile(std::move(with[2].graph), context.backend,
                                      context.state, options));
  }
  for (Program* const program : stage->programs()) stage->ExpectKept(*program);
  return stage;
}

std::vector<Program*> Stage::programs() const {
  std::vector<Program*> all = {forward_.get(), input_grad_.get(),
                               weight_grad_.get()};
  if (last_weight_grad_ != nullptr) all.push_back(last_weight_grad_.get());
  return all;
}

void Stage::ExpectKept(const ProgramPart& part) const {
  std::vector<std::string> names = kept_forward_;
  names.insert(names.end(), kept_input_grad_.begin(), kept_input_grad_.end());
  for (const StageMessage& m : received_) names.push_back(m.value);
  for (const StageMessage& m : sent_) {
    if (!m.grad.empty()) names.push_back(m.grad);
  }
  for (const std::string& name : names) {
    if (part.HasInput(name) && IsLarge(part.InputType(name))) {
      part.FillInPlace(name);
    }
  }
}

double Stage::MicroBatchFlops() const {
  double flops = 0;
  for (const Program* const program :
       {forward_.get(), input_grad_.get(), weight_grad_.get()}) {
    flops += CostOf(program->graph(), program->LiveBinding()).flops;
  }
  return flops;
}

absl::Status Stage::Keep(const ProgramPart& program,
                         const std::vector<std::string>& outputs,
                         Stash& stash) {
  for (const std::string& name : outputs) {
    RETURN_IF_ERROR(KeepOne(name, program.OutputType(name),
                            OutputOf(program, name), stash));
  }
  return absl::OkStatus();
}

absl::Status Stage::KeepOne(const std::string& name, const ValueType& type,
                            const TensorView& view, Stash& stash) {
  ASSIGN_OR_RETURN(Kept* const kept,
                   stashes_.RoomFor(name, type, view.num_bytes(), stash));
  if (kept->memory != nullptr) {
    return backend_.Copy(kept->memory->data(), view.data, kept->num_bytes);
  }
  const char* const data = static_cast<const char*>(view.data);
  kept->host.assign(data, data + view.num_bytes());
  return absl::OkStatus();
}

absl::Status Stage::Restore(const Stash& stash, const ProgramPart& program) {
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

absl::Status Stage::BeforeForward(int m, Fill fill, const ProgramPart& part) {
  RETURN_IF_ERROR(fill(m, part));
  return ReceiveValues(received_, links_, {m, chunk_}, backend_, part);
}

absl::Status Stage::AfterForward(int m, const ProgramPart& part) {
  RETURN_IF_ERROR(SendValues(sent_, links_, {m, chunk_}, backend_, part));
  Stash& stash = stashes_.Of(m);
  RETURN_IF_ERROR(Keep(part, kept_forward_, stash));
  // What other stages sent may be an input of the later programs too.
  for (const StageMessage& message : received_) {
    RETURN_IF_ERROR(KeepOne(message.value, part.InputType(message.value),
                            LiveInput(part, message.value), stash));
  }
  for (const StageMessage& message : sent_) {
    if (message.grad.empty()) continue;  // Its gradient is of its size.
    const TensorView value = part.OutputInPlace(message.value);
    RETURN_IF_ERROR(stashes_
                        .RoomFor(message.grad, part.OutputType(message.value),
                                 value.num_bytes(), stash)
                        .status());
  }
  return absl::OkStatus();
}

absl::Status Stage::Forward(int m, Fill fill) {
  RETURN_IF_ERROR(BeforeForward(m, fill, *forward_));
  RETURN_IF_ERROR(forward_->Run());
  return AfterForward(m, *forward_);
}

absl::Status Stage::ReceiveGrads(int m, Stash& stash) {
  for (const StageMessage& message : sent_) {
    if (message.grad.empty()) continue;
    Kept& kept = stash.values[message.grad];
    const DType dtype = ProgramPart(*forward_).OutputType(message.value).dtype;
    Payload payload = {kept.host.data(), kept.num_bytes / SizeOf(dtype), dtype};
    if (kept.memory != nullptr) {
      ASSIGN_OR_RETURN(payload.data,
                       backend_.KernelAddress(kept.memory->data()));
    }
    const StageLink link = links_.From(message.stage, m, chunk_);
    RETURN_IF_ERROR(link.group->Receive(payload, link.rank));
  }
  return absl::OkStatus();
}

absl::Status Stage::SendGrads(int m, const ProgramPart& program) {
  for (const StageMessage& message : received_) {
    if (message.grad.empty()) continue;
    ASSIGN_OR_RETURN(
        const Payload payload,
        PayloadOfTensor(OutputOf(program, message.grad),
                        program.OutputType(message.grad), backend_));
    const StageLink link = links_.To(message.stage, m, chunk_);
    RETURN_IF_ERROR(link.group->Send(payload, link.rank));
  }
  return absl::OkStatus();
}

absl::Status Stage::InputGrad(int m, Fill fill) {
  Stash& stash = stashes_.Of(m);
  RETURN_IF_ERROR(ReceiveGrads(m, stash));
  RETURN_IF_ERROR(fill(m, *input_grad_));
  RETURN_IF_ERROR(Restore(stash, *input_grad_));
  RETURN_IF_ERROR(input_grad_->Run());
  RETURN_IF_ERROR(SendGrads(m, *input_grad_));
  return Keep(*input_grad_, kept_input_grad_, stash);
}

absl::Status Stage::WeightGrad(int m, bool keep, bool is_last, Fill fill) {
  const bool sums = is_last && last_weight_grad_ != nullptr;
  Program& program = sums ? *last_weight_grad_ : *weight_grad_;
  Stash& stash = stashes_.Of(m);
  RETURN_IF_ERROR(fill(m, program));
  RETURN_IF_ERROR(Restore(stash, program));
  SetScalar(program, "keep", keep ? 1 : 0);
  RETURN_IF_ERROR(sums ? program.RunAhead() : program.Run());
  stashes_.Free(stash);
  return absl::OkStatus();
}

absl::Status Stage::BeforeGrads(int m, Fill fill, const ProgramPart& part) {
  Stash& stash = stashes_.Of(m);
  RETURN_IF_ERROR(ReceiveGrads(m, stash));
  RETURN_IF_ERROR(fill(m, part));
  RETURN_IF_ERROR(Restore(stash, part));
  SetScalar(part, "keep", 1);
  return absl::OkStatus();
}

absl::Status Stage::AfterGrads(int m, const ProgramPart& part) {
  RETURN_IF_ERROR(SendGrads(m, part));
  stashes_.Free(stashes_.Of(m));
  return absl::OkStatus();
}

absl::Status Stage::Finish() {
  return last_weight_grad_ != nullptr ? last_weight_grad_->Finish()
                                      : absl::OkStatus();
}

}  // namespace strata
