#include "cuda/runtime/cuda_executable.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/graph/attrs.h"
#include "core/graph/op_def.h"
#include "core/parallel/rank_wait.h"
#include "core/tensor/dtype.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/fault_status.h"
#include "cuda/runtime/status.h"
#include "cuda/runtime/together.h"
#include "cuda/runtime/wait_clock.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// So much later than kernels that watch the time, and know who is late.
constexpr absl::Duration kGrace = absl::Seconds(1);

// Held while a program runs whose kernels have to be alone, on whichever GPU.
absl::Mutex& AloneMutex() {
  static auto* const mutex = new absl::Mutex;
  return *mutex;
}

absl::Status At(const Node& node, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(ToText(node), ": ", status.message()));
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

}  // namespace

absl::StatusOr<std::unique_ptr<CudaExecutable>> CudaExecutable::Create(
    const Graph& graph, const Backend::Layout& layout, CudaBackend& backend) {
  auto executable = std::unique_ptr<CudaExecutable>(
      new CudaExecutable(graph, layout.beside, backend));
  executable->is_left_ = layout.elsewhere;
  for (size_t id = 0; id < layout.elsewhere.size(); ++id) {
    if (layout.elsewhere[id]) executable->elsewhere_.push_back(id);
  }
  for (const NodeId id : layout.beside.until_end) {
    if (layout.runs_ahead && graph.node(id).outputs.empty()) {
      executable->ahead_.push_back(id);
    }
  }
  RETURN_IF_ERROR(executable->Bind(layout.address));
  return executable;
}

CudaExecutable::~CudaExecutable() {
  for (const auto& [places, captured] : captured_) {
    for (cudaGraphExec_t graph : captured.parts) cudaGraphExecDestroy(graph);
  }
  cudaFreeHost(staged_inputs_);
  cudaFreeHost(staged_results_);
}

bool CudaExecutable::RunsAhead(NodeId id) const {
  return absl::c_linear_search(ahead_, id);
}

absl::Status CudaExecutable::EnqueueBeside(NodeId id) {
  ASSIGN_OR_RETURN(const cudaStream_t lane,
                   lanes_.Begin(id, backend_.stream()));
  RETURN_IF_ERROR(EnqueueStep(id, steps_[id].kernels.run, lane));
  return lanes_.End(id);
}

absl::Status CudaExecutable::JoinBefore(NodeId id) {
  return lanes_.Join(beside_.steps[id].waits_for, backend_.stream());
}

absl::Status CudaExecutable::EnqueueTogether(Part part, NodeId first,
                                             const Together& together) {
  for (NodeId id = first; id < together.end; ++id) {
    RETURN_IF_ERROR(JoinBefore(id));
  }
  for (size_t i = 0; i < together.calls.size(); ++i) {
    const Step& call = together.calls[i];
    if (!Has(part, call)) continue;
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
  ctx.fault = {&report_->data()->fault, id};
  ctx.mesh = backend_.options().mesh;
  if (stream == backend_.stream()) {
    ctx.waits = &report_->data()->waits;
  } else {
    ctx.beside = backend_.stream();
  }
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
      RETURN_IF_ERROR(EnqueueTogether(part, several->first, several->second));
      continue;
    }
    const Clock::time_point start =
        options != nullptr ? Clock::now() : Clock::time_point();
    if (part != Part::kRest && step.kernels.prepare != nullptr) {
      RETURN_IF_ERROR(EnqueueStep(id, step.kernels.prepare, backend_.stream()));
    }
    if (Has(part, step)) {
      RETURN_IF_ERROR(JoinBefore(id));
      // One by one, nothing is beside.
      if (!beside_.steps[id].beside || options != nullptr) {
        RETURN_IF_ERROR(EnqueueStep(id, step.kernels.run, backend_.stream()));
      } else if (RunsAhead(id)) {
        RETURN_IF_ERROR(EndPart());
        RETURN_IF_ERROR(BeginPart());
      } else {
        RETURN_IF_ERROR(EnqueueBeside(id));
      }
    }
    if (options == nullptr) continue;
    RETURN_IF_ERROR(At(graph_.node(id), Wait(graph_.node(id).op->name)));
    if (options->seconds != nullptr) {
      options->seconds[id] +=
          std::chrono::duration<double>(Clock::now() - start).count();
    }
    // Nothing runs: what this operator wanted becomes part of the one block.
    RETURN_IF_ERROR(At(graph_.node(id), ToStatus(scratch_.Consolidate())));
    if (options->checked) RETURN_IF_ERROR(CheckFinite(id));
  }
  return lanes_.JoinAll(backend_.stream());
}

absl::Status CudaExecutable::Enqueue(Part part, const Options* options) {
  const cudaStream_t stream = backend_.stream();
  for (const Range& taken : taken_inputs_) {
    RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(
        device_inputs_ + taken.offset, staged_inputs_ + taken.offset,
        taken.num_bytes, cudaMemcpyHostToDevice, stream)));
  }
  RETURN_IF_ERROR(
      ToStatus(cudaMemsetAsync(report_->data(), 0, sizeof(Report), stream)));
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

absl::Status CudaExecutable::BeginPart() {
  return ToStatus(cudaStreamBeginCapture(backend_.stream(),
                                         cudaStreamCaptureModeThreadLocal));
}

absl::Status CudaExecutable::EndPart() {
  RETURN_IF_ERROR(lanes_.JoinAll(backend_.stream()));
  cudaGraph_t graph = nullptr;
  RETURN_IF_ERROR(ToStatus(cudaStreamEndCapture(backend_.stream(), &graph)));
  cudaGraphExec_t part = nullptr;
  const absl::Status status = ToStatus(cudaGraphInstantiate(&part, graph, 0));
  cudaGraphDestroy(graph);
  RETURN_IF_ERROR(status);
  capturing_->parts.push_back(part);
  return absl::OkStatus();
}

absl::Status CudaExecutable::Capture(Captured& captured) {
  RETURN_IF_ERROR(ToStatus(scratch_.Consolidate()));
  capturing_ = &captured;
  absl::Status status = BeginPart();
  if (status.ok()) {
    status = Enqueue(captured.constants ? Part::kAll : Part::kRest,
                     /*options=*/nullptr);
  }
  if (status.ok()) status = EndPart();
  capturing_ = nullptr;
  if (status.ok()) return status;
  cudaGraph_t broken = nullptr;  // If it still captures.
  cudaStreamEndCapture(backend_.stream(), &broken);
  if (broken != nullptr) cudaGraphDestroy(broken);
  cudaGetLastError();
  for (cudaGraphExec_t part : captured.parts) cudaGraphExecDestroy(part);
  captured.parts.clear();
  return absl::Status(status.code(),
                      absl::StrCat("capture: ", status.message()));
}

absl::Status CudaExecutable::Launch(const Captured& captured) {
  for (size_t i = 0; i < captured.parts.size(); ++i) {
    if (i > 0) RETURN_IF_ERROR(EnqueueBeside(ahead_[i - 1]));
    RETURN_IF_ERROR(
        ToStatus(cudaGraphLaunch(captured.parts[i], backend_.stream())));
  }
  return absl::OkStatus();
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
    RETURN_IF_ERROR(BindSteps());
    RETURN_IF_ERROR(Enqueue(Part::kAll, &options));
  } else {
    Captured& captured = captured_[places_];
    if (captured.parts.empty()) {
      RETURN_IF_ERROR(BindSteps());
      // Where parameters change between the first runs, as in training, they
      // will again.
      captured.constants = !fresh;
      RETURN_IF_ERROR(Capture(captured));
    }
    if (!fresh && !captured.constants) {
      RETURN_IF_ERROR(EnqueueSteps(Part::kConstants, /*options=*/nullptr));
    }
    RETURN_IF_ERROR(Launch(captured));
  }
  constants_version_ = version;
  if (updates_parameters_) backend_.NoteParameterUpdate();
  return ReadResults();
}

absl::Status CudaExecutable::Wait(absl::string_view what) {
  const cudaStream_t stream = backend_.stream();
  if (groups_.empty()) return ToStatus(cudaStreamSynchronize(stream));
  return WaitForRanks(groups_, what, kGrace,
                      [stream] { return cudaStreamQuery(stream); });
}

absl::Status CudaExecutable::ReadResults() {
  const absl::Status status = Wait("a program");
  if (!status.ok()) {
    return absl::Status(
        status.code(),
        absl::StrCat("in a program of ", steps_.size(), " operators, ",
                     ToText(graph_.nodes().front()), " to ",
                     ToText(graph_.nodes().back()), ": ", status.message()));
  }
  Report report;
  std::memcpy(&report, staged_results_, sizeof(report));
  RankWait::Add(std::chrono::nanoseconds(report.waits.total_ns));
  const Fault& fault = report.fault;
  if (fault.kind != static_cast<int32_t>(FaultKind::kNone)) {
    return At(graph_.node(fault.node), FaultStatus(fault));
  }
  for (const Small& small : small_) {
    std::memcpy(small.host, staged_results_ + small.offset, small.num_bytes);
  }
  return absl::OkStatus();
}

absl::Status CudaExecutable::Fetch(ValueId value, const TensorView& tensor) {
  return is_small_[value] ? absl::OkStatus() : backend_.ToHost(tensor);
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
          ToText(node), " (", Name(node.phase), ") made ", host[i],
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
