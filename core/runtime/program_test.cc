#include "core/runtime/program.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/ops/activation.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ProgramTest : public ::testing::Test {
 protected:
  CpuBackend backend_{/*num_threads=*/2, AllCpuKernels()};
  StateStore state_{backend_};
};

// y = sigmoid(2x + x), rows ragged by n.
Graph RaggedGraph() {
  GraphBuilder b;
  const ValueId n = b.Input("n", DType::kI32, {});
  const ValueId x = b.Input("x", DType::kF32, {Ragged(4, n), Static(2)});
  GraphBuilder::Scope scope(b, "layer.1");
  b.Output("y", Sigmoid(b, Add(b, Scale(b, x, 2.0), x)));
  return *b.Finish();
}

TEST_F(ProgramTest, RunsAsManyRowsAsTheCountSays) {
  auto program = Program::Compile(RaggedGraph(), backend_, state_);
  ASSERT_THAT(program, IsOk());
  *(*program)->Input("n").as<int32_t>() = 3;
  for (float& x : (*program)->Input("x").span<float>()) x = 0;

  ASSERT_THAT((*program)->Run(), IsOk());

  EXPECT_THAT((*program)->Output("y").shape, ElementsAre(3, 2));
  EXPECT_THAT((*program)->Output("y").span<float>(),
              ElementsAre(0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f));
  EXPECT_EQ((*program)->LiveBinding()((*program)->graph().FindSource("n"), 4),
            3);
}

TEST_F(ProgramTest, ReuseOfMemoryChangesNoResult) {
  Program::Options no_reuse;
  no_reuse.reuse_memory = false;
  auto shared = Program::Compile(RaggedGraph(), backend_, state_);
  auto apart = Program::Compile(RaggedGraph(), backend_, state_, no_reuse);
  ASSERT_THAT(shared, IsOk());
  ASSERT_THAT(apart, IsOk());
  for (Program* program : {shared->get(), apart->get()}) {
    *program->Input("n").as<int32_t>() = 4;
    float next = -1;
    for (float& x : program->Input("x").span<float>()) x = next += 0.25f;
    ASSERT_THAT(program->Run(), IsOk());
  }

  EXPECT_EQ((*shared)->Output("y").span<float>(),
            (*apart)->Output("y").span<float>());
  EXPECT_LT((*shared)->plan().arena_bytes, (*apart)->plan().arena_bytes);
}

TEST_F(ProgramTest, NamesTheFirstOperatorThatMadeANan) {
  auto program = Program::Compile(RaggedGraph(), backend_, state_);
  ASSERT_THAT(program, IsOk());
  *(*program)->Input("n").as<int32_t>() = 4;
  (*program)->Input("x").as<float>()[5] =
      std::numeric_limits<float>::infinity();

  EXPECT_THAT((*program)->Run(), IsOk());
  EXPECT_THAT((*program)->RunChecked(),
              StatusIs(absl::StatusCode::kOutOfRange,
                       AllOf(HasSubstr("layer.1/Scale"), HasSubstr("inf"),
                             HasSubstr("element 5"))));
}

TEST_F(ProgramTest, ANodeWithoutKernelIsAnErrorThatSaysWhich) {
  CpuBackend bare(/*num_threads=*/1, KernelRegistry());
  StateStore state(bare);

  EXPECT_THAT(Program::Compile(RaggedGraph(), bare, state),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("layer.1/Scale: backend cpu has no kernel "
                                 "for Scale on F32")));
}

TEST_F(ProgramTest, ProgramsShareStateByNameAndItsTypesMustAgree) {
  GraphBuilder b;
  const ValueId w = b.Parameter("w", {Static(2), Static(2)});
  b.Output("y", Scale(b, w, 3.0));
  auto program = Program::Compile(*b.Finish(), backend_, state_);
  ASSERT_THAT(program, IsOk());
  state_.Get("w").as<float>()[3] = 2;

  ASSERT_THAT((*program)->Run(), IsOk());
  EXPECT_THAT((*program)->Output("y").span<float>(), ElementsAre(0, 0, 0, 6));

  GraphBuilder other;
  other.Parameter("w", {Static(3)});
  EXPECT_THAT(Program::Compile(*other.Finish(), backend_, state_),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("w is F32[2, 2]; the graph wants F32[3]")));
}

}  // namespace
}  // namespace strata
