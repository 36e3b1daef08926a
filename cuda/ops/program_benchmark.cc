// bazel run --config=cuda -c opt //cuda/ops:program_benchmark
//
// Operators as programs run them: one captured graph, from Run() to its return.
// BM_Nothing is what a launch and the wait for it take; it is part of all
// others. Operands lie on the GPU and are random.
//
//   of_copy     bytes a second over those of a copy on this GPU, in this run
//   of_cublas   FLOP/s over those of cuBLAS' BF16 product of 8192 x 8192 x 8192

#include <algorithm>
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
#include "core/model/config.h"
#include "core/model/gate.h"
#include "core/model/init.h"
#include "core/ops/attention.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/ops/move_codes.h"
#include "core/ops/optimizer.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/testing/benchmark_set.h"
#include "cuda/testing/gpu_limits.h"

namespace strata::gpu {
namespace {

using Build = std::function<void(GraphBuilder&)>;
using FillFn = std::function<void(Program&, StateStore&)>;

// A program on the GPU with normal numbers in its state and parameters.
class Compiled {
 public:
  Compiled(const Build& build, const FillFn& fill, Precision precision,
           bool fuse) {
    CudaOptions options;
    options.precision = precision;
    auto backend = CudaBackend::Create(options, AllCudaKernels());
    CHECK(backend.ok()) << backend.status().ToString();
    backend_ = *std::move(backend);
    state_ = std::make_unique<StateStore>(*backend_);
    GraphBuilder b;
    build(b);
    auto graph = b.Finish();
    CHECK(graph.ok()) << graph.status().ToString();
    if (fuse) *graph = FuseFor(*graph, *backend_, *state_);
    auto program = Program::Compile(*std::move(graph), *backend_, *state_);
    CHECK(program.ok()) << program.status().ToString();
    program_ = *std::move(program);
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    std::vector<float> numbers(1 << 20);
    for (float& x : numbers) x = normal(rng);
    for (const std::string& name : state_->names()) {
      const TensorView& view = state_->Get(name);
      const auto number = [&](int64_t i) {
        return numbers[(i * 7 + i / 1000) & (numbers.size() - 1)];
      };
      if (view.dtype == DType::kF32) {
        float* const to = view.as<float>();
        for (int64_t i = 0; i < view.num_elements(); ++i) to[i] = number(i);
      } else if (view.dtype == DType::kBF16) {
        auto* const to = static_cast<BFloat16*>(view.data);
        for (int64_t i = 0; i < view.num_elements(); ++i) {
          to[i] = RoundToBFloat16(number(i));
        }
      }
    }
    if (fill) fill(*program_, *state_);
    for (int run = 0; run < 3; ++run) Run();  // Alone, captured, replayed.
  }

  void Run() {
    const absl::Status status = program_->Run();
    CHECK(status.ok()) << status.ToString();
  }

 private:
  std::unique_ptr<CudaBackend> backend_;
  std::unique_ptr<StateStore> state_;
  std::unique_ptr<Program> program_;
};

struct Work {
  double flops = 0, bytes = 0;
  FillFn fill;
  Precision precision = Precision::kF32;
  bool fuse = false;
};

void BM_Program(benchmark::State& state, const Build& build, const Work& work) {
  Compiled program(build, work.fill, work.precision, work.fuse);
  std::vector<double> seconds;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    program.Run();
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count());
    state.SetIterationTime(seconds.back());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  state.counters["median_us"] = 1e6 * median;
  if (work.flops > 0) {
    state.counters["TFLOP/s"] = work.flops / median / 1e12;
    if (work.precision == Precision::kBf16) {
      state.counters["of_cublas"] = work.flops / median / BlasBf16Peak();
    }
  }
  if (work.bytes > 0) {
    state.counters["GB/s"] = work.bytes / median / 1e9;
    state.counters["of_copy"] = work.bytes / median / CopyBandwidth();
  }
}

void Add(const std::string& name, const Build& build, const Work& work) {
  benchmark::RegisterBenchmark(name.c_str(), BM_Program, build, work)
      ->UseManualTime()
      ->Iterations(30)
      ->Unit(benchmark::kMicrosecond);
}

// SPEC's A2: 128 experts in four tiers, each gate with its dispatch plan.
void AddRouting(int64_t tokens, Precision precision, bool fuse) {
  const ModelConfig config = *ModelPreset("strata-1b");
  const auto& moe = config.moe().hierarchical();
  Add(absl::StrCat("BM_Routing/tokens:", tokens, "/experts:128",
                   precision == Precision::kBf16 ? "/bf16" : "/fp32",
                   fuse ? "/fused" : ""),
      [=](GraphBuilder& b) {
        const ValueId x = b.State("x", DType::kF32,
                                  {Static(tokens), Static(config.d_model())});
        for (int tier = 0; tier < moe.tier_experts_size(); ++tier) {
          GraphBuilder::Scope scope(b, absl::StrCat("tier.", tier));
          const int64_t experts = moe.tier_experts(tier);
          const Routing routing = TierGate(b, config, experts, x, {});
          const DispatchPlanResult plan =
              DispatchPlan(b, routing.expert, experts);
          b.Output(absl::StrCat("weight.", tier), routing.weight);
          b.Output(absl::StrCat("row_slot.", tier), plan.row_slot);
        }
      },
      {/*flops=*/0, /*bytes=*/0,
       [=](Program&, StateStore& state) {
         InitializeParameters(config, /*seed=*/1, state);
       },
       precision, fuse});
}

// Rows are spread evenly; experts without any are not touched. With BF16 the
// weights are BF16 in memory as well.
void AddGrouped(int64_t experts, int64_t rows, int64_t k, int64_t n,
                Precision precision) {
  const bool narrow = precision == Precision::kBf16;
  const double touched = std::min(experts, rows);
  const double flops = 2.0 * rows * k * n;
  const double bytes =
      4.0 * rows * (k + n) + (narrow ? 2.0 : 4.0) * touched * k * n;
  Add(absl::StrCat("BM_GroupedMatMul/experts:", experts, "/rows:", rows,
                   "/k:", k, "/n:", n, narrow ? "/bf16" : "/fp32"),
      [=](GraphBuilder& b) {
        b.Output("y",
                 GroupedMatMul(
                     b, b.State("x", DType::kF32, {Static(rows), Static(k)}),
                     b.State("w", narrow ? DType::kBF16 : DType::kF32,
                             {Static(experts), Static(n), Static(k)}),
                     b.Input("offset", DType::kI32, {Static(experts + 1)})));
      },
      {flops, bytes,
       [=](Program& program, StateStore&) {
         int32_t* const offset = program.Input("offset").as<int32_t>();
         for (int64_t e = 0; e <= experts; ++e) {
           offset[e] = static_cast<int32_t>(e * rows / experts);
         }
       },
       precision});
}

void AddDense(int64_t m, int64_t n, int64_t k, Precision precision,
              const char* name) {
  Add(absl::StrCat("BM_MatMul/m:", m, "/n:", n, "/k:", k, "/", name),
      [=](GraphBuilder& b) {
        b.Output("y",
                 Linear(b, b.State("x", DType::kF32, {Static(m), Static(k)}),
                        b.Parameter("w", {Static(n), Static(k)})));
      },
      {2.0 * m * n * k, 4.0 * (m * k + n * k + m * n), nullptr, precision});
}

AttentionOptions Heads(int64_t heads, int64_t kv_heads, int64_t dim) {
  AttentionOptions options;
  options.num_heads = heads;
  options.num_kv_heads = kv_heads;
  options.scale = 1 / std::sqrt(dim);
  return options;
}

void AddAttention(int64_t tokens, int64_t heads, int64_t kv_heads,
                  int64_t dim) {
  Add(absl::StrCat("BM_Attention/tokens:", tokens, "/heads:", heads, "/",
                   kv_heads, "/dim:", dim),
      [=](GraphBuilder& b) {
        const auto rows = [&](const char* name, int64_t count) {
          return b.State(name, DType::kF32, {Static(tokens), Static(count)});
        };
        b.Output("o",
                 Attention(b, rows("q", heads * dim), rows("k", kv_heads * dim),
                           rows("v", kv_heads * dim),
                           b.Input("seq_start", DType::kI32, {Static(2)}),
                           Heads(heads, kv_heads, dim)));
      },
      {2.0 * tokens * (tokens + 1) * heads * dim, 0,
       [=](Program& program, StateStore&) {
         program.Input("seq_start").as<int32_t>()[1] =
             static_cast<int32_t>(tokens);
       }});
}

void AddDecode(int64_t batch, int64_t keys, int64_t heads, int64_t kv_heads,
               int64_t dim) {
  Add(absl::StrCat("BM_CachedAttention/batch:", batch, "/keys:", keys,
                   "/heads:", heads, "/", kv_heads, "/dim:", dim),
      [=](GraphBuilder& b) {
        const auto cache = [&](const char* name) {
          return b.State(name, DType::kF32,
                         {Static(batch * keys), Static(kv_heads * dim)});
        };
        b.Output("o", CachedAttention(
                          b,
                          b.State("q", DType::kF32,
                                  {Static(batch), Static(heads * dim)}),
                          cache("k"), cache("v"),
                          b.Input("first_row", DType::kI32, {Static(batch)}),
                          b.Input("position", DType::kI32, {Static(batch)}),
                          Heads(heads, kv_heads, dim)));
      },
      {0, 8.0 * batch * keys * kv_heads * dim,
       [=](Program& program, StateStore&) {
         for (int64_t i = 0; i < batch; ++i) {
           program.Input("first_row").as<int32_t>()[i] =
               static_cast<int32_t>(i * keys);
           program.Input("position").as<int32_t>()[i] =
               static_cast<int32_t>(keys - 1);
         }
       }});
}

void AddAdamW(int64_t n) {
  Add(absl::StrCat("BM_AdamW/elements:", n),
      [=](GraphBuilder& b) {
        const auto state = [&](const char* name) {
          return b.State(name, DType::kF32, {Static(n)});
        };
        AdamW(b, b.Parameter("p", {Static(n)}), state("m"), state("v"),
              state("g"), b.Input("norm", DType::kF32, {}),
              b.Input("divisor", DType::kF32, {}),
              b.Input("lr", DType::kF32, {}), b.Input("step", DType::kI32, {}),
              AdamWOptions());
      },
      {0, 28.0 * n, [](Program& program, StateStore& state) {
         for (const char* name : {"norm", "divisor", "lr"}) {
           *program.Input(name).as<float>() = 1e-3f;
         }
         *program.Input("step").as<int32_t>() = 1;
         for (float& v : state.Get("v").span<float>()) v = v * v;
       }});
}

// Codes of 4 bits that are learned.
void AddMoveCodes(int64_t rows, int64_t columns, int64_t group) {
  Add(absl::StrCat("BM_MoveCodes/rows:", rows, "/columns:", columns,
                   "/group:", group),
      [=](GraphBuilder& b) {
        const Dims dims = {Static(rows), Static(columns)};
        MoveCodesOptions options;
        options.group = group;
        options.symmetric = false;
        MoveCodes(b, b.Parameter("w", dims), b.State("g", DType::kF32, dims),
                  AddCodeStates(b, "", dims, group, /*matrices=*/1),
                  b.Input("lr", DType::kF32, {}),
                  b.Input("step", DType::kI32, {}), options);
      },
      // Of a group the scale, the zero and four moments, in and out.
      {0, (20.0 + 48.0 / static_cast<double>(group)) * rows * columns,
       [](Program& program, StateStore& state) {
         *program.Input("lr").as<float>() = 0.03f;
         *program.Input("step").as<int32_t>() = 1;
         *state.Get("bits").as<int32_t>() = 4;
         for (float& m : state.Get("moments").span<float>()) m = m * m;
       }});
}

void AddAll() {
  Add("BM_Nothing",
      [](GraphBuilder& b) { b.Output("one", strata::Fill(b, 1)); }, {});
  AddRouting(4096, Precision::kF32, /*fuse=*/false);
  for (const int64_t tokens : {4096, 64, 1}) {
    for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
      AddRouting(tokens, precision, /*fuse=*/true);
    }
  }
  AddDense(4096, 4096, 4096, Precision::kF32, "fp32");
  AddDense(4096, 4096, 4096, Precision::kTf32, "tf32");
  AddDense(4096, 4096, 4096, Precision::kBf16, "bf16");
  AddDense(1, 32768, 4096, Precision::kF32, "fp32");
  AddGrouped(128, 32768, 2048, 1536, Precision::kF32);
  AddGrouped(128, 8, 2048, 1536, Precision::kF32);
  for (const int64_t rows : {131072, 32768, 2048, 8}) {
    AddGrouped(128, rows, 2048, 1536, Precision::kBf16);
  }
  AddGrouped(64, 98304, 2048, 2816, Precision::kBf16);
  AddGrouped(32, 8192, 7168, 4096, Precision::kBf16);
  AddAttention(4096, 16, 4, 64);
  AddDecode(64, 4096, 32, 8, 128);
  AddDecode(1, 4096, 32, 8, 128);
  AddAdamW(int64_t{1} << 27);
  for (const int64_t group : {32, 128}) AddMoveCodes(1 << 16, 2048, group);
}

const BenchmarkSet kSet(AddAll);

}  // namespace
}  // namespace strata::gpu
