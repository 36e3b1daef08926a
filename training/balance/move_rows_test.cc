#include "training/balance/move_rows.h"

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/graph.h"
#include "core/parallel/communicator.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr int kRanks = 3;
constexpr int kOwn = 2;

Value State(const std::string& name, DType dtype, int64_t columns) {
  Value value;
  value.name = name;
  value.role = Role::kState;
  value.type = {dtype, {Static(kOwn), Static(columns)}};
  return value;
}

// Slot s holds s in one state, and 10 s + column in the other.
void Fill(int rank, StateStore& state) {
  for (int i = 0; i < kOwn; ++i) {
    const int slot = kOwn * rank + i;
    state.Get("a").span<double>()[i] = slot;
    for (int column = 0; column < 3; ++column) {
      state.Get("b").span<float>()[3 * i + column] =
          static_cast<float>(10 * slot + column);
    }
  }
}

void ExpectMoved(const std::vector<int32_t>& origin) {
  const auto world = ThreadCommunicators(kRanks, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& communicator : world) {
    threads.emplace_back([&origin, ranks = communicator.get()] {
      CpuBackend backend(1, KernelRegistry());
      StateStore state(backend);
      Graph graph;
      graph.AddValue(State("a", DType::kF64, 1));
      graph.AddValue(State("b", DType::kF32, 3));
      ASSERT_THAT(state.Declare(graph), IsOk());
      Fill(ranks->rank(), state);
      EXPECT_EQ(BytesOfSlot({"a", "b"}, state), 8 + 3 * 4);

      ASSERT_THAT(MoveRows(origin, {"a", "b"}, *ranks, state), IsOk());

      for (int i = 0; i < kOwn; ++i) {
        const int from = origin[kOwn * ranks->rank() + i];
        EXPECT_EQ(state.Get("a").span<double>()[i], from);
        for (int column = 0; column < 3; ++column) {
          EXPECT_EQ(state.Get("b").span<float>()[3 * i + column],
                    10 * from + column);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(MoveRowsTest, SlotsTakeWhatOthersHeld) {
  ExpectMoved({0, 1, 2, 3, 4, 5});  // Nothing.
  ExpectMoved({5, 1, 2, 3, 4, 0});
  ExpectMoved({2, 3, 4, 5, 0, 1});
  ExpectMoved({1, 0, 3, 2, 5, 4});  // Each within its rank.
  ExpectMoved({0, 0, 0, 0, 0, 0});  // One is copied to all,
  ExpectMoved({5, 0, 0, 2, 2, 2});  // or goes away itself.
}

}  // namespace
}  // namespace strata
