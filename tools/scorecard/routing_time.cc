#include "tools/scorecard/routing_time.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/model/gate.h"
#include "core/model/init.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"

namespace strata {
namespace {

absl::StatusOr<Graph> GatesOf(const ModelConfig& config, int64_t num_tokens) {
  GraphBuilder b(DType::kF32);
  const ValueId x =
      b.Input("x", DType::kF32, {Static(num_tokens), Static(config.d_model())});
  const auto output = [&](int tier, const Routing& routing) {
    b.Output(absl::StrCat("expert.", tier), routing.expert);
    b.Output(absl::StrCat("weight.", tier), routing.weight);
  };
  if (config.moe().has_flat()) output(0, FlatGate(b, config, x, {}));
  const auto& experts = config.moe().hierarchical().tier_experts();
  for (int tier = 0; tier < experts.size(); ++tier) {
    GraphBuilder::Scope scope(b, absl::StrCat("tier.", tier));
    output(tier, TierGate(b, config, experts[tier], x, {}));
  }
  return b.Finish();
}

}  // namespace

absl::StatusOr<std::vector<double>> RoutingMilliseconds(
    const ModelConfig& config, int64_t num_tokens, int repeats) {
  using Clock = std::chrono::steady_clock;
  CpuBackend backend(/*num_threads=*/1, AllCpuKernels());
  StateStore state(backend);
  ASSIGN_OR_RETURN(Graph graph, GatesOf(config, num_tokens));
  ASSIGN_OR_RETURN(const std::unique_ptr<Program> program,
                   Program::Compile(std::move(graph), backend, state));
  InitializeParameters(config, /*seed=*/1, state);
  Random random(/*seed=*/1, /*stream=*/1);
  for (float& x : program->Input("x").span<float>()) {
    x = static_cast<float>(random.Normal());
  }
  std::vector<double> milliseconds;
  for (int i = 0; i <= repeats; ++i) {
    const Clock::time_point start = Clock::now();
    RETURN_IF_ERROR(program->Run());
    if (i == 0) continue;  // Takes scratch memory.
    milliseconds.push_back(
        std::chrono::duration<double, std::milli>(Clock::now() - start)
            .count());
  }
  return milliseconds;
}

}  // namespace strata
