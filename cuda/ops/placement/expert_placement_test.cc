#include "core/ops/expert_placement.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/random.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "cuda/nccl/threads_with_windows.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::HasSubstr;

struct Slots {
  int ranks = 1;
  int experts = 1;
  int own = 1;
  int num_slots() const { return ranks * own; }
};

std::string SlotsName(const testing::TestParamInfo<Slots>& info) {
  return absl::StrCat(info.param.ranks, "_ranks_", info.param.experts,
                      "_experts_", info.param.own, "_slots");
}

// Every expert has a slot; what is left are copies, some on one rank.
std::vector<int32_t> RandomTable(const Slots& slots, Random& random) {
  std::vector<int32_t> table(slots.num_slots());
  for (int s = 0; s < slots.num_slots(); ++s) {
    table[s] = s < slots.experts
                   ? s
                   : static_cast<int32_t>(random.UniformInt(slots.experts));
  }
  for (size_t s = table.size() - 1; s > 0; --s) {
    std::swap(table[s], table[random.UniformInt(s + 1)]);
  }
  return table;
}

// --- Choices ---

using PlaceChoicesTest = DeviceTest<Slots>;

TEST_P(PlaceChoicesTest, AgreesWithTheCpu) {
  const Slots& slots = GetParam();
  Random random(/*seed=*/slots.num_slots(), /*stream=*/0);
  for (const int rows : {0, 1, 301}) {
    const std::vector<int32_t> table = RandomTable(slots, random);
    const auto fill = [&](const std::string& name, const TensorView& view) {
      if (name == "table") return FillInts(view, table);
      return name == "expert" &&
             FillInts(view, RandomInts(view.num_elements(), -1,
                                       slots.experts - 1, /*seed=*/rows));
    };
    EXPECT_THAT(
        CompareBackends(
            [&](GraphBuilder& b) {
              const Dim t = RaggedRows(b, rows);
              const ValueId expert =
                  b.Input("expert", DType::kI32, {t, Static(3)});
              const ValueId state =
                  b.State("table", DType::kI32, {Static(slots.num_slots())});
              b.Output(
                  "slot",
                  PlaceChoices(b, expert, {state, slots.experts, slots.ranks}));
              return std::vector<ValueId>{};
            },
            {/*roundings=*/0, WithRows(rows, fill)}),
        IsOk())
        << rows << " rows";
  }
}

// The table's sizes about a block's 1,024.
INSTANTIATE_TEST_SUITE_P(Shapes, PlaceChoicesTest,
                         testing::Values(Slots{1, 1, 1}, Slots{1, 3, 7},
                                         Slots{2, 4, 3}, Slots{4, 64, 17},
                                         Slots{8, 1024, 128},
                                         Slots{8, 1030, 131}),
                         SlotsName);

// The CPU says the same: the harness wants its code.
TEST(PlaceChoicesErrorsTest, WantsExpertsThatHaveSlots) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  struct Case {
    std::vector<int32_t> table, expert;
    const char* error;
  };
  for (const Case& bad :
       {Case{{0, 2, 3, 3, 2, 1}, {0, 4, 0}, "choice 1 is expert 4"},
        Case{{0, 2, 2, 2, 2, 1}, {0, 0, 3}, "choice 2 is expert 3"},
        Case{{0, 2, 4, 3, 2, 1}, {0, 3, 0}, "slot 2 of the table holds"}}) {
    EXPECT_THAT(
        CompareBackends(
            [&](GraphBuilder& b) {
              const ValueId expert =
                  b.Input("expert", DType::kI32, {Static(3), Static(1)});
              const ValueId table = b.State("table", DType::kI32, {Static(6)});
              b.Output("slot", PlaceChoices(b, expert, {table, 4, 3}));
              return std::vector<ValueId>{};
            },
            {/*roundings=*/0,
             [&](const std::string& name, const TensorView& view) {
               return FillInts(view, name == "table" ? bad.table : bad.expert);
             }}),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(bad.error)));
  }
}

// --- The two sums ---

// Gradients of a slot: of one element, of an odd number, of whole vectors, and
// of more than a block's share of a norm.
constexpr int64_t kWidths[] = {1, 7, 64, 40'004};

// A rank with what it runs.
struct Rank {
  Communicator& host;  // Barriers.
  Program& sum;
  Program& norm;
  StateStore& state;
};
using Body = std::function<void(const Rank&)>;

std::string GradName(size_t g) { return absl::StrCat("grad", g); }

std::vector<ValueId> Grads(GraphBuilder& b, const Slots& slots) {
  std::vector<ValueId> grads;
  for (size_t g = 0; g < std::size(kWidths); ++g) {
    Dims dims = {Static(slots.own)};
    if (kWidths[g] > 1) dims.push_back(Static(kWidths[g]));
    grads.push_back(b.State(GradName(g), DType::kF32, dims));
  }
  return grads;
}

SlotTable TableOf(GraphBuilder& b, const Slots& slots) {
  return {b.State("table", DType::kI32, {Static(slots.num_slots())}),
          slots.experts, slots.ranks};
}

void RunRank(const Slots& slots, Backend& backend, Communicator& host,
             const Body& body) {
  GraphBuilder sum(DType::kF32), norm(DType::kF32);
  SumCopies(sum, Grads(sum, slots), TableOf(sum, slots), "ep");
  const ValueId divisor = norm.Input("divisor", DType::kF32, {});
  norm.Output("norm", ExpertNorm(norm, Grads(norm, slots), divisor,
                                 TableOf(norm, slots), "ep"));
  auto sum_graph = sum.Finish();
  auto norm_graph = norm.Finish();
  ASSERT_THAT(sum_graph, IsOk());
  ASSERT_THAT(norm_graph, IsOk());
  StateStore state(backend);
  auto summed = Program::Compile(*std::move(sum_graph), backend, state);
  auto normed = Program::Compile(*std::move(norm_graph), backend, state);
  ASSERT_THAT(summed, IsOk());
  ASSERT_THAT(normed, IsOk());
  ASSERT_THAT(host.Barrier(), IsOk());
  body({host, **summed, **normed, state});
  ASSERT_THAT(host.Barrier(), IsOk());
}

void OnCpuRanks(const Slots& slots, const Body& body) {
  const auto hosts = ThreadCommunicators(slots.ranks, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& host : hosts) {
    threads.emplace_back([&, host = host.get()] {
      const auto mesh = Mesh::Create(*host, {/*dp=*/1, slots.ranks, 1});
      ASSERT_THAT(mesh, IsOk());
      CpuBackend backend(1, AllCpuKernels());
      backend.set_mesh(mesh->get());
      RunRank(slots, backend, *host, body);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Ranks share GPUs where there are fewer.
void OnGpuRanks(const Slots& slots, const Body& body) {
  int num_gpus = 0;
  ASSERT_EQ(cudaGetDeviceCount(&num_gpus), cudaSuccess);
  const auto hosts = ThreadCommunicators(slots.ranks, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& host : hosts) {
    threads.emplace_back([&, host = host.get()] {
      CudaOptions options;
      options.device = host->rank() % num_gpus;
      ASSERT_EQ(cudaSetDevice(options.device), cudaSuccess);
      ThreadsWithWindows world(*host, nullptr, options.device,
                               absl::Seconds(20));
      const auto mesh = Mesh::Create(world, {/*dp=*/1, slots.ranks, 1});
      ASSERT_THAT(mesh, IsOk());
      options.mesh = mesh->get();
      const auto backend = CudaBackend::Create(options, AllCudaKernels());
      ASSERT_THAT(backend, IsOk());
      RunRank(slots, **backend, *host, body);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// What a rank had of a turn.
struct Turn {
  std::vector<float> grads;  // After the sum, one behind the other.
  float norm = 0;
};

// The turn, with `value` of own slot s, gradient g, element i. Ranks of one GPU
// wait for each other where a copy to the device, which waits for all that runs
// there, would wait for a rank that waits for this one.
Turn RunTurn(
    const Rank& rank, const std::vector<int32_t>& table, bool with_sum,
    const std::function<float(int64_t s, size_t g, int64_t i)>& value) {
  Turn turn;
  const auto slots = rank.state.Get("table").span<int32_t>();
  std::copy(table.begin(), table.end(), slots.begin());
  for (size_t g = 0; g < std::size(kWidths); ++g) {
    const auto grad = rank.state.Get(GradName(g)).span<float>();
    for (int64_t i = 0; i < static_cast<int64_t>(grad.size()); ++i) {
      grad[i] = value(i / kWidths[g], g, i % kWidths[g]);
    }
  }
  *rank.norm.Input("divisor").as<float>() = 3;
  EXPECT_THAT(rank.state.Publish(), IsOk());
  EXPECT_THAT(rank.host.Barrier(), IsOk());
  if (with_sum) {
    EXPECT_THAT(rank.sum.Run(), IsOk());
  }
  EXPECT_THAT(rank.host.Barrier(), IsOk());
  EXPECT_THAT(rank.norm.Run(), IsOk());
  EXPECT_THAT(rank.host.Barrier(), IsOk());
  turn.norm = *rank.norm.Output("norm").as<float>();
  for (size_t g = 0; g < std::size(kWidths); ++g) {
    const auto grad = rank.state.Get(GradName(g)).span<float>();
    turn.grads.insert(turn.grads.end(), grad.begin(), grad.end());
  }
  EXPECT_THAT(rank.host.Barrier(), IsOk());
  return turn;
}

// Operator by operator, captured, and again: the table changes in between.
constexpr int kTurns = 4;
using Turns = std::vector<std::vector<Turn>>;  // [ranks][turns]

Body RandomTurns(const Slots& slots, Turns& turns) {
  turns.resize(slots.ranks);
  return [&slots, &turns](const Rank& rank) {
    for (int t = 0; t < kTurns; ++t) {
      Random of_table(/*seed=*/slots.num_slots(), /*stream=*/t);
      Random of_rank(/*seed=*/t, rank.host.rank());
      turns[rank.host.rank()].push_back(
          RunTurn(rank, RandomTable(slots, of_table), /*with_sum=*/true,
                  [&](int64_t, size_t, int64_t) {
                    return static_cast<float>(of_rank.Normal());
                  }));
    }
  };
}

using SumCopiesTest = DeviceTest<Slots>;

// The order of the additions is the same, so the bits are; of the norm's
// squares, in double, it is not.
TEST_P(SumCopiesTest, AgreesWithTheCpu) {
  const Slots& slots = GetParam();
  Turns want, got;
  OnCpuRanks(slots, RandomTurns(slots, want));
  OnGpuRanks(slots, RandomTurns(slots, got));
  for (int r = 0; r < slots.ranks; ++r) {
    ASSERT_EQ(got[r].size(), kTurns);
    ASSERT_EQ(want[r].size(), kTurns);
    for (int t = 0; t < kTurns; ++t) {
      EXPECT_TRUE(got[r][t].grads == want[r][t].grads)
          << "rank " << r << ", turn " << t;
      EXPECT_NEAR(got[r][t].norm, want[r][t].norm, 1e-6 * want[r][t].norm);
      EXPECT_EQ(got[r][t].norm, got[0][t].norm);
    }
  }
}

// One rank first, which loads the kernels: that may wait for what runs.
INSTANTIATE_TEST_SUITE_P(Shapes, SumCopiesTest,
                         testing::Values(Slots{1, 3, 5}, Slots{2, 2, 1},
                                         Slots{2, 3, 2}, Slots{2, 8, 5},
                                         Slots{3, 4, 4}, Slots{4, 16, 6}),
                         SlotsName);

TEST(ExpertNormTest, DoesNotDependOnWhereExpertsAre) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  const Slots slots = {/*ranks=*/2, /*experts=*/6, /*own=*/4};
  std::vector<std::vector<float>> norms(slots.ranks);
  OnGpuRanks(slots, [&](const Rank& rank) {
    for (int t = 0; t < kTurns; ++t) {
      Random random(/*seed=*/1, /*stream=*/t);
      const std::vector<int32_t> table = RandomTable(slots, random);
      const auto of_expert = [&](int64_t s, size_t g, int64_t i) {
        const int32_t e = table[rank.host.rank() * slots.own + s];
        return static_cast<float>(e + 1) / static_cast<float>(3 * g + i + 1);
      };
      norms[rank.host.rank()].push_back(
          RunTurn(rank, table, /*with_sum=*/false, of_expert).norm);
    }
  });
  for (const std::vector<float>& of_rank : norms) {
    ASSERT_EQ(of_rank.size(), kTurns);
    for (const float norm : of_rank) EXPECT_EQ(norm, norms[0][0]);
  }
}

TEST(SumCopiesErrorsTest, WantsASlotForEveryExpert) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  const Slots slots = {/*ranks=*/1, /*experts=*/3, /*own=*/4};
  OnGpuRanks(slots, [&](const Rank& rank) {
    const auto table = rank.state.Get("table").span<int32_t>();
    std::fill(table.begin(), table.end(), 1);
    table[0] = 0;
    EXPECT_THAT(rank.sum.Run(),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("SumCopies: expert 2 of 3 has no slot")));
  });
}

}  // namespace
}  // namespace strata::gpu
