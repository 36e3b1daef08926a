#include "core/cpu/run_graph.h"

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
std::vector<double> ToDoubles(const TensorView& view) {
  const absl::Span<T> span = view.span<T>();
  return std::vector<double>(span.begin(), span.end());
}

std::vector<double> Read(const TensorView& view) {
  switch (view.dtype) {
    case DType::kF32:
      return ToDoubles<float>(view);
    case DType::kF64:
      return ToDoubles<double>(view);
    case DType::kI32:
      return ToDoubles<int32_t>(view);
    default:
      return ToDoubles<uint8_t>(view);
  }
}

template <typename T>
void CopyAs(absl::Span<const double> values, const TensorView& view) {
  T* const to = view.as<T>();
  for (size_t i = 0; i < values.size(); ++i) to[i] = static_cast<T>(values[i]);
}

}  // namespace

absl::StatusOr<RunResult> RunGraph(
    DType compute, int num_threads,
    const std::vector<void (*)(KernelRegistry&)>& kernels,
    const std::function<void(GraphBuilder&)>& build, const FillSource& fill) {
  GraphBuilder b(compute);
  build(b);
  ASSIGN_OR_RETURN(Graph graph, b.Finish());
  KernelRegistry registry;
  for (const auto add : kernels) add(registry);
  CpuBackend backend(num_threads, std::move(registry));
  StateStore state(backend);
  ASSIGN_OR_RETURN(const auto program,
                   Program::Compile(std::move(graph), backend, state));
  for (const Value& value : program->graph().values()) {
    if (value.role == Role::kActivation) continue;
    fill(value.name, value.role == Role::kInput ? program->Input(value.name)
                                                : state.Get(value.name));
  }
  RETURN_IF_ERROR(program->Run());
  RunResult result;
  for (const Value& value : program->graph().values()) {
    if (value.role == Role::kParameter || value.role == Role::kState) {
      result[value.name] = Read(state.Get(value.name));
    }
  }
  for (const auto& [name, id] : program->graph().outputs()) {
    result[name] = Read(program->Output(name));
  }
  return result;
}

void Copy(absl::Span<const double> values, const TensorView& view) {
  CHECK(static_cast<int64_t>(values.size()) <= view.num_elements())
      << values.size() << " values for " << view.num_elements();
  switch (view.dtype) {
    case DType::kF32:
      return CopyAs<float>(values, view);
    case DType::kF64:
      return CopyAs<double>(values, view);
    case DType::kI32:
      return CopyAs<int32_t>(values, view);
    default:
      return CopyAs<uint8_t>(values, view);
  }
}

std::vector<double> Normal(int64_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<double> values(n);
  for (double& value : values) value = normal(rng);
  return values;
}

}  // namespace strata
