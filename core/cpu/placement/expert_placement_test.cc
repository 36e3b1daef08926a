#include "core/cpu/placement/expert_placement.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/cpu/collective.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/ops/expert_placement.h"
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

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kRanks = 3;
constexpr int64_t kExperts = 4;
constexpr int64_t kSlots = 6;  // Two of each rank.

// Calls `body` as each of kRanks ranks.
void OnRanks(const std::function<void(CpuBackend& backend, int rank)>& body) {
  const auto world = ThreadCommunicators(kRanks, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&body, rank = rank.get()] {
      const auto mesh = Mesh::Create(*rank, {/*dp=*/1, kRanks, 1});
      ASSERT_THAT(mesh, IsOk());
      KernelRegistry kernels;
      RegisterCollectiveKernels(kernels);
      RegisterExpertPlacementKernels(kernels);
      CpuBackend backend(1, std::move(kernels));
      backend.set_mesh(mesh->get());
      body(backend, rank->rank());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void Set(StateStore& state, const std::vector<int32_t>& table) {
  std::copy(table.begin(), table.end(),
            state.Get("table").span<int32_t>().begin());
}

class PlaceChoicesTest : public ::testing::Test {
 protected:
  // The slots of three tokens' choices.
  absl::Status Place(const std::vector<int32_t>& table,
                     const std::vector<int32_t>& expert) {
    KernelRegistry kernels;
    RegisterExpertPlacementKernels(kernels);
    CpuBackend backend(1, std::move(kernels));
    GraphBuilder b;
    const ValueId in = b.Input("expert", DType::kI32, {Static(3), Static(2)});
    const ValueId slots = b.State("table", DType::kI32, {Static(kSlots)});
    b.Output("slot", PlaceChoices(b, in, {slots, kExperts, kRanks}));
    auto graph = b.Finish();
    EXPECT_THAT(graph, IsOk());
    StateStore state(backend);
    auto program = Program::Compile(*std::move(graph), backend, state);
    EXPECT_THAT(program, IsOk());
    Set(state, table);
    std::copy(expert.begin(), expert.end(),
              (*program)->Input("expert").span<int32_t>().begin());
    const absl::Status status = (*program)->Run();
    const auto out = (*program)->Output("slot").span<int32_t>();
    slot_.assign(out.begin(), out.end());
    return status;
  }

  std::vector<int32_t> slot_;
};

// Expert 2 has copies on ranks 0 and 2, which take turns; that expert 3 is
// twice on rank 1 is no copy more.
TEST_F(PlaceChoicesTest, TokensTakeTurnsAtTheCopies) {
  ASSERT_THAT(Place({0, 2, 3, 3, 2, 1}, {2, 3, 2, -1, 2, 3}), IsOk());
  EXPECT_THAT(slot_, ElementsAre(1, 2, 4, -1, 1, 2));
}

TEST_F(PlaceChoicesTest, WantsExpertsThatHaveSlots) {
  EXPECT_THAT(Place({0, 2, 3, 3, 2, 1}, {0, 4, 0, 0, 0, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("choice 1 is expert 4")));
  EXPECT_THAT(Place({0, 2, 2, 2, 2, 1}, {0, 3, 0, 0, 0, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("choice 1 is expert 3")));
  EXPECT_THAT(Place({0, 2, 4, 3, 2, 1}, {0, 3, 0, 0, 0, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("slot 2 of the table holds expert 4")));
}

// Gradients of slot s are 10^s, so that a sum says of which slots it is.
TEST(SumCopiesTest, AllSlotsOfAnExpertHaveTheSumOfItsCopies) {
  OnRanks([](CpuBackend& backend, int rank) {
    GraphBuilder b(DType::kF64);
    const ValueId table = b.State("table", DType::kI32, {Static(kSlots)});
    const ValueId x = b.State("x", DType::kF64, {Static(2), Static(3)});
    const ValueId y = b.State("y", DType::kF64, {Static(2)});
    SumCopies(b, {x, y}, {table, kExperts, kRanks}, "ep");
    auto graph = b.Finish();
    ASSERT_THAT(graph, IsOk());
    StateStore state(backend);
    auto program = Program::Compile(*std::move(graph), backend, state);
    ASSERT_THAT(program, IsOk());
    Set(state, {0, 2, 3, 3, 2, 1});
    for (int s = 0; s < 2; ++s) {
      const double value = std::pow(10, 2 * rank + s);
      for (int i = 0; i < 3; ++i) {
        state.Get("x").span<double>()[3 * s + i] = (i + 1) * value;
      }
      state.Get("y").span<double>()[s] = -value;
    }

    ASSERT_THAT((*program)->Run(), IsOk());

    const std::vector<double> want = std::vector<std::vector<double>>{
        {1, 10010}, {100, 100}, {10010, 100000}}[rank];
    for (int s = 0; s < 2; ++s) {
      for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(state.Get("x").span<double>()[3 * s + i], (i + 1) * want[s]);
      }
      EXPECT_EQ(state.Get("y").span<double>()[s], -want[s]);
    }
  });
}

TEST(ExpertNormTest, CountsEachExpertOnceWhereverItIs) {
  OnRanks([](CpuBackend& backend, int rank) {
    GraphBuilder b(DType::kF32);
    const ValueId table = b.State("table", DType::kI32, {Static(kSlots)});
    const ValueId divisor = b.Input("divisor", DType::kF32, {});
    const ValueId x = b.State("x", DType::kF32, {Static(2), Static(5)});
    b.Output("norm",
             ExpertNorm(b, {x, x}, divisor, {table, kExperts, kRanks}, "ep"));
    auto graph = b.Finish();
    ASSERT_THAT(graph, IsOk());
    StateStore state(backend);
    auto program = Program::Compile(*std::move(graph), backend, state);
    ASSERT_THAT(program, IsOk());
    *(*program)->Input("divisor").as<float>() = 2;
    std::vector<float> norms;
    for (const std::vector<int32_t>& placed :
         {std::vector<int32_t>{0, 0, 1, 1, 2, 3}, {3, 1, 0, 2, 1, 2}}) {
      Set(state, placed);
      for (int i = 0; i < 10; ++i) {  // Of expert e: (e + i) / 3.
        const int expert = placed[2 * rank + i / 5];
        state.Get("x").span<float>()[i] =
            static_cast<float>(expert + i % 5) / 3.f;
      }
      ASSERT_THAT((*program)->Run(), IsOk());
      norms.push_back(*(*program)->Output("norm").as<float>());
    }
    double squares = 0;  // Twice, as x is given twice.
    for (int e = 0; e < kExperts; ++e) {
      for (int i = 0; i < 5; ++i) squares += 2 * (e + i) * (e + i) / 9.0;
    }
    EXPECT_NEAR(norms[0], std::sqrt(squares) / 2, 1e-6);
    EXPECT_EQ(norms[0], norms[1]);
  });
}

}  // namespace
}  // namespace strata
