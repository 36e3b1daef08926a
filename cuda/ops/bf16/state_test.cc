// Sums of gradients, their norm and AdamW with state in BF16, for which the CPU
// has no kernels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/adamw_halves.h"
#include "core/ops/optimizer.h"
#include "core/ops/weight_grad_sum.h"
#include "core/passes/bf16_training.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

// Numbers that are BF16.
std::vector<float> Numbers(int64_t n, int seed) {
  std::vector<float> numbers;
  for (const int32_t x : RandomInts(n, -128, 128, seed)) {
    numbers.push_back(x / 128.f);
  }
  return numbers;
}

// One program on the GPU, over poisoned memory.
class Running {
 public:
  Running(Graph graph, Precision precision) {
    CudaOptions options;
    options.precision = precision;
    options.poison = true;
    auto backend = CudaBackend::Create(options, AllCudaKernels());
    EXPECT_THAT(backend, IsOk());
    backend_ = *std::move(backend);
    state_ = std::make_unique<StateStore>(*backend_);
    auto program = Program::Compile(std::move(graph), *backend_, *state_);
    EXPECT_THAT(program, IsOk());
    program_ = *std::move(program);
  }

  Program& program() { return *program_; }
  void Set(const std::string& name, const std::vector<float>& values) {
    BFloat16* const to = state_->Get(name).as<BFloat16>();
    for (size_t i = 0; i < values.size(); ++i) {
      to[i] = RoundToBFloat16(values[i]);
    }
  }
  std::vector<float> Get(const std::string& name) {
    std::vector<float> values;
    for (const BFloat16 x : state_->Get(name).span<BFloat16>()) {
      values.push_back(Widen(x));
    }
    return values;
  }

 private:
  std::unique_ptr<CudaBackend> backend_;
  std::unique_ptr<StateStore> state_;
  std::unique_ptr<Program> program_;
};

struct Sum {
  int64_t rows, used, n, k;
  float keep;
  Precision precision;
};
using SumWeightGradTest = DeviceTest<Sum>;

TEST_P(SumWeightGradTest, AddsTheProductOfTheRowsThatCount) {
  const Sum& p = GetParam();
  GraphBuilder b;
  const ValueId count = b.Input("count", DType::kI32, {});
  const Dim rows = Ragged(p.rows, count);
  const ValueId sum = b.State("sum", DType::kBF16, {Static(p.n), Static(p.k)});
  b.Add(kSumWeightGrad,
        {sum, FloatInput(b, "dy", rows, p.n), FloatInput(b, "x", rows, p.k),
         b.Input("keep", DType::kF32, {})});
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  Running running(*std::move(graph), p.precision);
  const std::vector<float> dy = Numbers(p.rows * p.n, 1);
  const std::vector<float> x = Numbers(p.rows * p.k, 2);
  std::vector<float> before = Numbers(p.n * p.k, 3);
  if (p.keep == 0) before.assign(before.size(), INFINITY);  // To be forgotten.
  for (int run = 0; run < 3; ++run) {  // Alone, captured, replayed.
    running.Set("sum", before);
    *running.program().Input("count").as<int32_t>() =
        static_cast<int32_t>(p.used);
    *running.program().Input("keep").as<float>() = p.keep;
    std::copy(dy.begin(), dy.end(), running.program().Input("dy").as<float>());
    std::copy(x.begin(), x.end(), running.program().Input("x").as<float>());
    for (int64_t i = p.used * p.n; i < p.rows * p.n; ++i) {
      running.program().Input("dy").as<float>()[i] = NAN;
    }

    ASSERT_THAT(running.program().Run(), IsOk());

    const std::vector<float> got = running.Get("sum");
    for (int64_t i = 0; i < p.n; ++i) {
      for (int64_t j = 0; j < p.k; ++j) {
        double want = p.keep == 0 ? 0 : p.keep * double{before[i * p.k + j]};
        for (int64_t r = 0; r < p.used; ++r) {
          want += double{dy[r * p.n + i]} * x[r * p.k + j];
        }
        // Products are exact in F32 and at most 1; the sum loses a rounding a
        // term, and is then rounded to BF16.
        const double terms = static_cast<double>(p.used) + 1;
        ASSERT_NEAR(got[i * p.k + j], want,
                    std::abs(want) * 0x1p-8 + terms * terms * 0x1p-24)
            << i << ", " << j << " of run " << run;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, SumWeightGradTest,
    testing::Values(Sum{1, 1, 8, 8, 0, Precision::kBf16},
                    Sum{70, 70, 24, 40, 0, Precision::kBf16},
                    Sum{70, 33, 24, 40, 1, Precision::kBf16},
                    Sum{70, 0, 24, 40, 1, Precision::kBf16},
                    Sum{70, 33, 13, 7, 1, Precision::kBf16},
                    Sum{70, 33, 13, 7, 0, Precision::kF32},
                    Sum{70, 33, 24, 40, 1, Precision::kF32}),
    [](const testing::TestParamInfo<Sum>& info) {
      return absl::StrCat(info.index, "_", info.param.n, "x", info.param.k);
    });

class UpdateTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no GPU";
  }

  // AdamW on `n` elements of BF16, and their gradient's norm.
  static Graph Update(int64_t n, const AdamWOptions& options) {
    GraphBuilder b;
    const ValueId w = b.Parameter("w", {Static(n)});
    const ValueId grad = b.State("grad.w", DType::kF32, {Static(n)});
    const ValueId m = b.State("adam.m.w", DType::kF32, {Static(n)});
    const ValueId v = b.State("adam.v.w", DType::kF32, {Static(n)});
    const ValueId divisor = b.Input("divisor", DType::kF32, {});
    const ValueId norm = GlobalNorm(b, {grad}, divisor);
    b.Output("norm", norm);
    AdamW(b, w, m, v, grad, norm, divisor, b.Input("lr", DType::kF32, {}),
          b.Input("step", DType::kI32, {}), options);
    auto graph = b.Finish();
    EXPECT_THAT(graph, IsOk());
    return UpdateInBf16(*graph, {"w"});
  }

  static absl::Status Step(Running& running, float lr, int32_t step) {
    *running.program().Input("divisor").as<float>() = 1;
    *running.program().Input("lr").as<float>() = lr;
    *running.program().Input("step").as<int32_t>() = step;
    return running.program().Run();
  }
};

TEST_F(UpdateTest, TheNormIsThatOfAllElements) {
  for (const int64_t n : {1, 7, 8, 4099, 100003}) {
    Running running(Update(n, AdamWOptions()), Precision::kBf16);
    const std::vector<float> grad = Numbers(n, 1);
    running.Set("grad.w", grad);
    ASSERT_THAT(Step(running, 0, 1), IsOk());
    double sum = 0;
    for (const float g : grad) sum += double{g} * g;
    // Eights are added in F32.
    EXPECT_NEAR(*running.program().Output("norm").as<float>(), std::sqrt(sum),
                std::sqrt(sum) * 8 * 0x1p-24)
        << n;
  }
}

// Weights of 1 step by a tenth of the distance to the BF16 below, 2^-8: nine
// stay, one goes, and their mean is right.
TEST_F(UpdateTest, StepsBelowARoundingAreRightOnAverage) {
  constexpr int64_t n = 100003;
  AdamWOptions options;
  options.weight_decay = 0;
  options.max_norm = 1e9;
  Running running(Update(n, options), Precision::kBf16);
  running.Set("w", std::vector<float>(n, 1.f));
  running.Set("grad.w", std::vector<float>(n, 0.5f));
  // The first step is lr whatever the gradient.
  const float lr = 0.1f * 0x1p-8f;

  ASSERT_THAT(Step(running, lr, 1), IsOk());

  int64_t below = 0;
  for (const float w : running.Get("w")) {
    ASSERT_TRUE(w == 1 || w == 1 - 0x1p-8f) << w;
    below += w < 1;
  }
  // Five standard deviations of a binomial, and what moments' rounding gives.
  const double want = 0.1 * n;
  EXPECT_NEAR(static_cast<double>(below), want,
              5 * std::sqrt(want) + 0.01 * want);
  const std::vector<float> m = running.Get("adam.m.w");
  double mean = 0;
  for (const float x : m) mean += x / n;
  EXPECT_NEAR(mean, 0.05, 0.05 * 0x1p-8 * 5 / std::sqrt(n) + 1e-6);
}

TEST_F(UpdateTest, ElementsStepAsInF32ButForTheirRounding) {
  constexpr int64_t n = 1003;  // Eights and three.
  AdamWOptions options;
  Running running(Update(n, options), Precision::kF32);
  const std::vector<float> w = Numbers(n, 1), g = Numbers(n, 2);
  const std::vector<float> m = Numbers(n, 3);
  std::vector<float> v = Numbers(n, 4);
  for (float& x : v) x = std::abs(x);
  running.Set("w", w);
  running.Set("grad.w", g);
  running.Set("adam.m.w", m);
  running.Set("adam.v.w", v);
  constexpr int32_t kStep = 3;
  constexpr float kLr = 0.01f;

  ASSERT_THAT(Step(running, kLr, kStep), IsOk());

  double norm = 0;
  for (const float x : g) norm += double{x} * x;
  const double scale = std::min(1., options.max_norm / std::sqrt(norm));
  const std::vector<float> got_w = running.Get("w");
  const std::vector<float> got_m = running.Get("adam.m.w");
  const std::vector<float> got_v = running.Get("adam.v.w");
  for (int64_t i = 0; i < n; ++i) {
    const double gi = g[i] * scale;
    const double mi = options.beta1 * m[i] + (1 - options.beta1) * gi;
    const double vi = options.beta2 * v[i] + (1 - options.beta2) * gi * gi;
    const double update =
        mi / (1 - std::pow(options.beta1, kStep)) /
        (std::sqrt(vi / (1 - std::pow(options.beta2, kStep))) + options.eps);
    const double wi = w[i] - kLr * (update + options.weight_decay * w[i]);
    // Up or down: less than a unit in the last of eight bits, and F32's own.
    const auto near = [](double x) { return std::abs(x) * 0x1p-7 + 1e-7; };
    EXPECT_NEAR(got_m[i], mi, near(mi)) << i;
    EXPECT_NEAR(got_v[i], vi, near(vi)) << i;
    EXPECT_NEAR(got_w[i], wi, near(wi) + std::abs(kLr * update) * 1e-5) << i;
  }
}

// As one captured program and node by node: what goes into a launch together
// changes no bit, of weights or of what is drawn at random to round them.
TEST_F(UpdateTest, ParametersTogetherStepAsEachAlone) {
  const std::vector<int64_t> sizes = {1, 7, 8, 8191, 8192, 8193, 70001};
  GraphBuilder b;
  const auto scalar = [&](const char* name) {
    return b.Input(name, DType::kF32, {});
  };
  const ValueId norm = scalar("norm"), divisor = scalar("divisor"),
                lr = scalar("lr"), step = b.Input("step", DType::kI32, {});
  std::set<std::string> narrow;
  for (size_t i = 0; i < 2 * sizes.size(); ++i) {
    const std::string name = absl::StrCat("w", i);
    const Dims dims = {Static(sizes[i % sizes.size()])};
    AdamWOptions options;
    options.weight_decay = i % 3 == 0 ? 0 : 0.1;
    AdamW(b, b.Parameter(name, dims),
          b.State("adam.m." + name, DType::kF32, dims),
          b.State("adam.v." + name, DType::kF32, dims),
          b.State("grad." + name, DType::kF32, dims), norm, divisor, lr, step,
          options);
    if (i % 2 == 0) narrow.insert(name);
  }
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  std::vector<std::string> bytes;
  for (const bool capture : {false, true}) {
    CudaOptions options;
    options.capture = capture;
    auto backend = CudaBackend::Create(options, AllCudaKernels());
    ASSERT_THAT(backend, IsOk());
    StateStore state(**backend);
    auto program =
        Program::Compile(UpdateInBf16(*graph, narrow), **backend, state);
    ASSERT_THAT(program, IsOk());
    int seed = 0;
    for (const std::string& name : state.names()) {
      const TensorView view = state.Get(name);
      const std::vector<float> values = Numbers(view.num_elements(), ++seed);
      for (size_t j = 0; j < values.size(); ++j) {
        const float x =
            absl::StartsWith(name, "adam.v.") ? std::abs(values[j]) : values[j];
        if (view.dtype == DType::kBF16) {
          view.as<BFloat16>()[j] = RoundToBFloat16(x);
        } else {
          view.as<float>()[j] = x;
        }
      }
    }
    for (int32_t i = 1; i <= 4; ++i) {
      *(*program)->Input("norm").as<float>() = 3;
      *(*program)->Input("divisor").as<float>() = 2;
      *(*program)->Input("lr").as<float>() = 0.01f;
      *(*program)->Input("step").as<int32_t>() = i;
      ASSERT_THAT((*program)->Run(), IsOk());
    }
    std::string& all = bytes.emplace_back();
    for (const std::string& name : state.names()) {
      const TensorView view = state.Get(name);
      all.append(static_cast<const char*>(view.data), view.num_bytes());
    }
  }
  EXPECT_EQ(bytes[0].size(), bytes[1].size());
  EXPECT_TRUE(bytes[0] == bytes[1]);
}

// The weight that both halves are of, and that the upper one is the nearest.
TEST_F(UpdateTest, WeightsInHalvesStepAsInF32BitForBit) {
  const std::vector<int64_t> sizes = {1, 3, 4, 8191, 8192, 8193, 70001};
  GraphBuilder b;
  const auto scalar = [&](const char* name) {
    return b.Input(name, DType::kF32, {});
  };
  const ValueId norm = scalar("norm"), divisor = scalar("divisor"),
                lr = scalar("lr"), step = b.Input("step", DType::kI32, {});
  std::set<std::string> names;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const std::string name = absl::StrCat("w", i);
    const Dims dims = {Static(sizes[i])};
    AdamW(b, b.Parameter(name, dims),
          b.State("adam.m." + name, DType::kF32, dims),
          b.State("adam.v." + name, DType::kF32, dims),
          b.State("grad." + name, DType::kF32, dims), norm, divisor, lr, step,
          AdamWOptions());
    names.insert(name);
  }
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  auto backend = CudaBackend::Create(CudaOptions(), AllCudaKernels());
  ASSERT_THAT(backend, IsOk());
  StateStore wide(**backend), halves(**backend);
  auto want = Program::Compile(*graph, **backend, wide);
  ASSERT_THAT(want, IsOk());
  auto got = Program::Compile(UpdateInBf16(*graph, names, WeightState::kHalves),
                              **backend, halves);
  ASSERT_THAT(got, IsOk());
  int seed = 0;
  for (const std::string& name : names) {
    const int64_t n = wide.Peek(name).num_elements();
    const std::vector<float> values = Numbers(n, ++seed);
    for (int64_t j = 0; j < n; ++j) {
      wide.Get(name).as<float>()[j] = values[j];
      halves.Get(name).as<BFloat16>()[j] = RoundToBFloat16(values[j]);
    }
  }
  for (int32_t i = 1; i <= 5; ++i) {  // Alone, captured, replayed.
    for (const std::string& name : names) {
      const std::string grad = "grad." + name;
      const std::vector<float> values =
          Numbers(wide.Peek(grad).num_elements(), ++seed);
      std::copy(values.begin(), values.end(), wide.Get(grad).as<float>());
      std::copy(values.begin(), values.end(), halves.Get(grad).as<float>());
    }
    for (Program* const program : {want->get(), got->get()}) {
      *program->Input("norm").as<float>() = 3;
      *program->Input("divisor").as<float>() = 2;
      *program->Input("lr").as<float>() = 1e-3f;
      *program->Input("step").as<int32_t>() = i;
      ASSERT_THAT(program->Run(), IsOk());
    }
  }
  for (const std::string& name : names) {
    const TensorView whole = wide.Get(name);
    const TensorView high = halves.Get(name);
    const TensorView low = halves.Get(LowHalfName(name));
    int64_t moved = 0;
    for (int64_t j = 0; j < whole.num_elements(); ++j) {
      const int16_t below = static_cast<const int16_t*>(low.data)[j];
      ASSERT_EQ(JoinHalves({high.as<BFloat16>()[j], below}),
                whole.as<float>()[j])
          << name << " " << j;
      moved += below != 0;
    }
    EXPECT_GT(2 * moved, whole.num_elements());
    for (const char* part : {"adam.m.", "adam.v."}) {
      const TensorView a = wide.Get(part + name), c = halves.Get(part + name);
      EXPECT_EQ(std::memcmp(a.data, c.data, a.num_bytes()), 0) << part << name;
    }
  }
}

TEST_F(UpdateTest, ANormThatIsNoNumberChangesNothing) {
  Running running(Update(16, AdamWOptions()), Precision::kBf16);
  running.Set("w", std::vector<float>(16, 1.f));
  running.Set("grad.w", std::vector<float>(16, INFINITY));
  ASSERT_THAT(Step(running, 0.1f, 1), IsOk());
  EXPECT_EQ(running.Get("w"), std::vector<float>(16, 1.f));
  EXPECT_EQ(running.Get("adam.m.w"), std::vector<float>(16, 0.f));
}

}  // namespace
}  // namespace strata::gpu
