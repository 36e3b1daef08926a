// What routing costs: the gates of a block over the whole block, forward.
//
//   bazel run -c opt //core/model:gate_benchmark
//
// Both are programs of their own, run in turns in one process with fresh
// weights; `share` is the median of the gates' times over the median of the
// block's, `cpu_share` the same of the time that all threads were on a core
// (which other jobs on the machine disturb less), `flops_share` that of the
// graph's FLOPs at the counts that came. `no_tokens_ms` is a run of the gates
// without a token: the experts' side, which depends on the weights alone, and
// the calls. The aim for strata-1b at 1,024 tokens is a share below 3 %.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/op_def.h"
#include "core/model/attention.h"
#include "core/model/config.h"
#include "core/model/gate.h"
#include "core/model/init.h"
#include "core/model/moe.h"
#include "core/ops/elementwise.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"

namespace strata {
namespace {

enum class Part { kGates, kBlock };
enum class Graphs { kBasic, kFused };

// One block of `config`, or its gates alone, each on the block's input.
Graph Build(const ModelConfig& config, int64_t tokens, Part part) {
  GraphBuilder b(DType::kF32);
  const ValueId num_tokens = b.Input("num_tokens", DType::kI32, {});
  const Dim t = Ragged(tokens, num_tokens);
  const ValueId h = b.Input("h", DType::kF32, {t, Static(config.d_model())});
  GraphBuilder::Scope scope(b, "block");
  if (part == Part::kBlock) {
    AttentionInputs inputs;
    inputs.position = b.Input("position", DType::kI32, {t});
    inputs.seq_start = b.Input("seq_start", DType::kI32, {Static(2)});
    const ValueId attended =
        Add(b, h, AttentionBlock(b, config, inputs, /*layer=*/0, h));
    MoeOptions options;
    options.num_tokens = num_tokens;
    std::vector<RouterValues> routers;
    b.Output("y", MoeBlock(b, config, options, attended, routers));
  } else {
    const auto& moe = config.moe().hierarchical();
    for (int tier = 0; tier < moe.tier_experts_size(); ++tier) {
      GraphBuilder::Scope tier_scope(b, absl::StrCat("tier.", tier));
      const Routing routing =
          TierGate(b, config, moe.tier_experts(tier), h, {});
      b.Output(absl::StrCat("expert.", tier), routing.expert);
      b.Output(absl::StrCat("weight.", tier), routing.weight);
    }
  }
  auto graph = b.Finish();
  CHECK(graph.ok()) << graph.status().ToString();
  return *std::move(graph);
}

class Timed {
 public:
  Timed(const ModelConfig& config, int64_t tokens, Part part, Graphs graphs)
      : backend_(NumUsableCores(), AllCpuKernels()), state_(backend_) {
    Graph graph = Build(config, tokens, part);
    if (graphs == Graphs::kFused) graph = FuseFor(graph, backend_, state_);
    auto program = Program::Compile(graph, backend_, state_);
    CHECK(program.ok()) << program.status().ToString();
    program_ = *std::move(program);
    InitializeParameters(config, /*seed=*/1, state_);
    SetTokens(tokens);
    Random random(1, 2);
    for (float& x : program_->Input("h").span<float>()) {
      x = static_cast<float>(random.Normal());
    }
    if (part == Part::kBlock) {
      program_->Input("seq_start").as<int32_t>()[0] = 0;
      program_->Input("seq_start").as<int32_t>()[1] =
          static_cast<int32_t>(tokens);
      for (int64_t i = 0; i < tokens; ++i) {
        program_->Input("position").as<int32_t>()[i] = static_cast<int32_t>(i);
      }
    }
  }

  void SetTokens(int64_t tokens) {
    *program_->Input("num_tokens").as<int32_t>() = static_cast<int32_t>(tokens);
  }

  void Run() {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu_start = std::clock();
    CHECK(program_->Run().ok());
    cpu_seconds_.push_back(static_cast<double>(std::clock() - cpu_start) /
                           CLOCKS_PER_SEC);
    seconds_.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count());
  }
  double MedianSeconds() const { return Median(seconds_); }
  double MedianCpuSeconds() const { return Median(cpu_seconds_); }
  // Milliseconds of a run by operator, each timed for itself from now on.
  void Profile() { program_->EnableProfile(); }
  void ReportOperators(benchmark::State& bench) const {
    for (const Program::OpTime& op : program_->Profile()) {
      bench.counters[absl::StrCat(op.op, "_ms")] =
          1e3 * op.seconds / static_cast<double>(bench.iterations());
    }
  }
  double Flops() const {
    return CostOf(program_->graph(), program_->LiveBinding()).flops;
  }

 private:
  // Without the first run, which takes scratch memory.
  static double Median(std::vector<double> values) {
    std::sort(values.begin() + 1, values.end());
    return values[values.size() / 2];
  }

  CpuBackend backend_;
  StateStore state_;
  std::unique_ptr<Program> program_;
  std::vector<double> seconds_;
  std::vector<double> cpu_seconds_;  // Of all threads.
};

void BM_GateShare(benchmark::State& bench, const std::string& preset,
                  Graphs graphs) {
  ModelConfig config = *ModelPreset(preset);
  Timed gates(config, bench.range(0), Part::kGates, graphs);
  Timed no_tokens(config, bench.range(0), Part::kGates, graphs);
  no_tokens.SetTokens(0);
  Timed block(config, bench.range(0), Part::kBlock, graphs);
  for (Timed* timed : {&gates, &no_tokens, &block}) timed->Run();
  for (auto _ : bench) {
    for (Timed* timed : {&gates, &no_tokens, &block}) timed->Run();
  }
  bench.counters["gates_ms"] = 1e3 * gates.MedianSeconds();
  bench.counters["block_ms"] = 1e3 * block.MedianSeconds();
  bench.counters["no_tokens_ms"] = 1e3 * no_tokens.MedianSeconds();
  bench.counters["share"] = gates.MedianSeconds() / block.MedianSeconds();
  bench.counters["cpu_share"] =
      gates.MedianCpuSeconds() / block.MedianCpuSeconds();
  bench.counters["flops_share"] = gates.Flops() / block.Flops();
}
BENCHMARK_CAPTURE(BM_GateShare, strata_1b, "strata-1b", Graphs::kBasic)
    ->Arg(1024)
    ->Iterations(15)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(BM_GateShare, strata_1b_fused, "strata-1b", Graphs::kFused)
    ->Arg(1024)
    ->Iterations(15)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(BM_GateShare, small, "small", Graphs::kBasic)
    ->Arg(1024)
    ->Iterations(15)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(BM_GateShare, demo, "demo", Graphs::kBasic)
    ->Arg(1024)
    ->Iterations(15)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Where the gates' time goes: milliseconds by operator.
void BM_GateOperators(benchmark::State& bench, const std::string& preset) {
  Timed gates(*ModelPreset(preset), bench.range(0), Part::kGates,
              Graphs::kBasic);
  gates.Run();
  gates.Profile();
  for (auto _ : bench) gates.Run();
  gates.ReportOperators(bench);
}
BENCHMARK_CAPTURE(BM_GateOperators, strata_1b, "strata-1b")
    ->Arg(1024)
    ->Iterations(30)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
