// Speed of a whole expert layer (plan, dispatch, grouped products, SwiGLU,
// combine), with and without its gradients, over the machine's SGEMM peak,
// which is measured first in the same run; and of the choice of experts.
//
//   bazel run -c opt //core/cpu:moe_benchmark
//
// FLOPs are the graph's own at the rows that come. `skewed` sends tokens to
// experts by Zipf's law (weight 1 / rank). Operands are warm, as far as they
// fit. `best_over_peak` is of the fastest run, for machines that others use
// too. STRATA_PROFILE=1 prints the time by operator instead.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/base/thread_pool.h"
#include "core/cpu/activation.h"
#include "core/cpu/cpu_backend.h"
#include "core/cpu/dispatch.h"
#include "core/cpu/gate.h"
#include "core/cpu/gate_select.h"
#include "core/cpu/gemm.h"
#include "core/cpu/grouped_matmul.h"
#include "core/graph/builder.h"
#include "core/graph/op_def.h"
#include "core/ops/activation.h"
#include "core/ops/dispatch.h"
#include "core/ops/gate.h"
#include "core/ops/gate_select.h"
#include "core/ops/grouped_matmul.h"
#include "core/passes/autodiff.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/sgemm_peak.h"

namespace strata {
namespace {

struct Layer {
  absl::string_view name;
  int64_t tokens, d_model, width, experts, k;
};

enum class Load { kBalanced, kSkewed };

// x -> sum over chosen experts of weight * down(swiglu(gate_up(x))), and, if
// `train`, the gradients by everything.
Graph BuildLayer(const Layer& s, bool train) {
  GraphBuilder b(DType::kF32);
  const Dim t = Static(s.tokens);
  const ValueId x = b.Input("x", DType::kF32, {t, Static(s.d_model)});
  const ValueId expert = b.Input("expert", DType::kI32, {t, Static(s.k)});
  const ValueId weight = b.Input("weight", DType::kF32, {t, Static(s.k)});
  const ValueId gate_up = b.Parameter(
      "gate_up", {Static(s.experts), Static(2 * s.width), Static(s.d_model)});
  const ValueId down = b.Parameter(
      "down", {Static(s.experts), Static(s.d_model), Static(s.width)});
  const DispatchPlanResult plan = DispatchPlan(b, expert, s.experts);
  const ValueId rows = DispatchRows(b, x, plan);
  const ValueId hidden =
      SwiGlu(b, GroupedMatMul(b, rows, gate_up, plan.offset));
  const ValueId y =
      CombineRows(b, GroupedMatMul(b, hidden, down, plan.offset), plan, weight);
  b.Output("y", y);
  if (train) {
    const ValueId dy = b.Input("dy", DType::kF32, {t, Static(s.d_model)});
    const std::vector<ValueId> wrt = {x, weight, gate_up, down};
    const auto gradients = Differentiate(b, {{y, dy}}, wrt);
    CHECK(gradients.ok()) << gradients.status().ToString();
    for (const ValueId id : wrt) {
      b.Output(absl::StrCat("d.", b.graph().value(id).name), gradients->at(id));
    }
  }
  auto graph = b.Finish();
  CHECK(graph.ok()) << graph.status().ToString();
  return *std::move(graph);
}

// k experts of each token, distinct.
void FillChoice(const Layer& s, Load load, const TensorView& view) {
  std::mt19937 rng(1);
  std::vector<double> share(s.experts);
  for (int64_t e = 0; e < s.experts; ++e) {
    share[e] = load == Load::kSkewed ? 1.0 / (e + 1) : 1.0;
  }
  std::discrete_distribution<int32_t> draw(share.begin(), share.end());
  for (int64_t i = 0; i < s.tokens; ++i) {
    int32_t* const row = view.as<int32_t>() + i * s.k;
    for (int64_t j = 0; j < s.k; ++j) {
      do {
        row[j] = draw(rng);
      } while (std::find(row, row + j, row[j]) != row + j);
    }
  }
}

// A compiled layer with its operands filled, that has run once.
class LayerRun {
 public:
  LayerRun(const Layer& s, Load load, bool train)
      : backend_(NumUsableCores(), Kernels()), store_(backend_) {
    auto program = Program::Compile(BuildLayer(s, train), backend_, store_);
    CHECK(program.ok()) << program.status().ToString();
    program_ = *std::move(program);
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    for (const char* name : {"x", "weight", "dy"}) {
      if (!program_->HasInput(name)) continue;
      for (float& value : program_->Input(name).span<float>()) {
        value = normal(rng);
      }
    }
    for (const char* name : {"gate_up", "down"}) {
      for (float& value : store_.Get(name).span<float>()) {
        value = 0.05f * normal(rng);
      }
    }
    FillChoice(s, load, program_->Input("expert"));
    Run();  // Touches the pages of the arena.
  }

  void Run() {
    const absl::Status status = program_->Run();
    CHECK(status.ok()) << status.ToString();
  }
  double Flops() const {
    return CostOf(program_->graph(), program_->LiveBinding()).flops;
  }

  // Time by operator, the best of 50 runs.
  void PrintProfile() {
    std::map<std::string, Program::OpTime> best;
    for (int run = 0; run < 50; ++run) {
      program_->EnableProfile();
      Run();
      for (const Program::OpTime& time : program_->Profile()) {
        const auto [it, added] = best.try_emplace(time.op, time);
        if (time.seconds < it->second.seconds) it->second = time;
      }
    }
    for (const auto& [op, time] : best) {
      std::printf("  %-18s %9.3f ms %7.1f GFLOP/s\n", op.c_str(),
                  1e3 * time.seconds, time.flops / time.seconds / 1e9);
    }
  }

 private:
  static KernelRegistry Kernels() {
    KernelRegistry kernels;
    RegisterActivationKernels(kernels);
    RegisterDispatchKernels(kernels);
    RegisterGroupedMatMulKernels(kernels);
    return kernels;
  }

  CpuBackend backend_;
  StateStore store_;
  std::unique_ptr<Program> program_;
};

void BM_ExpertLayer(benchmark::State& state, const Layer& s, Load load,
                    bool train, double peak) {
  LayerRun layer(s, load, train);
  double best_seconds = 1e9;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    layer.Run();
    const std::chrono::duration<double> seconds =
        std::chrono::steady_clock::now() - start;
    best_seconds = std::min(best_seconds, seconds.count());
  }

  const double flops = layer.Flops();
  const double runs = static_cast<double>(state.iterations());
  state.SetItemsProcessed(state.iterations() * s.tokens);
  state.counters["FLOP/s"] =
      benchmark::Counter(flops * runs, benchmark::Counter::kIsRate);
  state.counters["over_peak"] =
      benchmark::Counter(flops * runs / peak, benchmark::Counter::kIsRate);
  state.counters["best_over_peak"] = flops / best_seconds / peak;
}

// The choice of experts from given scores: the coarse filter (half of the
// experts), the adaptive choice (1 to 4) and its weights; or top-k alone.
void BM_Choose(benchmark::State& state, int64_t tokens, int64_t experts,
               bool adaptive) {
  KernelRegistry kernels;
  RegisterGateKernels(kernels);
  RegisterGateSelectKernels(kernels);
  CpuBackend backend(NumUsableCores(), std::move(kernels));
  StateStore store(backend);
  GraphBuilder b(DType::kF32);
  const Dims dims = {Static(tokens), Static(experts)};
  const ValueId c = b.Input("c", DType::kF32, dims);
  const ValueId p = b.Input("p", DType::kF32, dims);
  const ValueId bias = b.State("bias", DType::kF32, {Static(experts)});
  ValueId expert = kNone;
  if (adaptive) {
    const ValueId mask = CoarseFilter(b, c, bias, experts / 2);
    expert = AdaptiveSelect(b, p, mask, bias, {}).expert;
  } else {
    TopKOptions options;
    options.k = 8;
    expert = TopKSelect(b, p, bias, options);
  }
  b.Output("weight", SelectedWeight(b, p, expert, {true, 0, 1}));
  auto graph = b.Finish();
  CHECK(graph.ok()) << graph.status().ToString();
  auto program = Program::Compile(*std::move(graph), backend, store);
  CHECK(program.ok()) << program.status().ToString();
  std::mt19937 rng(1);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (const char* name : {"c", "p"}) {
    for (float& value : (*program)->Input(name).span<float>()) {
      value = uniform(rng);
    }
  }
  for (auto _ : state) {
    const absl::Status status = (*program)->Run();
    CHECK(status.ok()) << status.ToString();
  }
  state.SetItemsProcessed(state.iterations() * tokens);
}

constexpr Load kLoads[] = {Load::kBalanced, Load::kSkewed};

// A tier of the demo and small presets, then wider layers; then decoding.
constexpr Layer kLayers[] = {
    {"demo_tier", 2048, 128, 64, 8, 3}, {"small_tier", 2048, 384, 80, 16, 4},
    {"flat", 2048, 128, 64, 32, 4},     {"flat", 2048, 256, 128, 64, 4},
    {"flat", 2048, 512, 256, 32, 4},    {"flat", 2048, 512, 256, 128, 4},
    {"decode", 1, 512, 256, 128, 4},    {"decode", 16, 512, 256, 128, 4},
};

std::string NameOf(const Layer& s, Load load, bool train) {
  return absl::StrCat("BM_ExpertLayer/", s.name, train ? "/train" : "",
                      load == Load::kSkewed ? "/skewed" : "/balanced",
                      "/tokens:", s.tokens, "/d:", s.d_model,
                      "/width:", s.width, "/experts:", s.experts, "/k:", s.k);
}

// Calls fn(layer, load, train) for all that is measured.
template <typename Fn>
void ForEachCase(Fn fn) {
  for (const Layer& s : kLayers) {
    for (const Load load : kLoads) {
      for (const bool train : {false, true}) {
        if (!train || s.name != "decode") fn(s, load, train);
      }
    }
  }
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const double peak = strata::SgemmPeak();
  benchmark::AddCustomContext("sgemm_peak_flop_per_s", absl::StrCat(peak));
  const bool profile = std::getenv("STRATA_PROFILE") != nullptr;
  strata::ForEachCase(
      [&](const strata::Layer& s, strata::Load load, bool train) {
        const std::string name = strata::NameOf(s, load, train);
        if (profile) {
          std::printf("%s\n", name.c_str());
          strata::LayerRun(s, load, train).PrintProfile();
          return;
        }
        benchmark::RegisterBenchmark(name.c_str(), strata::BM_ExpertLayer, s,
                                     load, train, peak)
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
      });
  for (const int64_t experts : {32, 128, 256}) {
    for (const bool adaptive : {false, true}) {
      benchmark::RegisterBenchmark(
          absl::StrCat("BM_Choose/", adaptive ? "adaptive" : "top8",
                       "/tokens:4096/experts:", experts)
              .c_str(),
          strata::BM_Choose, 4096, experts, adaptive)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
  if (!profile) benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
