#include "core/runtime/program.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
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
using ::testing::Each;
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

// What one program makes in a frame another reads there, whichever frame it is;
// neither has memory of its own for it.
TEST_F(ProgramTest, ProgramsHandValuesToOneAnotherInFrames) {
  const auto compile = [&](const Graph& graph, int64_t offset,
                           const std::string& name) {
    Program::Options options;
    options.in_frames[name] = {/*frame=*/1, offset};
    auto program = Program::Compile(graph, backend_, state_, options);
    EXPECT_THAT(program, IsOk());
    return *std::move(program);
  };
  constexpr int64_t kOffset = 256;
  GraphBuilder makes;
  makes.Output("mid",
               Scale(makes, makes.Input("x", DType::kF32, {Static(3)}), 2.0));
  GraphBuilder reads;
  reads.Output(
      "y", Scale(reads, reads.Input("mid", DType::kF32, {Static(3)}), -1.0));
  const auto first = compile(*makes.Finish(), kOffset, "mid");
  const auto second = compile(*reads.Finish(), kOffset, "mid");
  EXPECT_EQ(first->plan().arena_bytes, 0);
  std::vector<std::vector<char>> frames(
      3, std::vector<char>(kOffset + 3 * sizeof(float)));
  const auto use = [&](Program& program, int frame) {
    const std::vector<char*> bases = {nullptr, frames[frame].data()};
    ASSERT_THAT(program.UseFrames(bases), IsOk());
  };

  for (int frame = 0; frame < 3; ++frame) {
    use(*first, frame);
    for (float& x : first->Input("x").span<float>()) x = frame + 1.0f;
    ASSERT_THAT(first->Run(), IsOk());
    EXPECT_THAT(first->Output("mid").span<float>(),
                Each(2.0f * (frame + 1.0f)));
  }
  for (const int frame : {1, 0, 2}) {
    use(*second, frame);
    EXPECT_EQ(second->Input("mid").data, frames[frame].data() + kOffset);
    ASSERT_THAT(second->Run(), IsOk());
    EXPECT_THAT(second->Output("y").span<float>(),
                Each(-2.0f * (frame + 1.0f)));
  }
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
