#include "core/cpu/collective.h"

#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/ops/collective.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

Graph TwoStates(DType dtype, absl::string_view group) {
  GraphBuilder b(DType::kF32);
  const ValueId x = b.State("x", dtype, {Static(3), Static(5)});
  const ValueId y = b.State("y", dtype, {Static(1)});
  AllReduce(b, {x, y}, group);
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

template <typename T>
void ExpectSums() {
  const MeshShape shape = {/*dp=*/3, 1, 1};
  const auto world = ThreadCommunicators(shape.size(), absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([rank = rank.get(), &shape] {
      const auto mesh = Mesh::Create(*rank, shape);
      ASSERT_THAT(mesh, IsOk());
      KernelRegistry kernels;
      RegisterCollectiveKernels(kernels);
      CpuBackend backend(1, std::move(kernels));
      backend.set_mesh(mesh->get());
      StateStore state(backend);
      auto program =
          Program::Compile(TwoStates(DTypeOf<T>(), "dp"), backend, state);
      ASSERT_THAT(program, IsOk());
      for (T& x : state.Get("x").template span<T>()) {
        x = static_cast<T>(rank->rank() + 1);
      }
      *state.Get("y").template as<T>() = static_cast<T>(10 * rank->rank());

      ASSERT_THAT((*program)->Run(), IsOk());

      EXPECT_THAT(state.Get("x").template span<T>(), Each(6));
      EXPECT_THAT(state.Get("y").template span<T>(), Each(30));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(AllReduceTest, SumsStatesOverTheRanksOfAGroup) {
  ExpectSums<float>();
  ExpectSums<double>();
  ExpectSums<int32_t>();
}

TEST(AllReduceTest, WantsAGroupThatIsThere) {
  KernelRegistry kernels;
  RegisterCollectiveKernels(kernels);
  CpuBackend backend(1, std::move(kernels));
  StateStore state(backend);
  auto program =
      Program::Compile(TwoStates(DType::kF32, "batch"), backend, state);
  ASSERT_THAT(program, IsOk());
  EXPECT_THAT((*program)->Run(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("the backend has no group batch of ranks")));
}

TEST(AllReduceTest, WantsStatesOfOneDtype) {
  GraphBuilder b(DType::kF32);
  AllReduce(b,
            {b.State("x", DType::kF32, {Static(3)}),
             b.State("y", DType::kI32, {Static(3)})},
            "dp");
  EXPECT_THAT(b.status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("state 1 is I32[3]; want F32 like state 0")));
}

TEST(AllReduceTest, CountsTheBytesOfTheBucketOnTheWire) {
  const Graph graph = TwoStates(DType::kF64, "dp");
  EXPECT_EQ(CostOf(graph, Binding()).bytes_on_wire, 16 * 8);
}

}  // namespace
}  // namespace strata
