#include "cuda/testing/timed_calls.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/tensor/bfloat16.h"
#include "cuda/testing/gpu_limits.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// Of calls i, i + 1, .. together; enqueued one behind the other, so that the
// host is ahead of the device.
double SecondsOf(const Call& call, int64_t i, int calls = 1) {
  cudaEvent_t start, stop;
  cudaEventCreate(&start);
  cudaEventCreate(&stop);
  cudaEventRecord(start);
  for (int j = 0; j < calls; ++j) {
    const cudaError_t error = call(i + j);
    CHECK(error == cudaSuccess) << cudaGetErrorString(error);
  }
  cudaEventRecord(stop);
  CHECK(cudaEventSynchronize(stop) == cudaSuccess);
  float milliseconds = 0;
  cudaEventElapsedTime(&milliseconds, start, stop);
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  return milliseconds * 1e-3;
}

// Of one of six calls behind three others, of a device that was idle, and is
// not yet slowed by the power that it draws. Published figures are often such.
double RestedSeconds(const Call& call) {
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  constexpr int kWarmUps = 3, kCalls = 6;
  SecondsOf(call, 0, kWarmUps);
  return SecondsOf(call, kWarmUps, kCalls) / kCalls;
}

double Median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

}  // namespace

__nv_bfloat16* Arrays::Normal(int64_t n) {
  static const std::vector<BFloat16> numbers = [] {
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    std::vector<BFloat16> made((1 << 20) + 7);
    for (BFloat16& x : made) x = RoundToBFloat16(normal(rng));
    return made;
  }();
  auto* const p = Make<BFloat16>(n);
  for (int64_t i = 0; i < n; i += numbers.size()) {
    const int64_t count = std::min<int64_t>(n - i, numbers.size());
    cudaMemcpy(p + i, numbers.data(), count * sizeof(BFloat16),
               cudaMemcpyHostToDevice);
  }
  return reinterpret_cast<__nv_bfloat16*>(p);
}

__nv_bfloat16* Arrays::Zeros(int64_t n) {
  auto* const p = Make<__nv_bfloat16>(n);
  cudaMemset(p, 0, n * sizeof(*p));
  return p;
}

std::vector<float> NormalFloats(int64_t n) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> made(n);
  for (float& x : made) x = normal(rng);
  return made;
}

void AddTimed(const std::string& name, double flops, double bytes,
              const MakeCall& make, const Published& best, int calls) {
  benchmark::RegisterBenchmark(
      name.c_str(),
      [=](benchmark::State& state) {
        Arrays arrays;
        const Call call = make(arrays);
        for (int i = 0; i < 3; ++i) SecondsOf(call, i);
        std::vector<double> seconds;
        for (auto _ : state) {
          const auto first = static_cast<int64_t>(seconds.size()) * calls;
          seconds.push_back(SecondsOf(call, first, calls) / calls);
          state.SetIterationTime(seconds.back());
        }
        const double median = Median(seconds);
        state.counters["median_us"] = 1e6 * median;
        if (calls > 1) {
          std::vector<double> alone;
          for (int i = 0; i < 30; ++i) alone.push_back(SecondsOf(call, i));
          state.counters["alone_us"] = 1e6 * Median(alone);
          state.counters["rested_us"] = 1e6 * RestedSeconds(call);
        }
        if (flops > 0) state.counters["TFLOP/s"] = flops / median / 1e12;
        state.counters["GB/s"] = bytes / median / 1e9;
        state.counters["of_copy"] = bytes / median / CopyBandwidth();
        if (best.h200 > 0) {
          state.counters["h200_us"] = best.h200;
          state.counters["of_h200"] = 1e-6 * best.h200 / median;
        }
        if (best.h100 > 0) {
          state.counters["h100_us"] = best.h100;
          state.counters["of_h100"] = 1e-6 * best.h100 / median;
        }
      })
      ->UseManualTime()
      ->Iterations(30)
      ->Unit(benchmark::kMicrosecond);
}

}  // namespace strata::gpu
