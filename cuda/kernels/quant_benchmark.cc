// bazel run --config=cuda -c opt //cuda/kernels:quant_benchmark
//
// Products with INT4 and INT8 weights beside the same in BF16 (cuBLAS; of
// experts, Strata's grouped product). Time is the device's, of a graph of 20
// calls, a twentieth; the weights are random and change from call to call, all
// of them at least 200 MB, so that none are in L2. x is F32, and its rounding
// is part of the call, or, where a case says so, BF16, as cuBLAS has it; y is
// F32 (cuBLAS: BF16).
//
//   of_copy    bytes of weights a second, scales with them, over those of a
//              copy on this GPU in this run
//   of_bf16    how many times as fast as in BF16

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/tensor/bfloat16.h"
#include "cublas_v2.h"
#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/quant_product.h"
#include "cuda/testing/benchmark_set.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

constexpr int kCallsOfGraph = 20, kReplays = 15;
constexpr int64_t kRotatedBytes = int64_t{200} << 20;

void Check(cudaError_t error) {
  CHECK(error == cudaSuccess) << cudaGetErrorString(error);
}

// Device memory that lives as long as a case.
struct Pool {
  std::vector<void*> blocks;
  ~Pool() {
    for (void* const block : blocks) cudaFree(block);
  }
  void* Take(int64_t bytes) {
    blocks.push_back(nullptr);
    Check(cudaMalloc(&blocks.back(), bytes));
    return blocks.back();
  }
  // `copies` of what the host has, as far as that reaches, over and over.
  void* Repeat(const void* host, int64_t host_bytes, int64_t bytes) {
    auto* const to = static_cast<char*>(Take(bytes));
    for (int64_t at = 0; at < bytes; at += host_bytes) {
      Check(cudaMemcpy(to + at, host, std::min(host_bytes, bytes - at),
                       cudaMemcpyHostToDevice));
    }
    return to;
  }
};

std::vector<float> NormalNumbers(int64_t n) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(n);
  for (float& x : numbers) x = normal(rng);
  return numbers;
}

std::vector<BFloat16> NormalBf16(int64_t n) {
  std::vector<BFloat16> numbers;
  for (const float x : NormalNumbers(n)) numbers.push_back(RoundToBFloat16(x));
  return numbers;
}

// Some hundreds of rows: random codes, and scales of about 0.01.
std::vector<uint8_t> PackedNumbers(const PackedRows& w) {
  constexpr int kRows = 251;
  std::mt19937 rng(2);
  std::uniform_real_distribution<float> scale(0.005f, 0.015f);
  std::vector<uint8_t> packed(kRows * w.row_bytes);
  for (uint8_t& byte : packed) byte = static_cast<uint8_t>(rng());
  for (int row = 0; row < kRows; ++row) {
    for (int g = 0; g < w.num_groups; ++g) {
      const BFloat16 s = RoundToBFloat16(scale(rng));
      std::memcpy(&packed[row * w.row_bytes + w.code_bytes + 2 * g], &s, 2);
    }
  }
  return packed;
}

using Call = std::function<void(int i, cudaStream_t stream)>;

// Seconds of a call: the median of replays of a graph of them.
double SecondsOf(const Call& call) {
  cudaStream_t stream;
  Check(cudaStreamCreate(&stream));
  call(0, stream);  // Modules are loaded now.
  Check(cudaStreamSynchronize(stream));
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kCallsOfGraph; ++i) call(i, stream);
  cudaGraph_t graph;
  Check(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable;
  Check(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t start, stop;
  cudaEventCreate(&start);
  cudaEventCreate(&stop);
  std::vector<double> seconds;
  for (int i = 0; i < kReplays + 3; ++i) {
    cudaEventRecord(start, stream);
    Check(cudaGraphLaunch(executable, stream));
    cudaEventRecord(stop, stream);
    Check(cudaEventSynchronize(stop));
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, start, stop);
    if (i >= 3) seconds.push_back(1e-3 * milliseconds / kCallsOfGraph);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

double CopyBandwidth() {
  static const double measured = [] {
    constexpr int64_t kBytes = int64_t{1} << 30;
    Pool pool;
    void* const from = pool.Take(kBytes);
    void* const to = pool.Take(kBytes);
    return 2. * kBytes / SecondsOf([=](int, cudaStream_t stream) {
             Check(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice,
                                   stream));
           });
  }();
  return measured;
}

struct Case {
  int64_t experts = 0, rows = 0, n = 0, k = 0;  // 0 experts: dense.
  int64_t matrices() const { return std::max<int64_t>(1, experts); }
};

// Rows of each expert differ as those of a gate do: shares are exp(normal / 2).
std::vector<int32_t> Offsets(const Case& c) {
  std::mt19937 rng(7);
  std::normal_distribution<double> normal;
  std::vector<double> share(c.matrices());
  for (double& x : share) x = std::exp(normal(rng) / 2);
  std::discrete_distribution<int> pick(share.begin(), share.end());
  std::vector<int32_t> offset(share.size() + 1);
  for (int64_t i = 0; i < c.rows; ++i) ++offset[pick(rng) + 1];
  for (size_t e = 1; e < offset.size(); ++e) offset[e] += offset[e - 1];
  return offset;
}

// Matrices that a call reads: those of experts that have rows.
int64_t BusyMatrices(const Case& c) {
  if (c.experts == 0) return 1;
  const std::vector<int32_t> offset = Offsets(c);
  int64_t busy = 0;
  for (size_t e = 1; e < offset.size(); ++e) busy += offset[e] > offset[e - 1];
  return busy;
}

int64_t Copies(int64_t bytes) { return 1 + kRotatedBytes / bytes; }

// y [rows, n] = x [rows, k] w [n, k]^T, in BF16 with F32 sums.
class Blas {
 public:
  explicit Blas(Pool& pool) {
    constexpr size_t kWorkspace = size_t{64} << 20;
    CHECK(cublasCreate(&handle_) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasSetWorkspace(handle_, pool.Take(kWorkspace), kWorkspace) ==
          CUBLAS_STATUS_SUCCESS);
  }
  ~Blas() { cublasDestroy(handle_); }

  void Multiply(const Case& c, const void* w, const void* x, void* y,
                cudaDataType_t type_of_y, cudaStream_t stream) const {
    const float one = 1, zero = 0;
    const auto n = static_cast<int>(c.n), k = static_cast<int>(c.k);
    CHECK(cublasSetStream(handle_, stream) == CUBLAS_STATUS_SUCCESS);
    const cublasStatus_t status = cublasGemmEx(
        handle_, CUBLAS_OP_T, CUBLAS_OP_N, n, static_cast<int>(c.rows), k, &one,
        w, CUDA_R_16BF, k, x, CUDA_R_16BF, k, &zero, y, type_of_y, n,
        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    CHECK(status == CUBLAS_STATUS_SUCCESS) << cublasGetStatusString(status);
  }

 private:
  cublasHandle_t handle_ = nullptr;
};

double Bf16Seconds(const Case& c) {
  static std::map<std::string, double> measured;
  double& seconds =
      measured[absl::StrCat(c.experts, "/", c.rows, "/", c.n, "/", c.k)];
  if (seconds > 0) return seconds;
  Pool pool;
  const std::vector<BFloat16> numbers = NormalBf16((1 << 20) + 7);
  const int64_t numbers_bytes = numbers.size() * 2;
  const int64_t elements = c.matrices() * c.n * c.k;
  const int64_t copies = Copies(2 * BusyMatrices(c) * c.n * c.k);
  auto* const w = static_cast<__nv_bfloat16*>(
      pool.Repeat(numbers.data(), numbers_bytes, 2 * elements * copies));
  auto* const x = static_cast<__nv_bfloat16*>(
      pool.Repeat(numbers.data(), numbers_bytes, 2 * c.rows * c.k));
  auto* const y = static_cast<__nv_bfloat16*>(pool.Take(2 * c.rows * c.n));
  if (c.experts > 0) {
    const std::vector<int32_t> offset = Offsets(c);
    GroupedProductArgs args;
    args.rows = {c.rows, nullptr};
    args.num_experts = static_cast<int>(c.experts);
    args.n = c.n;
    args.k = c.k;
    args.x = x;
    args.offset = static_cast<int32_t*>(
        pool.Repeat(offset.data(), 4 * offset.size(), 4 * offset.size()));
    args.y = y;
    args.bf16_y = true;
    return seconds = SecondsOf([=](int i, cudaStream_t stream) {
             GroupedProductArgs one = args;
             one.w = w + i % copies * elements;
             Check(GroupedProduct(one, stream));
           });
  }
  const Blas blas(pool);
  return seconds = SecondsOf([&](int i, cudaStream_t stream) {
           blas.Multiply(c, w + i % copies * elements, x, y, CUDA_R_16BF,
                         stream);
         });
}

enum class Kernel { kFewRows, kManyRows };

enum class X { kF32, kBf16 };

double PackedSeconds(const Case& c, const PackedRows& format, Kernel kernel,
                     X type_of_x) {
  Pool pool;
  const std::vector<uint8_t> packed = PackedNumbers(format);
  const int64_t matrix = format.n * format.row_bytes;
  const int64_t copies = Copies(BusyMatrices(c) * matrix);
  QuantProductArgs args;
  args.rows = {c.rows, nullptr};
  args.w = format;
  const auto* const w = static_cast<uint8_t*>(pool.Repeat(
      packed.data(), packed.size(), c.matrices() * matrix * copies));
  if (type_of_x == X::kF32) {
    const std::vector<float> numbers = NormalNumbers((1 << 20) + 7);
    args.x = static_cast<float*>(
        pool.Repeat(numbers.data(), 4 * numbers.size(), 4 * c.rows * c.k));
  } else {
    const std::vector<BFloat16> numbers = NormalBf16((1 << 20) + 7);
    args.x_bf16 = static_cast<__nv_bfloat16*>(
        pool.Repeat(numbers.data(), 2 * numbers.size(), 2 * c.rows * c.k));
  }
  args.y = static_cast<float*>(pool.Take(4 * c.rows * c.n));
  const Fault no_fault;
  args.fault.fault =
      static_cast<Fault*>(pool.Repeat(&no_fault, sizeof(Fault), sizeof(Fault)));
  if (c.experts > 0) {
    const std::vector<int32_t> offset = Offsets(c);
    args.num_experts = static_cast<int>(c.experts);
    args.offset = static_cast<int32_t*>(
        pool.Repeat(offset.data(), 4 * offset.size(), 4 * offset.size()));
  }
  auto* const rounded =
      static_cast<__nv_bfloat16*>(pool.Take(2 * RoundedElements(args)));
  return SecondsOf([&](int i, cudaStream_t stream) {
    QuantProductArgs one = args;
    one.w.data = w + i % copies * c.matrices() * matrix;
    Check(kernel == Kernel::kFewRows ? QuantProduct(one, rounded, stream)
                                     : QuantProductSm90(one, rounded, stream));
  });
}

void Add(const Case& c, int bits, int64_t group, bool symmetric, Kernel kernel,
         X type_of_x = X::kF32) {
  const std::string name = absl::StrCat(
      c.experts > 0 ? absl::StrCat("BM_QuantGrouped/experts:", c.experts)
                    : std::string("BM_QuantProduct"),
      "/int", bits, "/group:", group, symmetric ? "" : "/zeros",
      "/rows:", c.rows, "/n:", c.n, "/k:", c.k,
      kernel == Kernel::kFewRows ? "/few" : "/many",
      type_of_x == X::kBf16 ? "/bf16_x" : "");
  benchmark::RegisterBenchmark(
      name.c_str(),
      [=](benchmark::State& state) {
        const PackedRows format =
            DescribePacked(nullptr, c.n, c.k, bits, group, symmetric);
        const double bf16 = Bf16Seconds(c);
        double seconds = 0;
        for (auto _ : state) {
          seconds = PackedSeconds(c, format, kernel, type_of_x);
          state.SetIterationTime(seconds);
        }
        const double bytes = 1. * BusyMatrices(c) * c.n * format.row_bytes;
        state.counters["us"] = 1e6 * seconds;
        state.counters["GB/s"] = bytes / seconds / 1e9;
        state.counters["of_copy"] = bytes / seconds / CopyBandwidth();
        state.counters["TFLOP/s"] = 2. * c.rows * c.n * c.k / seconds / 1e12;
        state.counters["bf16_us"] = 1e6 * bf16;
        state.counters["of_bf16"] = bf16 / seconds;
      })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMicrosecond);
}

void AddDense(X x) {
  constexpr Kernel kFew = Kernel::kFewRows, kMany = Kernel::kManyRows;
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8192, 8192},
                             {14336, 4096},
                             {4096, 14336},
                             {1536, 2048}}) {
    for (const int64_t rows : {1, 4, 8, 16}) {
      Add({0, rows, n, k}, 4, 128, true, kFew, x);
    }
    for (const int64_t rows : {32, 64}) {
      if (n < 4096) Add({0, rows, n, k}, 4, 128, true, kFew, x);
    }
    for (const int64_t rows : {1, 16}) {
      Add({0, rows, n, k}, 4, 32, true, kFew, x);
      Add({0, rows, n, k}, 8, 128, true, kFew, x);
    }
    for (const int64_t rows : {16, 32, 64, 128, 256, 1024, 4096}) {
      Add({0, rows, n, k}, 4, 128, true, kMany, x);
    }
    Add({0, 256, n, k}, 4, 32, true, kMany, x);
    Add({0, 256, n, k}, 8, 128, true, kMany, x);
  }
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{768, 2048},
                             {2048, 2048},
                             {3072, 2048},
                             {4096, 1024},
                             {4096, 2048},
                             {2048, 4096},
                             {4096, 4096}}) {
    Add({0, 16, n, k}, 4, 128, true, kFew, x);
    for (const int64_t rows : {16, 32, 64, 128, 256}) {
      Add({0, rows, n, k}, 4, 128, true, kMany, x);
    }
  }
  // Of a dense layer beside narrow experts.
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{16384, 2048}, {2048, 8192}}) {
    Add({0, 16, n, k}, 4, 128, true, kFew, x);
    for (const int64_t rows : {16, 32, 64}) {
      Add({0, rows, n, k}, 4, 128, true, kMany, x);
    }
  }
}

void AddAll() {
  constexpr Kernel kFew = Kernel::kFewRows, kMany = Kernel::kManyRows;
  for (const X x : {X::kF32, X::kBf16}) AddDense(x);
  Add({0, 1, 8192, 8192}, 4, 128, false, kFew);
  Add({0, 256, 8192, 8192}, 4, 128, false, kMany);
  // 8, 64 and 512 slots: 1, 8 and 64 tokens, top-8; then prefill.
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{1536, 2048}, {2048, 768}}) {
    for (const X x : {X::kF32, X::kBf16}) {
      for (const int64_t rows : {8, 64, 512}) {
        Add({128, rows, n, k}, 4, 32, true, kFew, x);
      }
    }
    for (const int64_t rows : {512, 2048, 8192, 32768, 131072}) {
      Add({128, rows, n, k}, 4, 32, true, kMany);
    }
  }
}

const BenchmarkSet kSet(AddAll);

}  // namespace
}  // namespace strata::gpu
