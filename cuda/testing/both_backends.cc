#include "cuda/testing/both_backends.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/cpu/paged_attention.h"
#include "core/graph/builder.h"
#include "core/passes/autodiff.h"
#include "core/passes/narrow_weights.h"
#include "core/runtime/backend.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/testing/unpacked_kernels.h"

namespace strata::gpu {
namespace {

using BuildFn = std::function<std::vector<ValueId>(GraphBuilder&)>;

struct Tensor {
  DType dtype;
  std::vector<double> values;
};
using Results = std::map<std::string, Tensor>;  // By name.

double ElementOf(const TensorView& view, int64_t i) {
  switch (view.dtype) {
    case DType::kF32:
      return static_cast<const float*>(view.data)[i];
    case DType::kI32:
      return static_cast<const int32_t*>(view.data)[i];
    case DType::kBF16:
      return Widen(static_cast<const BFloat16*>(view.data)[i]);
    default:
      return static_cast<const uint8_t*>(view.data)[i];
  }
}

Tensor Read(const TensorView& view) {
  Tensor tensor = {view.dtype, {}};
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    tensor.values.push_back(ElementOf(view, i));
  }
  return tensor;
}

// The BF16 numbers of a tensor of bytes.
Tensor ReadNumbers(const TensorView& view) {
  const auto* const numbers = static_cast<const BFloat16*>(view.data);
  Tensor tensor = {DType::kF32, {}};
  for (int64_t i = 0; i < view.num_elements() / 2; ++i) {
    tensor.values.push_back(Widen(numbers[i]));
  }
  return tensor;
}

// The graph of `build` with the gradients of what it returns.
absl::StatusOr<Graph> BuildWithGradients(const BuildFn& build) {
  GraphBuilder b(DType::kF32);
  const std::vector<ValueId> outputs = build(b);
  RETURN_IF_ERROR(b.status());
  std::vector<ValueId> sources;
  for (size_t id = 0; id < b.graph().values().size(); ++id) {
    const Value& value = b.graph().value(id);
    if ((value.role == Role::kInput || value.role == Role::kParameter) &&
        value.type.dtype == DType::kF32) {
      sources.push_back(id);
    }
  }
  std::vector<Seed> seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const ValueType type = b.type(outputs[i]);
    b.Output(absl::StrCat("out", i), outputs[i]);
    seeds.push_back(
        {outputs[i], b.Input(absl::StrCat("seed", i), DType::kF32, type.dims)});
  }
  if (!seeds.empty()) {
    ASSIGN_OR_RETURN(const Gradients gradients,
                     Differentiate(b, seeds, sources));
    for (const auto& [id, grad] : gradients) {
      const std::string name = b.graph().value(id).name;
      b.Output(absl::StrCat("d ", name), grad);
    }
  }
  return b.Finish();
}

// One backend's side of the comparison.
class Side {
 public:
  Side(Backend& backend, const CompareOptions& options)
      : backend_(backend), options_(options), state_(backend) {}

  absl::Status Compile(Graph graph) {
    ASSIGN_OR_RETURN(program_,
                     Program::Compile(std::move(graph), backend_, state_));
    return absl::OkStatus();
  }

  // Fills every source, the same on both sides, and runs.
  absl::Status Run() {
    for (const Value& value : program_->graph().values()) {
      if (value.role == Role::kActivation) continue;
      const TensorView& view = value.role == Role::kInput
                                   ? program_->Input(value.name)
                                   : state_.Get(value.name);
      const bool filled = options_.fill && options_.fill(value.name, view);
      if (!filled && view.dtype == DType::kF32) FillNormal(value.name, view);
      if (options_.terms) sources_[value.name] = Read(view).values;
    }
    return program_->Run();
  }

  // As they were before the run, which may write state and reuse inputs.
  const Sources& sources() const { return sources_; }

  Results Get() {
    Results results;
    for (const Value& value : program_->graph().values()) {
      if (value.role == Role::kParameter || value.role == Role::kState) {
        const TensorView view = state_.Get(value.name);
        results[value.name] = options_.bf16_states.count(value.name) > 0
                                  ? ReadNumbers(view)
                                  : Read(view);
      }
    }
    for (const auto& [name, id] : program_->graph().outputs()) {
      results[name] = Read(program_->Output(name));
    }
    return results;
  }

 private:
  void FillNormal(const std::string& name, const TensorView& view) {
    uint32_t seed = options_.seed;
    for (const char c : name) seed = seed * 31 + static_cast<uint8_t>(c);
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    for (float& x : view.span<float>()) x = normal(rng);
  }

  Backend& backend_;
  const CompareOptions& options_;
  StateStore state_;
  std::unique_ptr<Program> program_;
  Sources sources_;
};

absl::Status Differ(const std::string& name, size_t i, const Tensor& got,
                    const Tensor& want, absl::string_view why) {
  return absl::InternalError(
      absl::StrFormat("%s[%d of %d] is %.9g on the GPU; want %.9g %s", name, i,
                      want.values.size(), got.values[i], want.values[i], why));
}

absl::Status Compare(const Results& got, const Results& want,
                     const Sources& sources, const CompareOptions& options) {
  // Half a unit in the last place of 24 bits, 11 or 8.
  const double unit = options.precision == Precision::kF32    ? 0x1p-24
                      : options.precision == Precision::kTf32 ? 0x1p-11
                                                              : 0x1p-8;
  for (const auto& [name, tensor] : want) {
    const Tensor& other = got.at(name);
    if (other.values.size() != tensor.values.size()) {
      return absl::InternalError(
          absl::StrCat(name, " has ", other.values.size(),
                       " elements on the GPU; want ", tensor.values.size()));
    }
    double largest = options.terms ? options.terms(name, sources) : 0;
    for (const double x : tensor.values) {
      if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
    }
    const double tolerance = options.roundings * unit * largest;
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      const double x = other.values[i], y = tensor.values[i];
      if (tensor.dtype == DType::kF32) {
        if (x == y || std::abs(x - y) <= tolerance) continue;
        return Differ(name, i, other, tensor,
                      absl::StrCat("within ", tolerance));
      }
      if (x != y) return Differ(name, i, other, tensor, "exactly");
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool FillInts(const TensorView& view, const std::vector<int32_t>& values) {
  int32_t* const to = view.as<int32_t>();
  const auto n = std::min<int64_t>(view.num_elements(), values.size());
  std::copy_n(values.begin(), n, to);
  return true;
}

absl::Status CompareBackends(const BuildFn& build,
                             const CompareOptions& options) {
  ASSIGN_OR_RETURN(const Graph graph, BuildWithGradients(build));
  strata::KernelRegistry cpu_kernels = AllCpuKernels();
  RegisterPagedAttentionKernels(cpu_kernels);  // Else of those that serve only.
  RegisterUnpackedKernels(cpu_kernels);
  CpuBackend cpu(/*num_threads=*/2, std::move(cpu_kernels));
  Side want(cpu, options);
  RETURN_IF_ERROR(want.Compile(graph));
  CudaOptions cuda_options;
  cuda_options.precision = options.precision;
  cuda_options.poison = true;
  ASSIGN_OR_RETURN(const std::unique_ptr<CudaBackend> cuda,
                   CudaBackend::Create(cuda_options, AllCudaKernels()));
  Side got(*cuda, options);
  ASSIGN_OR_RETURN(const Graph on_gpu,
                   BuildWithGradients(options.on_gpu ? options.on_gpu : build));
  RETURN_IF_ERROR(got.Compile(NarrowWeights(on_gpu, options.bf16_on_gpu)));

  const absl::Status wanted = want.Run();
  const absl::Status first_run = got.Run();
  if (!wanted.ok()) {
    if (first_run.code() == wanted.code()) return wanted;
    return absl::InternalError(
        absl::StrCat("the CPU says: ", wanted.ToString(),
                     "; the GPU: ", first_run.ToString()));
  }
  RETURN_IF_ERROR(first_run);
  const Results first = got.Get();
  RETURN_IF_ERROR(Compare(first, want.Get(), want.sources(), options));
  for (int run = 0; run < 2; ++run) {
    RETURN_IF_ERROR(got.Run());
    CompareOptions exactly = options;
    exactly.roundings = 0;
    const absl::Status same =
        Compare(got.Get(), first, want.sources(), exactly);
    if (!same.ok()) {
      return absl::InternalError(absl::StrCat(
          run == 0 ? "captured" : "replayed", ": ", same.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata::gpu
