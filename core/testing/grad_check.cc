#include "core/testing/grad_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
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
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/passes/autodiff.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

std::string SeedName(size_t i) { return absl::StrCat("grad_check.seed", i); }
std::string OutputName(size_t i) { return absl::StrCat("grad_check.out", i); }

class Checker {
 public:
  Checker(const std::vector<RegisterFn>& kernels,
          const GradCheckOptions& options)
      : options_(options),
        backend_(/*num_threads=*/2, Registry(kernels)),
        state_(backend_),
        rng_(options.seed) {}

  absl::Status Check(const BuildFn& build) {
    RETURN_IF_ERROR(Build(build));
    RETURN_IF_ERROR(Fill());
    RETURN_IF_ERROR(program_->Run());
    // Copied, since later runs overwrite the outputs.
    std::vector<std::vector<double>> gradient;
    for (const ValueId id : sources_) {
      const std::string name = GradName(id);
      if (!program_->graph().outputs().contains(name)) {
        gradient.emplace_back(View(id).num_elements(), 0.0);
        continue;
      }
      const auto values = program_->Output(name).span<double>();
      gradient.emplace_back(values.begin(), values.end());
    }
    for (size_t s = 0; s < sources_.size(); ++s) {
      RETURN_IF_ERROR(Compare(sources_[s], gradient[s]));
    }
    return absl::OkStatus();
  }

 private:
  static KernelRegistry Registry(const std::vector<RegisterFn>& kernels) {
    KernelRegistry registry;
    for (const RegisterFn add : kernels) add(registry);
    return registry;
  }

  std::string GradName(ValueId id) const {
    return absl::StrCat("grad_check.d.", program_->graph().value(id).name);
  }

  absl::Status Build(const BuildFn& build) {
    GraphBuilder b(DType::kF64);
    const std::vector<ValueId> outputs = build(b);
    RETURN_IF_ERROR(b.status());
    for (size_t id = 0; id < b.graph().values().size(); ++id) {
      const Value& value = b.graph().value(id);
      const bool source =
          value.role == Role::kInput || value.role == Role::kParameter;
      if (source && value.type.dtype == DType::kF64) sources_.push_back(id);
    }
    std::vector<Seed> seeds;
    for (size_t i = 0; i < outputs.size(); ++i) {
      const ValueType type = b.type(outputs[i]);
      seeds.push_back(
          {outputs[i], b.Input(SeedName(i), DType::kF64, type.dims)});
      b.Output(OutputName(i), outputs[i]);
    }
    num_outputs_ = outputs.size();
    ASSIGN_OR_RETURN(const Gradients gradients,
                     Differentiate(b, seeds, sources_));
    for (const auto& [id, grad] : gradients) {
      const ValueType& want = b.type(id);
      const ValueType& got = b.type(grad);
      if (want.dims != got.dims) {
        return absl::InternalError(absl::StrCat(
            "the gradient of ", b.graph().value(id).name, " is ",
            ToText(b.graph(), got), "; want ", ToText(b.graph(), want)));
      }
      b.Output(absl::StrCat("grad_check.d.", b.graph().value(id).name), grad);
    }
    ASSIGN_OR_RETURN(Graph graph, b.Finish());
    ASSIGN_OR_RETURN(program_,
                     Program::Compile(std::move(graph), backend_, state_));
    return absl::OkStatus();
  }

  TensorView View(ValueId id) const {
    const Value& value = program_->graph().value(id);
    return value.role == Role::kInput ? program_->Input(value.name)
                                      : state_.Get(value.name);
  }

  absl::Status Fill() {
    std::normal_distribution<double> normal;
    for (size_t id = 0; id < program_->graph().values().size(); ++id) {
      const Value& value = program_->graph().value(id);
      if (value.role == Role::kActivation) continue;
      const TensorView view = View(id);
      if (options_.fill && options_.fill(value.name, view)) continue;
      if (view.dtype != DType::kF64) continue;
      for (double& x : view.span<double>()) x = normal(rng_);
    }
    return absl::OkStatus();
  }

  // L, at the sources' present values.
  absl::StatusOr<double> Loss() {
    RETURN_IF_ERROR(program_->Run());
    double sum = 0;
    for (size_t i = 0; i < num_outputs_; ++i) {
      const TensorView out = program_->Output(OutputName(i));
      const double* value = out.as<double>();
      const double* weight = program_->Input(SeedName(i)).as<double>();
      for (int64_t e = 0; e < out.num_elements(); ++e) {
        sum += value[e] * weight[e];
      }
    }
    return sum;
  }

  absl::Status Compare(ValueId id, const std::vector<double>& gradient) {
    double* x = View(id).as<double>();
    const int64_t n = gradient.size();
    const int64_t stride = std::max<int64_t>(1, n / options_.max_probes);
    for (int64_t i = 0; i < n; i += stride) {
      const double kept = x[i];
      x[i] = kept + options_.step;
      ASSIGN_OR_RETURN(const double above, Loss());
      x[i] = kept - options_.step;
      ASSIGN_OR_RETURN(const double below, Loss());
      x[i] = kept;
      const double want = (above - below) / (2 * options_.step);
      const double scale =
          std::max({1.0, std::abs(want), std::abs(gradient[i])});
      if (!(std::abs(want - gradient[i]) <= options_.tolerance * scale)) {
        return absl::InternalError(absl::StrFormat(
            "d/d %s[%d]: autodiff says %.10g, differences %.10g",
            program_->graph().value(id).name, i, gradient[i], want));
      }
    }
    return absl::OkStatus();
  }

  const GradCheckOptions& options_;
  CpuBackend backend_;
  StateStore state_;
  std::mt19937_64 rng_;
  std::unique_ptr<Program> program_;
  std::vector<ValueId> sources_;
  size_t num_outputs_ = 0;
};

}  // namespace

absl::Status CheckGradients(const BuildFn& build,
                            const std::vector<RegisterFn>& kernels,
                            const GradCheckOptions& options) {
  return Checker(kernels, options).Check(build);
}

}  // namespace strata
