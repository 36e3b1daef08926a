// bazel run --config=cuda -c opt //cuda/ops:rms_norm_benchmark
//
// Time is the device's, between two events around the work of one call. Arrays
// are several times the L2 cache and read once, so they come from memory. Bytes
// are the least that can move; of_copy holds their rate against
// CopyBandwidth().

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/status_macros.h"
#include "cuda/ops/rms_norm.h"
#include "cuda/runtime/device_array.h"
#include "cuda/testing/benchmark_set.h"
#include "cuda/testing/gpu_limits.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// Times what is enqueued between Start and Stop.
class DeviceTimer {
 public:
  DeviceTimer() {
    cudaEventCreate(&start_);
    cudaEventCreate(&stop_);
  }
  ~DeviceTimer() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  void Start() { cudaEventRecord(start_); }
  // Waits for the work; returns its seconds.
  double Stop() {
    cudaEventRecord(stop_);
    cudaEventSynchronize(stop_);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, start_, stop_);
    return milliseconds * 1e-3;
  }

 private:
  cudaEvent_t start_;
  cudaEvent_t stop_;
};

template <typename Element>
absl::StatusOr<DeviceArray<Element>> Random(int64_t size) {
  // Cheap, and as hard on the memory as real data; constants may not be.
  std::mt19937 rng(/*seed=*/size);
  std::uniform_real_distribution<float> uniform(-2, 2);
  std::vector<Element> pattern(1 << 16);
  for (Element& element : pattern) element = Element(uniform(rng));
  std::vector<Element> host(size);
  for (int64_t i = 0; i < size; ++i) host[i] = pattern[i % pattern.size()];
  return DeviceArray<Element>::CopyOf(host);
}

// The arrays of one shape; a benchmark uses those that its operator has.
template <typename Element>
struct Arrays {
  int64_t rows;
  int width;
  DeviceArray<Element> x, dy, out;
  DeviceArray<float> gain, rstd, dgain, partial;
};

template <typename Element>
absl::StatusOr<Arrays<Element>> MakeArrays(int64_t rows, int width) {
  ASSIGN_OR_RETURN(auto x, Random<Element>(rows * width));
  ASSIGN_OR_RETURN(auto dy, Random<Element>(rows * width));
  ASSIGN_OR_RETURN(auto out, DeviceArray<Element>::Allocate(rows * width));
  ASSIGN_OR_RETURN(auto gain, Random<float>(width));
  ASSIGN_OR_RETURN(auto rstd, Random<float>(rows));
  ASSIGN_OR_RETURN(auto dgain, DeviceArray<float>::Allocate(width));
  ASSIGN_OR_RETURN(auto partial,
                   DeviceArray<float>::Allocate(
                       int64_t{RmsNormWeightGradPartials(rows)} * width));
  return Arrays<Element>{rows,
                         width,
                         std::move(x),
                         std::move(dy),
                         std::move(out),
                         std::move(gain),
                         std::move(rstd),
                         std::move(dgain),
                         std::move(partial)};
}

template <typename Element>
cudaError_t Forward(const Arrays<Element>& a) {
  RmsNormArgs<Element> args;
  args.x = a.x.data();
  args.gain = a.gain.data();
  args.y = a.out.data();
  args.rstd = a.rstd.data();
  args.rows = a.rows;
  args.width = a.width;
  args.eps = 1e-5f;
  return RmsNorm(args, /*stream=*/nullptr);
}

template <typename Element>
cudaError_t InputGrad(const Arrays<Element>& a) {
  RmsNormInputGradArgs<Element> args;
  args.dy = a.dy.data();
  args.x = a.x.data();
  args.gain = a.gain.data();
  args.rstd = a.rstd.data();
  args.dx = a.out.data();
  args.rows = a.rows;
  args.width = a.width;
  return RmsNormInputGrad(args, /*stream=*/nullptr);
}

template <typename Element>
cudaError_t WeightGrad(const Arrays<Element>& a) {
  RmsNormWeightGradArgs<Element> args;
  args.dy = a.dy.data();
  args.x = a.x.data();
  args.rstd = a.rstd.data();
  args.dgain = a.dgain.data();
  args.partial = a.partial.data();
  args.rows = a.rows;
  args.width = a.width;
  return RmsNormWeightGrad(args, /*stream=*/nullptr);
}

// `passes` is how many arrays of [rows, width] the operator reads and writes.
template <typename Element>
void Run(benchmark::State& state, int passes,
         cudaError_t (*enqueue)(const Arrays<Element>&)) {
  const auto arrays = MakeArrays<Element>(state.range(0), state.range(1));
  if (!arrays.ok()) {
    state.SkipWithError(arrays.status().ToString().c_str());
    return;
  }
  DeviceTimer timer;
  double total_seconds = 0;
  for (auto _ : state) {
    timer.Start();
    const cudaError_t error = enqueue(*arrays);
    const double seconds = timer.Stop();
    if (error != cudaSuccess) {
      state.SkipWithError(cudaGetErrorString(error));
      return;
    }
    state.SetIterationTime(seconds);
    total_seconds += seconds;
  }
  const int64_t bytes =
      passes * arrays->rows * arrays->width * sizeof(Element) +
      arrays->rows * sizeof(float);
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["of_copy"] =
      state.iterations() * bytes / total_seconds / CopyBandwidth();
}

template <typename Element>
void BM_RmsNorm(benchmark::State& state) {
  Run<Element>(state, /*passes=*/2, Forward<Element>);
}

template <typename Element>
void BM_RmsNormInputGrad(benchmark::State& state) {
  Run<Element>(state, /*passes=*/3, InputGrad<Element>);
}

template <typename Element>
void BM_RmsNormWeightGrad(benchmark::State& state) {
  Run<Element>(state, /*passes=*/2, WeightGrad<Element>);
}

// Widths of strata-1b, of 7 B models and of DeepSeek-V3; 0.25 to 0.9 GB an
// array, of an L2 cache of 50 MB.
void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "width"})
      ->Args({131072, 1024})
      ->Args({65536, 2048})
      ->Args({32768, 4096})
      ->Args({32768, 7168})
      ->UseManualTime();
}

template <typename Element>
void Add(const std::string& type) {
  const auto add = [&](const std::string& name, auto* run) {
    Shapes(
        benchmark::RegisterBenchmark((name + "<" + type + ">").c_str(), run));
  };
  add("RmsNorm", BM_RmsNorm<Element>);
  add("RmsNormInputGrad", BM_RmsNormInputGrad<Element>);
  add("RmsNormWeightGrad", BM_RmsNormWeightGrad<Element>);
}

void AddAll() {
  Add<__nv_bfloat16>("BF16");
  Add<float>("F32");
}

const BenchmarkSet kSet(AddAll);

}  // namespace
}  // namespace strata::gpu
