#include "core/testing/graph_run.h"

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/program.h"
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

KernelRegistry Registry(const std::vector<void (*)(KernelRegistry&)>& kernels) {
  KernelRegistry registry;
  for (const auto add : kernels) add(registry);
  return registry;
}

}  // namespace

GraphRun::GraphRun(const std::function<void(GraphBuilder&)>& build,
                   const std::vector<void (*)(KernelRegistry&)>& kernels,
                   const GraphRunOptions& options)
    : backend_(options.num_threads, Registry(kernels)), state_(backend_) {
  GraphBuilder b(options.compute);
  build(b);
  absl::StatusOr<Graph> graph = b.Finish();
  status_ = graph.status();
  if (!status_.ok()) return;
  auto program = Program::Compile(*std::move(graph), backend_, state_);
  status_ = program.status();
  if (status_.ok()) program_ = *std::move(program);
}

void GraphRun::SetAll(const FillSource& fill) {
  if (program_ == nullptr) return;
  for (const Value& value : program_->graph().values()) {
    if (value.role != Role::kActivation) fill(value.name, Source(value.name));
  }
}

RunResult GraphRun::GetAll() const {
  RunResult result;
  for (const Value& value : program_->graph().values()) {
    if (value.role == Role::kParameter || value.role == Role::kState) {
      result[value.name] = Read(state_.Get(value.name));
    }
  }
  for (const auto& [name, id] : program_->graph().outputs()) {
    result[name] = Read(program_->Output(name));
  }
  return result;
}

absl::StatusOr<RunResult> RunGraph(
    DType compute, int num_threads,
    const std::vector<void (*)(KernelRegistry&)>& kernels,
    const std::function<void(GraphBuilder&)>& build, const FillSource& fill) {
  GraphRun run(build, kernels, {compute, num_threads});
  run.SetAll(fill);
  RETURN_IF_ERROR(run.Run());
  return run.GetAll();
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
