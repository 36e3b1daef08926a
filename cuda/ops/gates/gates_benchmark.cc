// bazel run --config=cuda -c opt //cuda/ops/gates:gates_benchmark
//
// The experts' side of all gates of a model, as its program runs them: one
// captured graph, from Run() to its return. BM_Nothing is what a launch and the
// wait for it take, and is part of all others. Operands are in L2.

#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/graph/builder.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_gate.h"
#include "core/ops/optimizer.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/testing/benchmark_set.h"

namespace strata::gpu {
namespace {

using Build = std::function<void(GraphBuilder&)>;

void BM_Program(benchmark::State& state, const Build& build) {
  auto backend = CudaBackend::Create(CudaOptions(), AllCudaKernels());
  CHECK(backend.ok()) << backend.status().ToString();
  StateStore store(**backend);
  GraphBuilder b;
  build(b);
  auto graph = b.Finish();
  CHECK(graph.ok()) << graph.status().ToString();
  auto program = Program::Compile(*std::move(graph), **backend, store);
  CHECK(program.ok()) << program.status().ToString();
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0, 0.2f);
  for (const std::string& name : store.names()) {
    const TensorView& view = store.Get(name);
    for (int64_t i = 0; i < view.num_elements(); ++i) {
      view.as<float>()[i] = normal(rng);
    }
  }
  const auto run = [&] {
    const absl::Status status = (*program)->Run();
    CHECK(status.ok()) << status.ToString();
  };
  for (int i = 0; i < 3; ++i) run();  // Alone, captured, replayed.
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    run();
    state.SetIterationTime(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count());
  }
}

// States rather than parameters: what is made of these alone is made once.
std::vector<ValueId> States(GraphBuilder& b, const std::string& of,
                            int64_t experts, int64_t r) {
  std::vector<ValueId> inputs = {b.State(absl::StrCat("e", of), DType::kF32,
                                         {Static(experts), Static(r)})};
  for (int i = kContextQ; i <= kContextCrossO; ++i) {
    inputs.push_back(b.State(absl::StrCat("w", of, ".", i), DType::kF32,
                             {Static(r), Static(r)}));
  }
  return inputs;
}

// The gates of `layers` layers.
void Gates(GraphBuilder& b, int layers, const std::vector<int64_t>& tiers,
           int64_t r, bool backward) {
  const double scale = 1 / std::sqrt(static_cast<double>(r));
  for (int layer = 0; layer < layers; ++layer) {
    for (size_t tier = 0; tier < tiers.size(); ++tier) {
      const std::string of = absl::StrCat(layer, ".", tier);
      const int64_t experts = tiers[tier];
      const std::vector<ValueId> inputs = States(b, of, experts, r);
      if (!backward) {
        ExpertContext(b, inputs, scale);
        continue;
      }
      std::vector<ValueId> grads;
      for (int i = 0; i < kContextGrads; ++i) {
        grads.push_back(b.State(absl::StrCat("d", of, ".", i), DType::kF32,
                                {Static(experts), Static(r)}));
      }
      grads.insert(grads.end(), inputs.begin(), inputs.end());
      b.Add(kExpertContextGrad, grads, {{"scale", scale}});
    }
  }
}

// Sums of a micro-batch as small ones of strata-1b are: of each gate seven
// [32, 32], one [E, 32], [E, 64], [96, 1024] and two gains.
void Sums(GraphBuilder& b, int gates) {
  const ValueId keep = b.State("keep", DType::kF32, {});
  const auto sum = [&](const std::string& name, int64_t n) {
    Accumulate(b, b.State(absl::StrCat("sum", name), DType::kF32, {Static(n)}),
               b.State(absl::StrCat("value", name), DType::kF32, {Static(n)}),
               keep);
  };
  for (int gate = 0; gate < gates; ++gate) {
    for (int i = 0; i < 7; ++i) sum(absl::StrCat(gate, ".w", i), 32 * 32);
    sum(absl::StrCat(gate, ".e"), 32 * 32);
    sum(absl::StrCat(gate, ".key"), 32 * 64);
    sum(absl::StrCat(gate, ".token"), 96 * 1024);
    sum(absl::StrCat(gate, ".norm"), 1024);
    sum(absl::StrCat(gate, ".feed"), 1024);
  }
}

void Add(const std::string& name, const Build& build) {
  benchmark::RegisterBenchmark(name.c_str(), BM_Program, build)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

void AddAll() {
  Add("BM_Nothing",
      [](GraphBuilder& b) { b.Output("one", strata::Fill(b, 1)); });
  const std::vector<int64_t> tiers = {16, 32, 32, 48};  // Of strata-1b.
  for (const bool backward : {false, true}) {
    const std::string name = backward ? "BM_ContextGrads" : "BM_Contexts";
    Add(absl::StrCat(name, "/gates:72/r:32"),
        [=](GraphBuilder& b) { Gates(b, 18, tiers, 32, backward); });
    Add(absl::StrCat(name, "/gates:2/experts:48/r:32"),
        [=](GraphBuilder& b) { Gates(b, 2, {48}, 32, backward); });
    Add(absl::StrCat(name, "/gates:2/experts:64/r:64"),
        [=](GraphBuilder& b) { Gates(b, 2, {64}, 64, backward); });
  }
  Add("BM_SmallSums/gates:72", [](GraphBuilder& b) { Sums(b, 72); });
}

const BenchmarkSet kSet(AddAll);

}  // namespace
}  // namespace strata::gpu
