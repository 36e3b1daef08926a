// How a program's values and operators lie on the device.

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/mesh.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/cuda_executable.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/rank_group.h"
#include "cuda/runtime/status.h"
#include "cuda/runtime/together.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// Results up to this size come with every run; larger ones when asked for.
constexpr int64_t kSmallBytes = 64 << 10;

// Inputs this close to one another are copied at once: they are aligned to it.
constexpr int64_t kInputGap = 64;

template <typename T>
absl::StatusOr<std::unique_ptr<DeviceArray<T>>> CopyToDevice(
    const std::vector<T>& host) {
  ASSIGN_OR_RETURN(DeviceArray<T> array, DeviceArray<T>::CopyOf(host));
  return std::make_unique<DeviceArray<T>>(std::move(array));
}

absl::StatusOr<char*> AllocatePinned(int64_t num_bytes) {
  void* data = nullptr;
  RETURN_IF_ERROR(ToStatus(cudaMallocHost(&data, num_bytes)));
  return static_cast<char*>(data);
}

}  // namespace

absl::Status CudaExecutable::Bind(absl::Span<char* const> address) {
  ASSIGN_OR_RETURN(report_, CopyToDevice(std::vector<Report>(1)));
  for (size_t id = 0; id < address.size(); ++id) {
    const int64_t num_bytes = graph_.value(id).type.max_bytes();
    if (num_bytes == 0) {  // Is somewhere, and never looked at.
      device_.push_back(reinterpret_cast<char*>(report_->data()));
      continue;
    }
    ASSIGN_OR_RETURN(char* const device,
                     backend_.DeviceAddress(address[id], num_bytes));
    device_.push_back(device);
  }
  FindGroups();
  RETURN_IF_ERROR(BindConstants());
  RETURN_IF_ERROR(BindInputs(address));
  RETURN_IF_ERROR(BindResults(address));
  for (const ValueId id : elsewhere_) places_.push_back(device_[id]);
  RETURN_IF_ERROR(BindSteps());
  alone_ =
      absl::c_any_of(steps_, [](const Step& s) { return s.kernels.alone; });
  return lanes_.Open(graph_, beside_, &report_->data()->waits);
}

void CudaExecutable::FindGroups() {
  const Mesh* const mesh = backend_.options().mesh;
  if (mesh == nullptr) return;
  std::set<std::string> names;
  for (const Node& node : graph_.nodes()) {
    if (node.attrs.Has("group")) names.insert(node.attrs.String("group"));
  }
  for (const std::string& name : names) {
    auto* const group = dynamic_cast<RankGroup*>(mesh->Find(name));
    if (group != nullptr) groups_.push_back(group);
  }
}

absl::Status CudaExecutable::BindSteps() {
  if (!steps_.empty() && bound_places_ == places_) return absl::OkStatus();
  steps_.clear();
  together_.clear();
  for (size_t id = 0; id < graph_.nodes().size(); ++id) {
    ASSIGN_OR_RETURN(Step step, BindStep(id));
    steps_.push_back(std::move(step));
  }
  BindTogether();
  bound_places_ = places_;
  return absl::OkStatus();
}

absl::Status CudaExecutable::Move(absl::Span<char* const> address) {
  for (size_t i = 0; i < elsewhere_.size(); ++i) {
    const ValueId id = elsewhere_[i];
    const int64_t num_bytes = graph_.value(id).type.max_bytes();
    if (num_bytes == 0) continue;
    ASSIGN_OR_RETURN(device_[id],
                     backend_.DeviceAddress(address[id], num_bytes));
    places_[i] = device_[id];
  }
  return absl::OkStatus();
}

absl::Status CudaExecutable::BindInputs(absl::Span<char* const> address) {
  char* end = nullptr;
  for (size_t id = 0; id < address.size(); ++id) {
    const Value& value = graph_.value(id);
    if (value.role != Role::kInput || value.type.max_bytes() == 0 ||
        is_left_[id]) {
      continue;
    }
    if (inputs_ == nullptr || address[id] < inputs_) inputs_ = address[id];
    end = std::max(end, address[id] + value.type.max_bytes());
  }
  if (inputs_ == nullptr) return absl::OkStatus();
  input_bytes_ = end - inputs_;
  ASSIGN_OR_RETURN(device_inputs_,
                   backend_.DeviceAddress(inputs_, input_bytes_));
  ASSIGN_OR_RETURN(staged_inputs_, AllocatePinned(input_bytes_));
  BindTakenInputs();
  return absl::OkStatus();
}

void CudaExecutable::BindTakenInputs() {
  taken_inputs_.clear();
  for (size_t id = 0; id < graph_.values().size(); ++id) {
    const Value& value = graph_.value(id);
    const int64_t num_bytes = value.type.max_bytes();
    if (value.role != Role::kInput || num_bytes == 0 || is_left_[id]) continue;
    const int64_t offset = device_[id] - device_inputs_;
    // Inputs are aligned: up to the next there is nothing.
    const int64_t end =
        taken_inputs_.empty()
            ? -1
            : taken_inputs_.back().offset + taken_inputs_.back().num_bytes;
    if (end < 0 || offset < end || offset - end >= kInputGap) {
      taken_inputs_.push_back({offset, num_bytes});
    } else {
      taken_inputs_.back().num_bytes =
          offset + num_bytes - taken_inputs_.back().offset;
    }
  }
}

void CudaExecutable::LeaveInput(ValueId value) {
  CHECK_EQ(num_runs_, 0) << "the program has run";
  if (graph_.value(value).type.max_bytes() == 0) return;
  is_left_[value] = true;
  BindTakenInputs();
}

// The report, all counts, and outputs that are small; but what is elsewhere is
// for other programs, which have it where it is.
absl::Status CudaExecutable::BindResults(absl::Span<char* const> address) {
  std::vector<PackEntry> entries = {{report_->data(), 0, sizeof(Report)}};
  packed_bytes_ = sizeof(Report);
  is_small_.resize(graph_.values().size());
  std::set<ValueId> wanted;
  for (const Value& value : graph_.values()) {
    for (const Dim& dim : value.type.dims) {
      if (dim.ragged()) wanted.insert(dim.count);
    }
  }
  for (const auto& [name, id] : graph_.outputs()) {
    if (graph_.value(id).type.max_bytes() <= kSmallBytes &&
        !absl::c_linear_search(elsewhere_, id)) {
      wanted.insert(id);
    }
  }
  for (const ValueId id : wanted) {
    const int64_t num_bytes = graph_.value(id).type.max_bytes();
    if (num_bytes == 0 || graph_.value(id).role == Role::kInput) continue;
    entries.push_back({device_[id], packed_bytes_, num_bytes});
    small_.push_back({address[id], packed_bytes_, num_bytes});
    is_small_[id] = true;
    packed_bytes_ += (num_bytes + 15) / 16 * 16;
  }
  ASSIGN_OR_RETURN(entries_, CopyToDevice(entries));
  ASSIGN_OR_RETURN(packed_, CopyToDevice(std::vector<char>(packed_bytes_)));
  ASSIGN_OR_RETURN(staged_results_, AllocatePinned(packed_bytes_));
  return absl::OkStatus();
}

// What only parameters enter that no node here updates is made once, until they
// change, in memory of its own: the arena's is used again within a run.
absl::Status CudaExecutable::BindConstants() {
  const size_t num_values = graph_.values().size();
  std::vector<bool> updated(num_values), is_output(num_values);
  for (const Node& node : graph_.nodes()) {
    for (const int i : node.mutates) {
      updated[node.inputs[i]] = true;
      updates_parameters_ |=
          graph_.value(node.inputs[i]).role == Role::kParameter;
    }
  }
  for (const auto& [name, id] : graph_.outputs()) is_output[id] = true;
  const auto is_constant_value = [&](ValueId id) {
    if (id == kNone) return true;
    const Value& value = graph_.value(id);
    return value.role == Role::kParameter ? !updated[id]
                                          : value.role == Role::kActivation &&
                                                is_constant_[value.producer];
  };
  for (const Node& node : graph_.nodes()) {
    // What has no inputs (a fill) costs nothing, and sizes other values.
    is_constant_.push_back(!node.inputs.empty() && node.mutates.empty() &&
                           absl::c_all_of(node.inputs, is_constant_value) &&
                           absl::c_none_of(node.outputs, [&](ValueId id) {
                             return is_output[id];
                           }));
    if (!is_constant_.back()) continue;
    for (const ValueId id : node.outputs) {
      const int64_t num_bytes = graph_.value(id).type.max_bytes();
      if (num_bytes == 0) continue;
      ASSIGN_OR_RETURN(auto memory, DeviceArray<char>::Allocate(num_bytes));
      constants_.push_back(
          std::make_unique<DeviceArray<char>>(std::move(memory)));
      device_[id] = constants_.back()->data();
    }
  }
  return absl::OkStatus();
}

Operand CudaExecutable::OperandOf(ValueId value, NodeId user) const {
  Operand operand;
  if (value == kNone) return operand;
  const ValueType& type = graph_.value(value).type;
  operand.data = device_[value];
  operand.element_size = SizeOf(type.dtype);
  operand.is_integer = type.dtype == DType::kI32 || type.dtype == DType::kU8;
  operand.rank = type.rank();
  for (int i = 0; i < type.rank(); ++i) operand.dims[i] = type.dims[i].bound;
  // A count that the node makes itself is not known before it runs.
  if (!type.dims.empty() && type.dims[0].ragged() &&
      graph_.value(type.dims[0].count).producer != user) {
    operand.count =
        reinterpret_cast<const int32_t*>(device_[type.dims[0].count]);
  }
  return operand;
}

absl::StatusOr<CudaExecutable::Step> CudaExecutable::BindStep(NodeId id) const {
  const Node& node = graph_.node(id);
  Step step;
  step.kernels = backend_.Find(node.op->name);
  step.constant = is_constant_[id];
  const DType dtype = KernelDType(graph_, node);
  if (step.kernels.run == nullptr || dtype == DType::kF64) {
    return absl::UnimplementedError(absl::StrCat(
        ToText(node), ": backend ", backend_.name(), " has no kernel for ",
        node.op->name, " on ", Name(dtype)));
  }
  for (const auto& values :
       {absl::MakeConstSpan(node.inputs), absl::MakeConstSpan(node.outputs)}) {
    for (const ValueId value : values) {
      if (value == kNone || graph_.value(value).type.rank() <= 4) continue;
      return absl::UnimplementedError(
          absl::StrCat(ToText(node), ": rank ", graph_.value(value).type.rank(),
                       "; backend cuda wants at most 4"));
    }
  }
  for (const ValueId v : node.inputs) {
    step.inputs.push_back(OperandOf(v, id));
    step.makers.push_back(v == kNone ? -1 : graph_.value(v).producer);
  }
  for (const ValueId v : node.outputs) step.outputs.push_back(OperandOf(v, id));
  return step;
}

void CudaExecutable::BindTogether() {
  for (const NodesTogether& nodes : FindTogether(graph_)) {
    Together& together = together_[nodes.first];
    together.end = nodes.end;
    for (const std::vector<NodeId>& call : nodes.calls) {
      for (const bool constants : {true, false}) {  // These are made apart.
        Step all;
        NodeId like = kNone;
        for (const NodeId id : call) {
          const Step& step = steps_[id];
          if (step.constant != constants) continue;
          if (like == kNone) {
            like = id;
            all = step;
            continue;
          }
          absl::c_copy(step.inputs, std::back_inserter(all.inputs));
          absl::c_copy(step.outputs, std::back_inserter(all.outputs));
          absl::c_copy(step.makers, std::back_inserter(all.makers));
        }
        if (like == kNone) continue;
        together.like.push_back(like);
        together.calls.push_back(std::move(all));
      }
    }
  }
}

}  // namespace strata::gpu
