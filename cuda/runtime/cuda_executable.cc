#include "cuda/runtime/cuda_executable.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/attrs.h"
#include "core/graph/op_def.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/fault_status.h"
#include "cuda/runtime/status.h"
#include "cuda/runtime/together.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// Held while a program runs whose kernels have to be alone, on whichever GPU.
absl::Mutex& AloneMutex() {
  static auto* const mutex = new absl::Mutex;
  return *mutex;
}

// Results up to this size come with every run; larger ones when asked for.
constexpr int64_t kSmallBytes = 64 << 10;

// Inputs this close to one another are copied at once: they are aligned to it.
constexpr int64_t kInputGap = 64;

std::string Describe(const Node& node) {
  return absl::StrCat(node.scope, node.scope.empty() ? "" : "/", node.op->name);
}

absl::Status At(const Node& node, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(Describe(node), ": ", status.message()));
}

class NodeAttributes : public AttributeReader {
 public:
  explicit NodeAttributes(const Attrs& attrs) : attrs_(attrs) {}
  int64_t Int(const char* name) const override { return attrs_.Int(name); }
  double Float(const char* name) const override { return attrs_.Float(name); }
  const char* Text(const char* name) const override {
    return attrs_.String(name).c_str();
  }

 private:
  const Attrs& attrs_;
};

// Only what copies and adds for others, and needs little of the GPU.
bool RunsBeside(const Node& node) {
  return node.op->name == absl::string_view("AllReduce");
}

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

absl::StatusOr<std::unique_ptr<CudaExecutable>> CudaExecutable::Create(
    const Graph& graph, absl::Span<char* const> address,
    const std::vector<bool>& elsewhere, CudaBackend& backend) {
  auto executable =
      std::unique_ptr<CudaExecutable>(new CudaExecutable(graph, backend));
  executable->is_left_ = elsewhere;
  RETURN_IF_ERROR(executable->Bind(address));
  return executable;
}

CudaExecutable::~CudaExecutable() {
  if (captured_ != nullptr) cudaGraphExecDestroy(captured_);
  if (forked_ != nullptr) cudaEventDestroy(forked_);
  if (joined_ != nullptr) cudaEventDestroy(joined_);
  if (side_ != nullptr) cudaStreamDestroy(side_);
  cudaFreeHost(staged_inputs_);
  cudaFreeHost(staged_results_);
}

absl::Status CudaExecutable::Bind(absl::Span<char* const> address) {
  ASSIGN_OR_RETURN(fault_, CopyToDevice(std::vector<Fault>(1)));
  for (size_t id = 0; id < address.size(); ++id) {
    const int64_t num_bytes = graph_.value(id).type.max_bytes();
    if (num_bytes == 0) {  // Is somewhere, and never looked at.
      device_.push_back(reinterpret_cast<char*>(fault_->data()));
      continue;
    }
    ASSIGN_OR_RETURN(char* const device,
                     backend_.DeviceAddress(address[id], num_bytes));
    device_.push_back(device);
  }
  RETURN_IF_ERROR(BindConstants());
  RETURN_IF_ERROR(BindInputs(address));
  RETURN_IF_ERROR(BindResults(address));
  for (size_t id = 0; id < graph_.nodes().size(); ++id) {
    ASSIGN_OR_RETURN(Step step, BindStep(id));
    alone_ |= step.kernels.alone;
    steps_.push_back(std::move(step));
  }
  BindTogether();
  return OpenSide();
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
  CHECK(captured_ == nullptr && num_runs_ == 0) << "the program has run";
  if (graph_.value(value).type.max_bytes() == 0) return;
  is_left_[value] = true;
  BindTakenInputs();
}

// The fault, all counts, and outputs that are small.
absl::Status CudaExecutable::BindResults(absl::Span<char* const> address) {
  std::vector<PackEntry> entries = {{fault_->data(), 0, sizeof(Fault)}};
  packed_bytes_ = sizeof(Fault);
  std::set<ValueId> wanted;
  for (const Value& value : graph_.values()) {
    for (const Dim& dim : value.type.dims) {
      if (dim.ragged()) wanted.insert(dim.count);
    }
  }
  for (const auto& [name, id] : graph_.outputs()) {
    if (graph_.value(id).type.max_bytes() <= kSmallBytes) wanted.insert(id);
  }
  for (const ValueId id : wanted) {
    const int64_t num_bytes = graph_.value(id).type.max_bytes();
    if (num_bytes == 0 || graph_.value(id).role == Role::kInput) continue;
    entries.push_back({device_[id], packed_bytes_, num_bytes});
    small_.push_back({id, address[id], packed_bytes_, num_bytes});
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
  step.beside = RunsBeside(node);
  const DType dtype = KernelDType(graph_, node);
  if (step.kernels.run == nullptr || dtype == DType::kF64) {
    return absl::UnimplementedError(absl::StrCat(
        Describe(node), ": backend ", backend_.name(), " has no kernel for ",
        node.op->name, " on ", Name(dtype)));
  }
  for (const auto& values :
       {absl::MakeConstSpan(node.inputs), absl::MakeConstSpan(node.outputs)}) {
    for (const ValueId value : values) {
      if (value == kNone || graph_.value(value).type.rank() <= 4) continue;
      return absl::UnimplementedError(absl::StrCat(
          Describe(node), ": rank ", graph_.value(value).type.rank(),
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
      together.like.push_back(call[0]);
      Step& step = together.calls.emplace_back(steps_[call[0]]);
      for (size_t i = 1; i < call.size(); ++i) {
        const Step& more = steps_[call[i]];
        step.inputs.insert(step.inputs.end(), more.inputs.begin(),
                           more.inputs.end());
        step.makers.insert(step.makers.end(), more.makers.begin(),
                           more.makers.end());
      }
    }
  }
}

absl::Status CudaExecutable::OpenSide() {
  if (!absl::c_any_of(steps_, [](const Step& s) { return s.beside; })) {
    return absl::OkStatus();
  }
  int least = 0, greatest = 0;
  RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest)));
  RETURN_IF_ERROR(ToStatus(
      cudaStreamCreateWithPriority(&side_, cudaStreamNonBlocking, greatest)));
  for (cudaEvent_t* const event : {&forked_, &joined_}) {
    RETURN_IF_ERROR(
        ToStatus(cudaEventCreateWithFlags(event, cudaEventDisableTiming)));
  }
  return absl::OkStatus();
}

absl::Status CudaExecutable::EnqueueBeside(NodeId id) {
  RETURN_IF_ERROR(ToStatus(cudaEventRecord(forked_, backend_.stream())));
  RETURN_IF_ERROR(ToStatus(cudaStreamWaitEvent(side_, forked_, 0)));
  RETURN_IF_ERROR(EnqueueStep(id, steps_[id].kernels.run, side_));
  const Node& node = graph_.node(id);
  beside_.insert(node.inputs.begin(), node.inputs.end());
  return absl::OkStatus();
}

absl::Status CudaExecutable::JoinBefore(NodeId id) {
  const auto is_beside = [&](ValueId value) {
    return beside_.count(value) > 0;
  };
  if (beside_.empty() ||
      (id >= 0 && absl::c_none_of(graph_.node(id).inputs, is_beside))) {
    return absl::OkStatus();
  }
  beside_.clear();
  RETURN_IF_ERROR(ToStatus(cudaEventRecord(joined_, side_)));
  return ToStatus(cudaStreamWaitEvent(backend_.stream(), joined_, 0));
}

absl::Status CudaExecutable::EnqueueTogether(NodeId first,
                                             const Together& together) {
  for (NodeId id = first; id < together.end; ++id) {
    RETURN_IF_ERROR(JoinBefore(id));
  }
  for (size_t i = 0; i < together.calls.size(); ++i) {
    const Step& call = together.calls[i];
    RETURN_IF_ERROR(EnqueueCall(together.like[i], call, call.kernels.run,
                                backend_.stream()));
  }
  return absl::OkStatus();
}

absl::Status CudaExecutable::EnqueueCall(NodeId id, const Step& step,
                                         Kernel kernel, cudaStream_t stream) {
  const Node& node = graph_.node(id);
  const NodeAttributes attrs(node.attrs);
  KernelContext ctx;
  ctx.inputs = step.inputs.data();
  ctx.num_inputs = static_cast<int>(step.inputs.size());
  ctx.outputs = step.outputs.data();
  ctx.num_outputs = static_cast<int>(step.outputs.size());
  ctx.attrs = &attrs;
  ctx.scratch = &scratch_;
  ctx.stream = stream;
  ctx.blas = backend_.blas();
  ctx.precision = backend_.options().precision;
  ctx.fault = {fault_->data(), id};
  ctx.mesh = backend_.options().mesh;
  scratch_.Begin(id, step.makers);
  const cudaError_t error = kernel(ctx);
  if (error == cudaSuccess) return absl::OkStatus();
  if (ctx.complaint != nullptr) {
    return At(node, error == cudaErrorNotSupported
                        ? absl::UnimplementedError(ctx.complaint)
                        : absl::InternalError(ctx.complaint));
  }
  return At(node, ToStatus(error));
}

absl::Status CudaExecutable::EnqueueSteps(Part part, const Options* options) {
  using Clock = std::chrono::steady_clock;
  for (size_t id = 0; id < steps_.size(); ++id) {
    const Step& step = steps_[id];
    // Node by node an error has a name, and a time an operator.
    const auto several = together_.find(static_cast<NodeId>(id));
    if (options == nullptr && several != together_.end()) {
      id = several->second.end - 1;
      if (part == Part::kConstants) continue;
      RETURN_IF_ERROR(EnqueueTogether(several->first, several->second));
      continue;
    }
    const Clock::time_point start =
        options != nullptr ? Clock::now() : Clock::time_point();
    if (part != Part::kRest && step.kernels.prepare != nullptr) {
      RETURN_IF_ERROR(EnqueueStep(id, step.kernels.prepare, backend_.stream()));
    }
    if (part == Part::kAll || step.constant == (part == Part::kConstants)) {
      if (step.beside && options == nullptr) {
        RETURN_IF_ERROR(EnqueueBeside(id));
      } else {
        RETURN_IF_ERROR(JoinBefore(id));
        RETURN_IF_ERROR(EnqueueStep(id, step.kernels.run, backend_.stream()));
      }
    }
    if (options == nullptr) continue;
    RETURN_IF_ERROR(At(graph_.node(id),
                       ToStatus(cudaStreamSynchronize(backend_.stream()))));
    if (options->seconds != nullptr) {
      options->seconds[id] +=
          std::chrono::duration<double>(Clock::now() - start).count();
    }
    // Nothing runs: what this operator wanted becomes part of the one block.
    RETURN_IF_ERROR(At(graph_.node(id), ToStatus(scratch_.Consolidate())));
    if (options->checked) RETURN_IF_ERROR(CheckFinite(id));
  }
  return JoinBefore(/*id=*/-1);
}

absl::Status CudaExecutable::Enqueue(Part part, const Options* options) {
  const cudaStream_t stream = backend_.stream();
  for (const Range& taken : taken_inputs_) {
    RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(
        device_inputs_ + taken.offset, staged_inputs_ + taken.offset,
        taken.num_bytes, cudaMemcpyHostToDevice, stream)));
  }
  RETURN_IF_ERROR(
      ToStatus(cudaMemsetAsync(fault_->data(), 0, sizeof(Fault), stream)));
  if (options != nullptr) {
    if (backend_.options().poison) RETURN_IF_ERROR(Poison());
    RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream)));
  }
  RETURN_IF_ERROR(EnqueueSteps(part, options));
  RETURN_IF_ERROR(
      ToStatus(Pack(entries_->data(), static_cast<int>(entries_->size()),
                    packed_->data(), stream)));
  return ToStatus(cudaMemcpyAsync(staged_results_, packed_->data(),
                                  packed_bytes_, cudaMemcpyDeviceToHost,
                                  stream));
}

absl::Status CudaExecutable::Poison() {
  for (size_t id = 0; id < device_.size(); ++id) {
    const Value& value = graph_.value(id);
    if (value.role != Role::kActivation) continue;
    // All bits set: a NaN, or -1.
    RETURN_IF_ERROR(ToStatus(cudaMemsetAsync(
        device_[id], 0xff, value.type.max_bytes(), backend_.stream())));
  }
  return absl::OkStatus();
}

absl::Status CudaExecutable::Capture() {
  const cudaStream_t stream = backend_.stream();
  RETURN_IF_ERROR(ToStatus(scratch_.Consolidate()));
  RETURN_IF_ERROR(ToStatus(
      cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal)));
  const absl::Status enqueued = Enqueue(
      captured_constants_ ? Part::kAll : Part::kRest, /*options=*/nullptr);
  cudaGraph_t graph = nullptr;
  const absl::Status ended = ToStatus(cudaStreamEndCapture(stream, &graph));
  absl::Status status = enqueued.ok() ? ended : enqueued;
  if (status.ok()) {
    status = ToStatus(cudaGraphInstantiate(&captured_, graph, 0));
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (status.ok()) return status;
  cudaGetLastError();
  return absl::Status(status.code(),
                      absl::StrCat("capture: ", status.message()));
}

absl::Status CudaExecutable::Run(const Options& options) {
  std::unique_ptr<absl::MutexLock> lock;
  if (alone_) lock = std::make_unique<absl::MutexLock>(&AloneMutex());
  for (const Range& taken : taken_inputs_) {
    std::memcpy(staged_inputs_ + taken.offset, inputs_ + taken.offset,
                taken.num_bytes);
  }
  const bool apart = options.checked || options.seconds != nullptr ||
                     !backend_.options().capture || num_runs_ == 0;
  ++num_runs_;
  const int64_t version = backend_.parameter_version();
  const bool fresh = constants_version_ == version;
  if (apart) {
    RETURN_IF_ERROR(Enqueue(Part::kAll, &options));
  } else {
    if (captured_ == nullptr) {
      // Where parameters change between the first runs, as in training, they
      // will again.
      captured_constants_ = !fresh;
      RETURN_IF_ERROR(Capture());
    }
    if (!fresh && !captured_constants_) {
      RETURN_IF_ERROR(EnqueueSteps(Part::kConstants, /*options=*/nullptr));
    }
    RETURN_IF_ERROR(ToStatus(cudaGraphLaunch(captured_, backend_.stream())));
  }
  constants_version_ = version;
  if (updates_parameters_) backend_.NoteParameterUpdate();
  return ReadResults();
}

absl::Status CudaExecutable::ReadResults() {
  const absl::Status status =
      ToStatus(cudaStreamSynchronize(backend_.stream()));
  if (!status.ok()) {
    return absl::Status(
        status.code(),
        absl::StrCat("in a program of ", steps_.size(), " operators, ",
                     Describe(graph_.nodes().front()), " to ",
                     Describe(graph_.nodes().back()), ": ", status.message()));
  }
  Fault fault;
  std::memcpy(&fault, staged_results_, sizeof(fault));
  if (fault.kind != static_cast<int32_t>(FaultKind::kNone)) {
    return At(graph_.node(fault.node), FaultStatus(fault));
  }
  for (const Small& small : small_) {
    std::memcpy(small.host, staged_results_ + small.offset, small.num_bytes);
  }
  return absl::OkStatus();
}

absl::Status CudaExecutable::Fetch(ValueId value, const TensorView& tensor) {
  const bool is_here =
      std::any_of(small_.begin(), small_.end(),
                  [value](const Small& small) { return small.value == value; });
  return is_here ? absl::OkStatus() : backend_.ToHost(tensor);
}

absl::Status CudaExecutable::CheckFinite(NodeId id) const {
  const Node& node = graph_.node(id);
  const auto check = [&](ValueId value,
                         absl::string_view what) -> absl::Status {
    const ValueType& type = graph_.value(value).type;
    if (type.dtype != DType::kF32) return absl::OkStatus();
    int64_t n = type.max_elements();
    if (!type.dims.empty() && type.dims[0].ragged()) {
      int32_t count = 0;
      RETURN_IF_ERROR(
          ToStatus(cudaMemcpy(&count, device_[type.dims[0].count],
                              sizeof(count), cudaMemcpyDeviceToHost)));
      n = n / std::max<int64_t>(1, type.dims[0].bound) * count;
    }
    std::vector<float> host(n);
    RETURN_IF_ERROR(
        ToStatus(cudaMemcpy(host.data(), device_[value], n * sizeof(float),
                            cudaMemcpyDeviceToHost)));
    for (int64_t i = 0; i < n; ++i) {
      if (std::isfinite(host[i])) continue;
      return absl::OutOfRangeError(absl::StrCat(
          Describe(node), " (", Name(node.phase), ") made ", host[i],
          " at element ", i, " of its ", what, " ", ToText(graph_, type)));
    }
    return absl::OkStatus();
  };
  for (const ValueId output : node.outputs) {
    RETURN_IF_ERROR(check(output, "output"));
  }
  for (const int i : node.mutates) {
    RETURN_IF_ERROR(check(node.inputs[i], graph_.value(node.inputs[i]).name));
  }
  return absl::OkStatus();
}

}  // namespace strata::gpu
