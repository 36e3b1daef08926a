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
  stage->LayOut(pieces);
  context.memory.Reserve(stage->layout_.num_bytes());
  const auto compile = [&](GraphPiece& piece, Program::Options options) {
    stage->layout_.PlaceIn(piece.graph, /*frame=*/0, /*prefix=*/"", options);
    return Program::Compile(std::move(piece.graph), context.backend,
                            context.state, std::move(options));
  };
  ASSIGN_OR_RETURN(stage->forward_, compile(pieces[0], {}));
  ASSIGN_OR_RETURN(stage->input_grad_, compile(pieces[1], {}));
  ASSIGN_OR_RETURN(stage->weight_grad_, compile(pieces[2], {}));
  if (last != nullptr) {
    ASSIGN_OR_RETURN(std::vector<GraphPiece> with, SplitPhases(last->graph));
    // What it reads is what the others keep.
    CHECK(Names(with[0].exports) == Names(pieces[0].exports));
    CHECK(Names(with[1].exports) == Names(pieces[1].exports));
    Program::Options options;
    options.runs_ahead = true;
    ASSIGN_OR_RETURN(stage->last_weight_grad_, compile(with[2], options));
  }
  return stage;
}

void Stage::LayOut(const std::vector<GraphPiece>& pieces) {
  const auto add = [&](const std::string& name, const ValueType& type) {
    if (IsLarge(type)) layout_.Add(name, type);
    return layout_.Has(name);
  };
  const Graph& forward = pieces[0].graph;
  const auto output = [](const Graph& graph, const std::string& name) {
    return graph.value(graph.outputs().at(name));
  };
  const auto keep = [&](const GraphPiece& piece,
                        std::vector<std::string>& small) {
    for (const std::string& name : Names(piece.exports)) {
      if (!add(name, output(piece.graph, name).type)) small.push_back(name);
    }
  };
  keep(pieces[0], kept_forward_);
  keep(pieces[1], kept_input_grad_);
  for (const StageMessage& m : received_) {
    add(m.value, forward.value(forward.FindSource(m.value)).type);
  }
  for (const StageMessage& m : sent_) {
    // A gradient is of its value's size.
    if (!m.grad.empty()) add(m.grad, output(forward, m.value).type);
  }
}

absl::Status Stage::Prepare() {
  ASSIGN_OR_RETURN(std::unique_ptr<Memory> frame, memory_.Take());
  for (Program* const program : programs()) {
    RETURN_IF_ERROR(program->UseFrames({frame->data()}));
  }
  memory_.GiveBack(std::move(frame));
  return absl::OkStatus();
}

absl::StatusOr<char*> Stage::FrameOf(int m) {
  ASSIGN_OR_RETURN(Stash* const stash, stashes_.Of(m));
  return stash->frame->data();
}

std::vector<Program*> Stage::programs() const {
  std::vector<Program*> all = {forward_.get(), input_grad_.get(),
                               weight_grad_.get()};
  if (last_weight_grad_ != nullptr) all.push_back(last_weight_grad_.get());
  return all;
}

double Stage::MicroBatchFlops() const {
  double flops = 0;
  for (const Program* const program :
       {forward_.get(), input_grad_.get(), weight_grad_.get()}) {
    flops += CostOf(program->graph(), program->LiveBinding()).flops;
  }
  return flops;
}

void Stage::Keep(const ProgramPart& program,
                 const std::vector<std::string>& outputs, Stash& stash) {
  for (const std::string& name : outputs) {
    KeepOne(name, program.Output(name), stash);
  }
}

void Stage::KeepOne(const std::string& name, const TensorView& view,
                    Stash& stash) {
  const char* const data = static_cast<const char*>(view.data);
  stash.small[name].assign(data, data + view.num_bytes());
}

void Stage::Restore(const Stash& stash, const ProgramPart& program) {
  for (const auto& [name, bytes] : stash.small) {
    if (bytes.empty() || !program.HasInput(name)) continue;
    std::memcpy(program.Input(name).data, bytes.data(), bytes.size());
  }
}

absl::Status Stage::BeforeForward(int m, Fill fill, const ProgramPart& part) {
  RETURN_IF_ERROR(fill(m, part));
  return ReceiveValues(received_, links_, {m, chunk_}, backend_, part);
}

absl::Status Stage::AfterForward(int m, const ProgramPart& part) {
  RETURN_IF_ERROR(SendValues(sent_, links_, {m, chunk_}, backend_, part));
  ASSIGN_OR_RETURN(Stash* const stash, stashes_.Of(m));
  Keep(part, kept_forward_, *stash);
  // What other stages sent may be an input of the later programs too.
  for (const StageMessage& message : received_) {
    if (layout_.Has(message.value)) continue;
    KeepOne(message.value, LiveInput(part, message.value), *stash);
  }
  for (const StageMessage& message : sent_) {
    if (message.grad.empty()) continue;  // Its gradient is of its size.
    const int64_t num_bytes = part.OutputInPlace(message.value).num_bytes();
    stash->num_bytes[message.grad] = num_bytes;
    if (!layout_.Has(message.grad))
      stash->small[message.grad].resize(num_bytes);
  }
  return absl::OkStatus();
}

absl::Status Stage::Forward(int m, Fill fill) {
  ASSIGN_OR_RETURN(char* const frame, FrameOf(m));
  RETURN_IF_ERROR(forward_->UseFrames({frame}));
  RETURN_IF_ERROR(BeforeForward(m, fill, *forward_));
  RETURN_IF_ERROR(forward_->Run());
  return AfterForward(m, *forward_);
}

absl::Status Stage::ReceiveGrads(int m, Stash& stash) {
  for (const StageMessage& message : sent_) {
    if (message.grad.empty()) continue;
    const DType dtype = ProgramPart(*forward_).OutputType(message.value).dtype;
    Payload payload = {nullptr,
                       stash.num_bytes.at(message.grad) / SizeOf(dtype), dtype};
    if (layout_.Has(message.grad)) {
      ASSIGN_OR_RETURN(payload.data,
                       backend_.KernelAddress(stash.frame->data() +
                                              layout_.Offset(message.grad)));
    } else {
      payload.data = stash.small.at(message.grad).data();
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
  ASSIGN_OR_RETURN(Stash* const stash, stashes_.Of(m));
  RETURN_IF_ERROR(ReceiveGrads(m, *stash));
  RETURN_IF_ERROR(input_grad_->UseFrames({stash->frame->data()}));
  RETURN_IF_ERROR(fill(m, *input_grad_));
  Restore(*stash, *input_grad_);
  RETURN_IF_ERROR(input_grad_->Run());
  RETURN_IF_ERROR(SendGrads(m, *input_grad_));
  Keep(*input_grad_, kept_input_grad_, *stash);
  return absl::OkStatus();
}

absl::Status Stage::WeightGrad(int m, bool keep, bool is_last, Fill fill) {
  const bool sums = is_last && last_weight_grad_ != nullptr;
  Program& program = sums ? *last_weight_grad_ : *weight_grad_;
  ASSIGN_OR_RETURN(Stash* const stash, stashes_.Of(m));
  RETURN_IF_ERROR(program.UseFrames({stash->frame->data()}));
  RETURN_IF_ERROR(fill(m, program));
  Restore(*stash, program);
  SetScalar(program, "keep", keep ? 1 : 0);
  RETURN_IF_ERROR(sums ? program.RunAhead() : program.Run());
  stashes_.Free(*stash);
  return absl::OkStatus();
}

absl::Status Stage::BeforeGrads(int m, Fill fill, const ProgramPart& part) {
  ASSIGN_OR_RETURN(Stash* const stash, stashes_.Of(m));
  RETURN_IF_ERROR(ReceiveGrads(m, *stash));
  RETURN_IF_ERROR(fill(m, part));
  Restore(*stash, part);
  SetScalar(part, "keep", 1);
  return absl::OkStatus();
}

absl::Status Stage::AfterGrads(int m, const ProgramPart& part) {
  RETURN_IF_ERROR(SendGrads(m, part));
  ASSIGN_OR_RETURN(Stash* const stash, stashes_.Of(m));
  stashes_.Free(*stash);
  return absl::OkStatus();
}

absl::Status Stage::Finish() {
  return last_weight_grad_ != nullptr ? last_weight_grad_->Finish()
                                      : absl::OkStatus();
}

}  // namespace strata
