#include "cuda/runtime/cuda_backend.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/graph/builder.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/ops/optimizer.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/kernel_table.h"
#include "cuda/runtime/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// sum = keep * sum + 2 x, and y = 2 x.
absl::StatusOr<Graph> Doubling() {
  GraphBuilder b;
  const Dim t = Ragged(4, b.Input("n", DType::kI32, {}));
  const ValueId x = b.Input("x", DType::kF32, {t, Static(1)});
  const ValueId y = Scale(b, x, 2);
  b.Output("y", y);
  Accumulate(b, b.State("sum", DType::kF32, {Static(1)}), SumRows(b, y),
             b.Input("keep", DType::kF32, {}));
  return b.Finish();
}

class CudaBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no GPU";
    auto backend = CudaBackend::Create(CudaOptions(), AllCudaKernels());
    ASSERT_THAT(backend, IsOk());
    backend_ = *std::move(backend);
  }

  std::unique_ptr<CudaBackend> backend_;
};

TEST_F(CudaBackendTest, RunsOneByOneThenCapturedThenReplayed) {
  StateStore state(*backend_);
  absl::StatusOr<Graph> graph = Doubling();
  ASSERT_THAT(graph, IsOk());
  auto program = Program::Compile(*std::move(graph), *backend_, state);
  ASSERT_THAT(program, IsOk());
  float sum = 0;
  *(*program)->Input("keep").as<float>() = 1;
  for (int run = 1; run <= 4; ++run) {
    // Counts change from run to run; the captured graph does not.
    const int n = 1 + run % 3;
    *(*program)->Input("n").as<int32_t>() = n;
    for (int i = 0; i < n; ++i) {
      (*program)->Input("x").as<float>()[i] = static_cast<float>(run + i);
      sum += 2.f * (run + i);
    }
    ASSERT_THAT((*program)->Run(), IsOk());
    const TensorView y = (*program)->Output("y");
    ASSERT_EQ(y.dim(0), n);
    EXPECT_EQ(y.as<float>()[n - 1], 2.f * (run + n - 1));
    EXPECT_EQ(*state.Get("sum").as<float>(), sum);
    if (run == 3) *state.Get("sum").as<float>() = sum = 0.5f;
  }
}

// y goes back into x on the device, through memory of its own; the host, whose
// copy of x holds 1s, is not asked. What is beside x still comes from it.
TEST_F(CudaBackendTest, AnInputThatIsFilledInPlaceStaysOnTheDevice) {
  StateStore state(*backend_);
  absl::StatusOr<Graph> graph = Doubling();
  ASSERT_THAT(graph, IsOk());
  auto program = Program::Compile(*std::move(graph), *backend_, state);
  ASSERT_THAT(program, IsOk());
  (*program)->FillInPlace("x");
  *(*program)->Input("n").as<int32_t>() = 3;
  *(*program)->Input("keep").as<float>() = 1;
  const TensorView& x = (*program)->Input("x");
  for (int i = 0; i < 3; ++i) x.as<float>()[i] = 1;
  ASSERT_THAT(backend_->ToDevice(x), IsOk());
  const auto kept = backend_->Allocate(x.num_bytes());
  ASSERT_THAT(kept, IsOk());
  float sum = 0;
  for (int run = 0; run < 4; ++run) {
    ASSERT_THAT((*program)->Run(), IsOk());
    const TensorView y = (*program)->OutputInPlace("y");
    ASSERT_EQ(y.dim(0), 3);
    ASSERT_THAT(backend_->Copy((*kept)->data(), y.data, y.num_bytes()), IsOk());
    ASSERT_THAT(backend_->Copy(x.data, (*kept)->data(), y.num_bytes()), IsOk());
    sum += 3 * static_cast<float>(2 << run);
    EXPECT_EQ(*state.Get("sum").as<float>(), sum);
  }
  EXPECT_EQ(x.as<float>()[0], 1);
  EXPECT_EQ((*program)->Output("y").as<float>()[2], 16);
}

// y of one program is x of another, in two frames by turns: each has a captured
// graph of its own.
TEST_F(CudaBackendTest, ProgramsHandValuesToOneAnotherInFrames) {
  StateStore state(*backend_);
  const auto compile = [&](const std::string& name) {
    Program::Options options;
    options.in_frames[name] = {/*frame=*/0, /*offset=*/256};
    auto program = Program::Compile(*Doubling(), *backend_, state, options);
    EXPECT_THAT(program, IsOk());
    return *std::move(program);
  };
  const auto first = compile("y");
  const auto second = compile("x");
  std::vector<std::unique_ptr<Memory>> frames;
  for (int i = 0; i < 2; ++i) {
    auto frame = backend_->Allocate(1024);
    ASSERT_THAT(frame, IsOk());
    frames.push_back(*std::move(frame));
  }
  float sum = 0;
  for (int round = 0; round < 8; ++round) {
    // Both frames are full before the first is read.
    for (int frame = 0; frame < 2; ++frame) {
      ASSERT_THAT(first->UseFrames({frames[frame]->data()}), IsOk());
      *first->Input("keep").as<float>() = 1;
      *first->Input("n").as<int32_t>() = 3;
      for (int i = 0; i < 3; ++i) {
        first->Input("x").as<float>()[i] = 10 * round + frame + i;
      }
      ASSERT_THAT(first->Run(), IsOk());
      sum += 2 * (3 * (10 * round + frame) + 3);
    }
    for (int frame = 0; frame < 2; ++frame) {
      ASSERT_THAT(second->UseFrames({frames[frame]->data()}), IsOk());
      *second->Input("keep").as<float>() = 1;
      *second->Input("n").as<int32_t>() = 3;
      ASSERT_THAT(second->Run(), IsOk());
      sum += 4 * (3 * (10 * round + frame) + 3);
      EXPECT_EQ(second->Output("y").as<float>()[2],
                4 * (10 * round + frame + 2));
    }
    EXPECT_EQ(*state.Get("sum").as<float>(), sum);
  }
}

TEST_F(CudaBackendTest, CheckedRunNamesTheFirstOperatorThatMadeNoNumber) {
  StateStore state(*backend_);
  absl::StatusOr<Graph> graph = Doubling();
  ASSERT_THAT(graph, IsOk());
  auto program = Program::Compile(*std::move(graph), *backend_, state);
  ASSERT_THAT(program, IsOk());
  *(*program)->Input("n").as<int32_t>() = 2;
  (*program)->Input("x").as<float>()[1] =
      std::numeric_limits<float>::infinity();
  EXPECT_THAT((*program)->RunChecked(),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("Scale")));
}

TEST_F(CudaBackendTest, AProfileHasEveryOperator) {
  StateStore state(*backend_);
  absl::StatusOr<Graph> graph = Doubling();
  ASSERT_THAT(graph, IsOk());
  auto program = Program::Compile(*std::move(graph), *backend_, state);
  ASSERT_THAT(program, IsOk());
  (*program)->EnableProfile();
  ASSERT_THAT((*program)->Run(), IsOk());
  EXPECT_EQ((*program)->Profile().size(), 3);  // Scale, SumRows, Accumulate.
}

TEST_F(CudaBackendTest, AMissingKernelIsNamed) {
  auto backend = CudaBackend::Create(CudaOptions(), KernelTable());
  ASSERT_THAT(backend, IsOk());
  StateStore state(**backend);
  absl::StatusOr<Graph> graph = Doubling();
  ASSERT_THAT(graph, IsOk());
  EXPECT_THAT(
      Program::Compile(*std::move(graph), **backend, state).status(),
      StatusIs(absl::StatusCode::kUnimplemented,
               HasSubstr("backend cuda has no kernel for Scale on F32")));
}

TEST_F(CudaBackendTest, TooLittleMemorySaysWhatThereIs) {
  EXPECT_THAT(backend_->Allocate(int64_t{1} << 42).status(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("want 4194304.0 MiB on the GPU")));
  // And goes on.
  EXPECT_THAT(backend_->Allocate(1 << 20).status(), IsOk());
}

TEST_F(CudaBackendTest, MemoryThatAStoreAdoptedGetsATwin) {
  std::vector<float> weight = {1, 2, 3, 4};
  class Borrowed : public Memory {
   public:
    explicit Borrowed(char* data) : data_(data) {}
    char* data() const override { return data_; }

   private:
    char* data_;
  };
  StateStore state(*backend_);
  TensorView view;
  view.shape = {2, 2};
  view.data = weight.data();
  state.Adopt("w", view, Role::kParameter,
              std::make_unique<Borrowed>(reinterpret_cast<char*>(view.data)));
  GraphBuilder b;
  b.Output("y", Linear(b, b.Input("x", DType::kF32, {Static(1), Static(2)}),
                       b.Parameter("w", {Static(2), Static(2)})));
  absl::StatusOr<Graph> graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  auto program = Program::Compile(*std::move(graph), *backend_, state);
  ASSERT_THAT(program, IsOk());
  (*program)->Input("x").as<float>()[0] = 1;
  (*program)->Input("x").as<float>()[1] = 10;
  ASSERT_THAT((*program)->Run(), IsOk());
  EXPECT_THAT((*program)->Output("y").span<float>(), ElementsAre(21, 43));
}

// y = x (2 w)^T: only parameters enter 2 w, which is made when they change,
// whoever changes them, and not in every run.
TEST_F(CudaBackendTest, ConstantsFollowTheirParameters) {
  StateStore state(*backend_);
  GraphBuilder b;
  const ValueId w = b.Parameter("w", {Static(1), Static(1)});
  b.Output("y", Linear(b, b.Input("x", DType::kF32, {Static(1), Static(1)}),
                       Scale(b, w, 2)));
  absl::StatusOr<Graph> graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  auto program = Program::Compile(*std::move(graph), *backend_, state);
  ASSERT_THAT(program, IsOk());
  const auto run = [&] {
    EXPECT_THAT((*program)->Run(), IsOk());
    return (*program)->Output("y").as<float>()[0];
  };
  *(*program)->Input("x").as<float>() = 10;
  *state.Get("w").as<float>() = 3;
  EXPECT_EQ(run(), 60);  // By itself, captured, replayed.
  EXPECT_EQ(run(), 60);
  EXPECT_EQ(run(), 60);

  *state.Get("w").as<float>() = 4;
  EXPECT_EQ(run(), 80);
  EXPECT_EQ(run(), 80);

  GraphBuilder update;
  const ValueId one = update.Input("one", DType::kF32, {});
  AdamWOptions options;
  options.weight_decay = 0;
  AdamW(update, update.Parameter("w", {Static(1), Static(1)}),
        update.State("m", DType::kF32, {Static(1), Static(1)}),
        update.State("v", DType::kF32, {Static(1), Static(1)}),
        update.State("g", DType::kF32, {Static(1), Static(1)}), one, one, one,
        update.Input("step", DType::kI32, {}), options);
  absl::StatusOr<Graph> step = update.Finish();
  ASSERT_THAT(step, IsOk());
  auto optimizer = Program::Compile(*std::move(step), *backend_, state);
  ASSERT_THAT(optimizer, IsOk());
  *(*optimizer)->Input("one").as<float>() = 1;
  *(*optimizer)->Input("step").as<int32_t>() = 1;
  *state.Get("g").as<float>() = 1;
  ASSERT_THAT((*optimizer)->Run(), IsOk());
  const float y = run();
  // Adam's first step is the learning rate, 1, against the gradient.
  EXPECT_NEAR(y, 60, 1e-3);
  EXPECT_EQ(y, 20 * *state.Get("w").as<float>());
}

TEST(NoDeviceTest, CreatingABackendWithoutAGpuIsUnavailable) {
  if (HasDevice()) GTEST_SKIP() << "there is a GPU";
  EXPECT_THAT(CudaBackend::Create(CudaOptions(), KernelTable()).status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("GPU")));
}

}  // namespace
}  // namespace strata::gpu
