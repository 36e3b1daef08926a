#include "core/runtime/program.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
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
#include "core/passes/narrow_weights.h"
#include "core/passes/plan_beside.h"
#include "core/passes/plan_memory.h"
#include "core/passes/quantize_weights.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"
#include "core/quant/packed_rows.h"
#include "core/runtime/backend.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/state_store.h"

namespace strata {
namespace {

constexpr int64_t kAlignment = 64;

// The parameters that `graph` wants in F32 and `state` holds in BF16.
std::set<std::string> StoredNarrow(const Graph& graph,
                                   const StateStore& state) {
  std::set<std::string> names;
  for (const Value& value : graph.values()) {
    if (value.role == Role::kParameter && value.type.dtype == DType::kF32 &&
        state.Has(value.name) && state.Peek(value.name).dtype == DType::kBF16) {
      names.insert(value.name);
    }
  }
  return names;
}

// Those that `state` holds in integers, with their formats.
absl::StatusOr<std::map<std::string, QuantFormat>> StoredPacked(
    const Graph& graph, const StateStore& state) {
  std::map<std::string, QuantFormat> formats;
  for (const Value& value : graph.values()) {
    if (value.role != Role::kParameter || value.type.dtype != DType::kF32 ||
        value.type.rank() < 2 || !state.Has(value.name)) {
      continue;
    }
    const TensorView& here = state.Peek(value.name);
    if (here.dtype != DType::kU8 || here.rank() != value.type.rank()) continue;
    const int64_t columns = value.type.dims.back().bound;
    const std::optional<QuantFormat> format =
        FormatOfRow(here.shape.back(), columns);
    if (!format.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(value.name, " has packed rows of ", here.shape.back(),
                       " bytes, which are ", columns, " columns of no format"));
    }
    formats[value.name] = *format;
  }
  return formats;
}

// Those whose experts `state` holds in formats of their own: their letters lie
// before the rows.
absl::StatusOr<std::map<std::string, ExpertFormats>> StoredMixed(
    const Graph& graph, const StateStore& state) {
  std::map<std::string, ExpertFormats> mixed;
  for (const Value& value : graph.values()) {
    if (value.role != Role::kParameter || value.type.dtype != DType::kF32 ||
        value.type.rank() != 3 || !state.Has(value.name)) {
      continue;
    }
    const TensorView& here = state.Peek(value.name);
    if (here.dtype != DType::kU8 || here.rank() != 1) continue;
    const int64_t experts = value.type.dims[0].bound;
    std::optional<ExpertFormats> formats;
    if (here.dim(0) >= LetterBytes(experts)) {
      formats = FormatsOfLetters(absl::string_view(
          reinterpret_cast<const char*>(state.Get(value.name).as<uint8_t>()),
          static_cast<size_t>(experts)));
    }
    if (!formats.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(value.name, " does not say the formats of its ", experts,
                       " experts"));
    }
    mixed[value.name] = *std::move(formats);
  }
  return mixed;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Program>> Program::Compile(Graph graph,
                                                          Backend& backend,
                                                          StateStore& state) {
  return Compile(std::move(graph), backend, state, Options());
}

absl::StatusOr<std::unique_ptr<Program>> Program::Compile(Graph graph,
                                                          Backend& backend,
                                                          StateStore& state,
                                                          Options options) {
  RETURN_IF_ERROR(Verify(graph));
  if (const std::set<std::string> names = StoredNarrow(graph, state);
      !names.empty()) {
    const std::set<std::string> narrowable = NarrowableWeights(graph);
    for (const std::string& name : names) {
      if (narrowable.count(name) > 0) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          name, " is BF16; the graph has an operator that wants it in F32"));
    }
    graph = NarrowWeights(graph, names);
  }
  ASSIGN_OR_RETURN(const auto packed, StoredPacked(graph, state));
  ASSIGN_OR_RETURN(const auto mixed, StoredMixed(graph, state));
  if (!packed.empty() || !mixed.empty()) {
    ASSIGN_OR_RETURN(graph, QuantizeWeights(graph, packed, mixed));
  }
  RETURN_IF_ERROR(state.Declare(graph));
  auto program =
      std::unique_ptr<Program>(new Program(std::move(graph), backend, state));
  RETURN_IF_ERROR(program->Bind(options));
  return program;
}

void Program::FindFramed(const Options& options) {
  is_framed_.resize(graph_.values().size());
  const auto add = [&](ValueId id, const FramePlace& place) {
    CHECK(!is_framed_[id]) << graph_.value(id).name << " is in frames twice";
    is_framed_[id] = true;
    framed_.emplace_back(id, place);
  };
  for (const auto& [name, place] : options.in_frames) {
    if (const auto it = graph_.outputs().find(name);
        it != graph_.outputs().end() &&
        graph_.value(it->second).role == Role::kActivation) {
      add(it->second, place);
    }
    const ValueId source = graph_.FindSource(name);
    if (source != kNone && graph_.value(source).role == Role::kInput) {
      add(source, place);
    }
  }
  for (const Value& value : graph_.values()) {
    for (const Dim& dim : value.type.dims) {
      CHECK(!dim.ragged() || !is_framed_[dim.count]) << "a count in a frame";
    }
  }
}

absl::Status Program::Bind(const Options& options) {
  runs_ahead_ = options.runs_ahead;
  beside_ = PlanBeside(
      graph_, [&](const Node& node) { return backend_.RunsBeside(node); },
      !runs_ahead_);
  beside_.together = backend_.RunsTogether(graph_);
  FindFramed(options);
  plan_ = PlanMemory(graph_, options.reuse_memory, beside_, is_framed_);
  absl::StatusOr<std::unique_ptr<Memory>> arena =
      backend_.Allocate(plan_.arena_bytes);
  if (!arena.ok()) {
    return absl::Status(
        arena.status().code(),
        absl::StrCat("activations (", plan_.ToString(), "), beside ",
                     state_.num_bytes() >> 20, " MiB of parameters and state: ",
                     arena.status().message()));
  }
  arena_ = *std::move(arena);
  int64_t input_bytes = 0;
  for (size_t id = 0; id < graph_.values().size(); ++id) {
    const Value& value = graph_.value(id);
    if (value.role != Role::kInput || is_framed_[id]) continue;
    input_bytes +=
        (value.type.max_bytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  ASSIGN_OR_RETURN(inputs_memory_, backend_.Allocate(input_bytes));
  num_bytes_ = plan_.arena_bytes + input_bytes;

  int64_t offset = 0;
  for (size_t id = 0; id < graph_.values().size(); ++id) {
    const Value& value = graph_.value(id);
    if (is_framed_[id]) {
      address_.push_back(nullptr);  // Until UseFrames().
      if (value.role == Role::kInput) inputs_[value.name] = ViewOf(id);
      continue;
    }
    switch (value.role) {
      case Role::kActivation:
        address_.push_back(arena_->data() + plan_.offset[id]);
        break;
      case Role::kInput:
        address_.push_back(inputs_memory_->data() + offset);
        inputs_[value.name] = ViewOf(id);
        offset +=
            (value.type.max_bytes() + kAlignment - 1) / kAlignment * kAlignment;
        break;
      case Role::kParameter:
      case Role::kState:
        address_.push_back(static_cast<char*>(state_.Peek(value.name).data));
        break;
    }
  }
  return framed_.empty() ? Resolve() : absl::OkStatus();
}

absl::Status Program::Resolve() {
  ASSIGN_OR_RETURN(
      executable_,
      backend_.Compile(graph_, {address_, is_framed_, beside_, runs_ahead_}));
  if (executable_ != nullptr) {
    for (const ValueId id : left_) executable_->LeaveInput(id);
    return absl::OkStatus();
  }
  for (size_t id = 0; id < graph_.nodes().size(); ++id) {
    RETURN_IF_ERROR(AddStep(id));
  }
  for (size_t id = 0; id < steps_.size(); ++id) {
    steps_[id].beside = beside_.steps[id].beside;
    steps_[id].waits_for = beside_.steps[id].waits_for;
  }
  under_way_.reserve(steps_.size());
  return absl::OkStatus();
}

absl::Status Program::UseFrames(absl::Span<char* const> frames) {
  for (const auto& [id, place] : framed_) {
    address_[id] = frames[place.frame] + place.offset;
    const Value& value = graph_.value(id);
    if (value.role == Role::kInput) inputs_[value.name].data = address_[id];
  }
  if (executable_ != nullptr) return executable_->Move(address_);
  if (steps_.empty()) return Resolve();
  for (const auto& [tensor, value] : framed_tensors_) {
    tensors_[tensor].data = address_[value];
  }
  return absl::OkStatus();
}

TensorView Program::ViewOf(ValueId id) const {
  const ValueType& type = graph_.value(id).type;
  TensorView view;
  view.dtype = type.dtype;
  for (const Dim& dim : type.dims) view.shape.push_back(dim.bound);
  view.data = address_[id];
  return view;
}

absl::Status Program::AddStep(NodeId id) {
  const Node& node = graph_.node(id);
  Step step;
  const DType dtype = KernelDType(graph_, node);
  step.kernel = backend_.FindKernel(node.op->name, dtype);
  if (step.kernel == nullptr) {
    return absl::UnimplementedError(absl::StrCat(
        ToText(node), ": backend ", backend_.name(), " has no kernel for ",
        node.op->name, " on ", Name(dtype)));
  }
  const auto add = [&](ValueId value) {
    const int index = static_cast<int>(tensors_.size());
    if (value == kNone) {
      tensors_.emplace_back();
      return;
    }
    tensors_.push_back(ViewOf(value));
    if (is_framed_[value]) framed_tensors_.emplace_back(index, value);
    const Dims& dims = graph_.value(value).type.dims;
    if (dims.empty() || !dims[0].ragged()) return;
    // A count that this node makes itself is not known before it runs.
    if (graph_.value(dims[0].count).producer == id) return;
    step.patches.push_back(
        {index, reinterpret_cast<const int32_t*>(address_[dims[0].count])});
  };
  step.first_input = static_cast<int>(tensors_.size());
  step.num_inputs = static_cast<int>(node.inputs.size());
  for (const ValueId input : node.inputs) add(input);
  step.first_output = static_cast<int>(tensors_.size());
  step.num_outputs = static_cast<int>(node.outputs.size());
  for (const ValueId output : node.outputs) add(output);
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

const TensorView& Program::Input(absl::string_view name) const {
  const auto it = inputs_.find(name);
  CHECK(it != inputs_.end()) << "no input called " << std::string(name);
  return it->second;
}

bool Program::HasInput(absl::string_view name) const {
  return inputs_.contains(name);
}

TensorView Program::OutputInPlace(absl::string_view name) const {
  const auto it = graph_.outputs().find(name);
  CHECK(it != graph_.outputs().end())
      << "no output called " << std::string(name);
  TensorView view = ViewOf(it->second);
  const Dims& dims = graph_.value(it->second).type.dims;
  if (!dims.empty() && dims[0].ragged()) {
    view.shape[0] = *reinterpret_cast<const int32_t*>(address_[dims[0].count]);
  }
  return view;
}

TensorView Program::Output(absl::string_view name) const {
  const TensorView view = OutputInPlace(name);
  if (executable_ != nullptr) {
    const absl::Status status =
        executable_->Fetch(graph_.outputs().at(name), view);
    CHECK(status.ok()) << std::string(name) << ": " << status.ToString();
  }
  return view;
}

void Program::FillInPlace(absl::string_view input) {
  CHECK(HasInput(input)) << "no input called " << std::string(input);
  const ValueId id = graph_.FindSource(input);
  if (is_framed_[id]) return;
  left_.push_back(id);
  if (executable_ != nullptr) executable_->LeaveInput(id);
}

absl::Status Program::Run() { return RunSteps(/*checked=*/false); }

absl::Status Program::RunAhead() {
  return RunSteps(/*checked=*/false, /*ahead=*/true);
}

absl::Status Program::Finish() {
  return executable_ != nullptr ? executable_->Finish() : JoinAll();
}

absl::Status Program::RunChecked() { return RunSteps(/*checked=*/true); }

absl::Status Program::RunExecutable(bool checked, bool ahead) {
  RETURN_IF_ERROR(state_.Publish());
  Executable::Options options;
  options.checked = checked;
  std::vector<double> seconds(profile_ ? graph_.nodes().size() : 0);
  if (profile_) options.seconds = seconds.data();
  RETURN_IF_ERROR(executable_->Run(options));
  for (size_t id = 0; id < seconds.size(); ++id) {
    times_[id].seconds += seconds[id];
    times_[id].runs += 1;
    times_[id].flops += CostOf(graph_, graph_.node(id), LiveBinding()).flops;
  }
  return ahead ? absl::OkStatus() : executable_->Finish();
}

absl::Status Program::Join(absl::Span<const NodeId> steps) {
  absl::Status first;
  for (const NodeId id : steps) {
    const auto it = std::find(under_way_.begin(), under_way_.end(), id);
    if (it == under_way_.end()) continue;  // It ran in its place.
    under_way_.erase(it);
    const Node& node = graph_.node(id);
    const absl::Status status = backend_.Join(node);
    if (status.ok()) continue;
    first.Update(absl::Status(
        status.code(), absl::StrCat(ToText(node), ": ", status.message())));
  }
  return first;
}

absl::Status Program::JoinAll() {
  absl::Status first;
  while (!under_way_.empty()) first.Update(Join({under_way_.front()}));
  return first;
}

absl::Status Program::JoinValues() {
  absl::Status first;
  for (size_t i = 0; i < under_way_.size();) {
    if (graph_.node(under_way_[i]).outputs.empty()) {
      ++i;
    } else {
      first.Update(Join({under_way_[i]}));
    }
  }
  return first;
}

absl::Status Program::RunStep(NodeId id, bool beside) {
  const Step& step = steps_[id];
  const Node& node = graph_.node(id);
  RETURN_IF_ERROR(Join(step.waits_for));
  for (const Patch& patch : step.patches) {
    tensors_[patch.tensor].shape[0] = *patch.count;
  }
  const auto operands = absl::MakeConstSpan(tensors_);
  const auto inputs = operands.subspan(step.first_input, step.num_inputs);
  const auto outputs = operands.subspan(step.first_output, step.num_outputs);
  if (beside) {
    backend_.Begin(step.kernel, node, inputs, outputs);
    under_way_.push_back(id);
    return absl::OkStatus();
  }
  const absl::Status status = backend_.Run(step.kernel, node, inputs, outputs);
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(ToText(node), ": ", status.message()));
}

absl::Status Program::RunSteps(bool checked, bool ahead) {
  if (executable_ != nullptr) return RunExecutable(checked, ahead);
  CHECK(under_way_.empty()) << "a run was not finished";
  using Clock = std::chrono::steady_clock;
  // A time an operator, and a look at its result, want it done.
  const bool one_by_one = profile_ || checked;
  for (size_t id = 0; id < steps_.size(); ++id) {
    const Clock::time_point start =
        profile_ ? Clock::now() : Clock::time_point();
    const absl::Status status =
        RunStep(static_cast<NodeId>(id), steps_[id].beside && !one_by_one);
    if (!status.ok()) {
      // What is under way reads the program's memory. Its errors follow from
      // this one, or are as good.
      JoinAll().IgnoreError();
      return status;
    }
    if (profile_) {
      OpTime& time = times_[id];
      time.seconds +=
          std::chrono::duration<double>(Clock::now() - start).count();
      time.runs += 1;
      time.flops += CostOf(graph_, graph_.node(id), LiveBinding()).flops;
    }
    if (checked) RETURN_IF_ERROR(CheckFinite(id));
  }
  return ahead ? JoinValues() : JoinAll();
}

absl::Status Program::CheckFinite(NodeId id) const {
  const Step& step = steps_[id];
  const Node& node = graph_.node(id);
  const auto check = [&](const TensorView& view,
                         absl::string_view what) -> absl::Status {
    if (view.dtype != DType::kF32 && view.dtype != DType::kF64) {
      return absl::OkStatus();
    }
    for (int64_t i = 0; i < view.num_elements(); ++i) {
      const double x = view.dtype == DType::kF32
                           ? static_cast<const float*>(view.data)[i]
                           : static_cast<const double*>(view.data)[i];
      if (std::isfinite(x)) continue;
      return absl::OutOfRangeError(absl::StrCat(
          ToText(node), " (", Name(node.phase), ") made ", x, " at element ", i,
          " of its ", what, " ", ToString(view.shape)));
    }
    return absl::OkStatus();
  };
  for (int i = 0; i < step.num_outputs; ++i) {
    const Dims& dims = graph_.value(node.outputs[i]).type.dims;
    TensorView view = tensors_[step.first_output + i];
    if (!dims.empty() && dims[0].ragged()) {
      view.shape[0] =
          *reinterpret_cast<const int32_t*>(address_[dims[0].count]);
    }
    RETURN_IF_ERROR(check(view, "output"));
  }
  for (const int i : node.mutates) {
    RETURN_IF_ERROR(check(tensors_[step.first_input + i],
                          graph_.value(node.inputs[i]).name));
  }
  return absl::OkStatus();
}

Binding Program::LiveBinding() const {
  return [this](ValueId count, int64_t bound) {
    return static_cast<double>(
        *reinterpret_cast<const int32_t*>(address_[count]));
  };
}

void Program::EnableProfile() {
  profile_ = true;
  times_.assign(graph_.nodes().size(), {});
}

std::vector<Program::OpTime> Program::Profile() const {
  std::map<std::string, OpTime> by_op;
  for (size_t id = 0; id < times_.size(); ++id) {
    const std::string op(graph_.node(id).op->name);
    OpTime& sum = by_op[op];
    sum.op = op;
    sum.seconds += times_[id].seconds;
    sum.runs += times_[id].runs;
    sum.flops += times_[id].flops;
  }
  std::vector<OpTime> result;
  for (auto& [op, time] : by_op) result.push_back(time);
  std::sort(result.begin(), result.end(), [](const OpTime& a, const OpTime& b) {
    return a.seconds > b.seconds;
  });
  return result;
}

}  // namespace strata
