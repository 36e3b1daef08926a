#include "core/cpu/collective.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/ops/collective.h"
#include "core/ops/collective_rows.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/passes/autodiff.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
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

// Runs `body` on each rank of a mesh of `ep` ranks.
void OnRanks(
    int ep,
    const std::function<void(CpuBackend& backend, Communicator& ranks)>& body) {
  const auto world = ThreadCommunicators(ep, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&body, ep, rank = rank.get()] {
      const auto mesh = Mesh::Create(*rank, {/*dp=*/1, ep, 1});
      ASSERT_THAT(mesh, IsOk());
      KernelRegistry kernels;
      RegisterCollectiveKernels(kernels);
      CpuBackend backend(1, std::move(kernels));
      backend.set_mesh(mesh->get());
      body(backend, *rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(AllGatherTest, StacksWhatTheRanksHave) {
  OnRanks(3, [](CpuBackend& backend, Communicator& ranks) {
    GraphBuilder b(DType::kF64);
    const ValueId x = b.Input("x", DType::kF64, {Static(2)});
    b.Output("all", AllGather(b, x, 3, "ep"));
    auto graph = b.Finish();
    ASSERT_THAT(graph, IsOk());
    StateStore state(backend);
    auto program = Program::Compile(*std::move(graph), backend, state);
    ASSERT_THAT(program, IsOk());
    const auto in = (*program)->Input("x").span<double>();
    in[0] = ranks.rank();
    in[1] = 10 * ranks.rank();

    ASSERT_THAT((*program)->Run(), IsOk());

    EXPECT_THAT((*program)->Output("all").span<double>(),
                ElementsAre(0, 0, 1, 10, 2, 20));
  });
}

TEST(BroadcastTest, StatesBecomeThoseOfTheRoot) {
  OnRanks(3, [](CpuBackend& backend, Communicator& ranks) {
    GraphBuilder b(DType::kF32);
    const ValueId x = b.State("x", DType::kF32, {Static(2)});
    const ValueId y = b.State("y", DType::kF32, {Static(1)});
    Broadcast(b, {x, y}, /*root=*/1, "ep");
    auto graph = b.Finish();
    ASSERT_THAT(graph, IsOk());
    StateStore state(backend);
    auto program = Program::Compile(*std::move(graph), backend, state);
    ASSERT_THAT(program, IsOk());
    const auto in = state.Get("x").span<float>();
    in[0] = static_cast<float>(ranks.rank());
    in[1] = static_cast<float>(10 * ranks.rank());
    *state.Get("y").as<float>() = static_cast<float>(100 + ranks.rank());

    ASSERT_THAT((*program)->Run(), IsOk());

    EXPECT_THAT(state.Get("x").span<float>(), ElementsAre(1, 10));
    EXPECT_THAT(state.Get("y").span<float>(), ElementsAre(101));
  });
}

constexpr int64_t kMaxRows = 40;
constexpr int64_t kColumns = 3;

// Rows to the owners of their experts and back. Inputs: "offset" [experts + 1],
// "rows" [], "x" [rows, columns]. Outputs: "owner_offset", "sent", "returned".
Graph ThereAndBack(int64_t experts, int ranks) {
  GraphBuilder b(DType::kF64);
  const ValueId rows = b.Input("rows", DType::kI32, {});
  const ValueId offset = b.Input("offset", DType::kI32, {Static(experts + 1)});
  const RowExchange exchange = ExchangePlan(b, offset, rows, ranks, "ep");
  const ValueId x =
      b.Input("x", DType::kF64, {Ragged(kMaxRows, rows), Static(kColumns)});
  const ValueId sent = SendRows(b, x, exchange, "ep");
  b.Output("owner_offset", exchange.offset);
  b.Output("sent", sent);
  b.Output("returned", ReturnRows(b, sent, exchange, kMaxRows, "ep"));
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

// How many rows rank r has for expert e: uneven, with empty messages; a rank
// and an expert without any.
int32_t RowsOf(int64_t experts, int r, int64_t e) {
  if (r == 1 || e == experts - 1) return 0;
  return static_cast<int32_t>((7 * r + 3 * e) % 5);
}

// The element of a row that says whose it is.
double Mark(int r, int64_t e, int32_t i, int64_t column) {
  return static_cast<double>(((r * 100 + e) * 100 + i) * 10 + column);
}

void ExpectRowsArrive(int64_t experts, int n) {
  SCOPED_TRACE(absl::StrCat(experts, " experts, ", n, " ranks"));
  OnRanks(n, [experts, n](CpuBackend& backend, Communicator& ranks) {
    StateStore state(backend);
    auto program = Program::Compile(ThereAndBack(experts, n), backend, state);
    ASSERT_THAT(program, IsOk());
    const int rank = ranks.rank();
    const auto offset = (*program)->Input("offset").span<int32_t>();
    const auto x = (*program)->Input("x").span<double>();
    std::vector<double> given;
    offset[0] = 0;
    for (int64_t e = 0; e < experts; ++e) {
      const int32_t rows = RowsOf(experts, rank, e);
      offset[e + 1] = offset[e] + rows;
      for (int32_t i = 0; i < rows; ++i) {
        for (int64_t c = 0; c < kColumns; ++c) {
          given.push_back(Mark(rank, e, i, c));
        }
      }
    }
    *(*program)->Input("rows").as<int32_t>() = offset[experts];
    ASSERT_LE(offset[experts], kMaxRows);
    std::copy(given.begin(), given.end(), x.begin());

    ASSERT_THAT((*program)->Run(), IsOk());

    // By expert, then sender, then as at home.
    const int64_t own = experts / n;
    std::vector<double> want;
    std::vector<int32_t> want_offset = {0};
    for (int64_t e = rank * own; e < (rank + 1) * own; ++e) {
      want_offset.push_back(want_offset.back());
      for (int r = 0; r < n; ++r) {
        for (int32_t i = 0; i < RowsOf(experts, r, e); ++i) {
          ++want_offset.back();
          for (int64_t c = 0; c < kColumns; ++c) {
            want.push_back(Mark(r, e, i, c));
          }
        }
      }
    }
    EXPECT_THAT((*program)->Output("owner_offset").span<int32_t>(),
                ElementsAreArray(want_offset));
    EXPECT_THAT((*program)->Output("sent").span<double>(),
                ElementsAreArray(want));
    EXPECT_THAT((*program)->Output("returned").span<double>(),
                ElementsAreArray(given));
  });
}

TEST(ExchangeTest, RowsGoToTheOwnersOfTheirExpertsAndBack) {
  ExpectRowsArrive(/*experts=*/4, /*n=*/1);
  ExpectRowsArrive(/*experts=*/4, /*n=*/2);
  ExpectRowsArrive(/*experts=*/6, /*n=*/3);
  ExpectRowsArrive(/*experts=*/4, /*n=*/4);
}

TEST(ExchangeTest, EachWayIsTheGradientOfTheOther) {
  GraphBuilder b(DType::kF64);
  const ValueId rows = b.Input("rows", DType::kI32, {});
  const ValueId offset = b.Input("offset", DType::kI32, {Static(5)});
  const RowExchange exchange = ExchangePlan(b, offset, rows, 2, "ep");
  const Dims dims = {Ragged(kMaxRows, rows), Static(kColumns)};
  const ValueId x = b.Input("x", DType::kF64, dims);
  const ValueId sent = SendRows(b, x, exchange, "ep");
  const ValueId back = ReturnRows(b, sent, exchange, kMaxRows, "ep");
  const ValueId dback = b.Input("dback", DType::kF64, dims);

  const auto gradients = Differentiate(b, {{back, dback}}, {x});

  ASSERT_THAT(gradients, IsOk());
  const Graph& graph = b.graph();
  const Node& dx = graph.node(graph.value(gradients->at(x)).producer);
  EXPECT_EQ(dx.op, &kReturnRows);
  EXPECT_EQ(graph.value(dx.outputs[0]).type.dims, graph.value(x).type.dims);
  const Node& dsent = graph.node(graph.value(dx.inputs[0]).producer);
  EXPECT_EQ(dsent.op, &kSendRows);
  EXPECT_EQ(dsent.inputs[0], dback);
  EXPECT_EQ(graph.value(dsent.outputs[0]).type.dims,
            graph.value(sent).type.dims);
}

TEST(ExchangeTest, WantsExpertsThatTheRanksCanShare) {
  GraphBuilder b(DType::kF32);
  ExchangePlan(b, b.Input("offset", DType::kI32, {Static(7)}),
               b.Input("rows", DType::kI32, {}), /*ranks=*/4, "ep");
  EXPECT_THAT(b.status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("6 experts; want a multiple of ranks = 4")));
}

TEST(ExchangeTest, WantsAGroupOfItsSize) {
  OnRanks(2, [](CpuBackend& backend, Communicator& ranks) {
    StateStore state(backend);
    auto program = Program::Compile(ThereAndBack(4, 4), backend, state);
    ASSERT_THAT(program, IsOk());
    EXPECT_THAT((*program)->Run(),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         HasSubstr("ep has 2 ranks; the graph is for 4")));
  });
}

TEST(ExchangeTest, CountsTheRowsThatLeaveTheRank) {
  const Graph graph = ThereAndBack(/*experts=*/4, /*ranks=*/4);
  // Counts of 4 experts, then 3/4 of the rows there and back.
  EXPECT_EQ(CostOf(graph, Binding()).bytes_on_wire,
            4 * 4 + 2 * kMaxRows * kColumns * 8 * 3 / 4);
}

// y = x, and says so.
const OpDef kSignal = {
    "Signal",
    [](const OpView& op) -> absl::StatusOr<std::vector<ValueType>> {
      return std::vector<ValueType>{op.type(0)};
    },
    nullptr, [](const OpView&, const Binding&) { return 0.0; }};

// Runs `check` on the two ranks of "dp", where a Signal calls `on_signal`.
void OnTwoRanksThatSignal(
    const std::function<void()>& on_signal,
    const std::function<void(CpuBackend&, Communicator&)>& check) {
  static const std::function<void()>* signal = nullptr;
  signal = &on_signal;
  const auto world = ThreadCommunicators(2, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&check, rank = rank.get()] {
      const auto mesh = Mesh::Create(*rank, {/*dp=*/2, 1, 1});
      ASSERT_THAT(mesh, IsOk());
      KernelRegistry kernels;
      RegisterCollectiveKernels(kernels);
      kernels.Register(kSignal, DType::kF32, [](const KernelContext& ctx) {
        (*signal)();
        return absl::OkStatus();
      });
      CpuBackend backend(1, std::move(kernels));
      backend.set_mesh(mesh->get());
      check(backend, *rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// A sum beside a Signal.
std::unique_ptr<Program> SumBesideSignal(CpuBackend& backend, StateStore& state,
                                         int64_t elements) {
  GraphBuilder b(DType::kF32);
  b.set_scope("sums");
  AllReduce(b, {b.State("sum", DType::kF32, {Static(elements)})}, "dp",
            /*beside=*/true);
  const ValueId x = b.Input("x", DType::kF32, {Static(1)});
  b.Output("y", b.Add1(kSignal, {b.Add1(kSignal, {x})}));
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  auto program = Program::Compile(*std::move(graph), backend, state);
  EXPECT_THAT(program, IsOk());
  return *std::move(program);
}

// Rank 1 comes to the sum after rank 0 has done what follows it there: in its
// place that would never be.
TEST(AllReduceTest, RunsBesideTheNodesThatFollow) {
  absl::Notification signalled;
  const auto signal = [&] {
    if (!signalled.HasBeenNotified()) signalled.Notify();
  };
  OnTwoRanksThatSignal(signal, [&](CpuBackend& backend, Communicator& rank) {
    StateStore state(backend);
    const auto program = SumBesideSignal(backend, state, /*elements=*/2);
    for (float& s : state.Get("sum").span<float>()) s = 1;
    if (rank.rank() == 1) signalled.WaitForNotification();

    ASSERT_THAT(program->Run(), IsOk());

    // The run ends when nothing is under way.
    EXPECT_THAT(state.Get("sum").span<float>(), Each(2));
  });
}

// Rank 1 comes to the sum when rank 0 is through its program.
TEST(AllReduceTest, RunsBesideWhatFollowsItsProgram) {
  absl::Notification through;
  OnTwoRanksThatSignal([] {},
                       [&](CpuBackend& backend, Communicator& rank) {
                         StateStore state(backend);
                         const auto program =
                             SumBesideSignal(backend, state, /*elements=*/2);
                         for (float& s : state.Get("sum").span<float>()) s = 1;
                         if (rank.rank() == 1) through.WaitForNotification();

                         ASSERT_THAT(program->RunAhead(), IsOk());
                         if (rank.rank() == 0) through.Notify();
                         ASSERT_THAT(program->Finish(), IsOk());

                         EXPECT_THAT(state.Get("sum").span<float>(), Each(2));
                       });
}

// An error of a node that runs beside others is the run's, and names it.
TEST(AllReduceTest, FailsTheRunFromWhereItIs) {
  OnTwoRanksThatSignal(
      [] {},
      [](CpuBackend& backend, Communicator& rank) {
        StateStore state(backend);
        const auto program =
            SumBesideSignal(backend, state, /*elements=*/1 + rank.rank());
        const auto names_it =
            StatusIs(absl::StatusCode::kInvalidArgument,
                     HasSubstr("sums/AllReduce: dp: rank 1 calls all_reduce of "
                               "2 F32"));
        EXPECT_THAT(program->Run(), names_it);
        // Of a run that went on without it, its end's.
        EXPECT_THAT(program->RunAhead(), IsOk());
        EXPECT_THAT(program->Finish(), names_it);
      });
}

// Three ranks and three states, of which rank 2 owns the first and the last,
// rank 0 the second, and rank 1 none.
TEST(OwnersTest, SumsGoToOwnersAndStatesComeFromThem) {
  OnRanks(3, [](CpuBackend& backend, Communicator& ranks) {
    const int rank = ranks.rank();
    const std::vector<int> owner = {2, 0, 2};
    StateStore state(backend);
    const auto program_of = [&](bool gathers) {
      GraphBuilder b(DType::kF32);
      const std::vector<ValueId> states = {
          b.State("x", DType::kF32, {Static(3)}),
          b.State("y", DType::kF32, {Static(2)}),
          b.State("z", DType::kF32, {Static(1)})};
      if (gathers) {
        GatherFromOwners(b, states, owner, /*ranks=*/3, "ep");
      } else {
        ReduceToOwners(b, states, owner, /*ranks=*/3, "ep");
      }
      auto graph = b.Finish();
      EXPECT_THAT(graph, IsOk());
      return *Program::Compile(*std::move(graph), backend, state);
    };
    const auto reduce = program_of(false), gather = program_of(true);
    const auto x = state.Get("x").span<float>();
    const auto y = state.Get("y").span<float>();
    const auto z = state.Get("z").span<float>();
    std::fill(x.begin(), x.end(), 1.f + rank);
    std::fill(y.begin(), y.end(), 10.f * rank);
    std::fill(z.begin(), z.end(), 100.f);

    ASSERT_THAT(reduce->Run(), IsOk());
    if (rank == 2) {
      EXPECT_THAT(x, Each(6));
      EXPECT_THAT(z, Each(300));
    }
    if (rank == 0) {
      EXPECT_THAT(y, Each(30));
    }

    ASSERT_THAT(gather->Run(), IsOk());
    EXPECT_THAT(x, Each(6));
    EXPECT_THAT(y, Each(30));
    EXPECT_THAT(z, Each(300));
  });
}

TEST(OwnersTest, WantAnOwnerForEachState) {
  GraphBuilder b(DType::kF32);
  ReduceToOwners(b, {b.State("x", DType::kF32, {Static(3)})}, {0, 1},
                 /*ranks=*/2, "dp");
  EXPECT_THAT(b.status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("1 states and 2 owners")));
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
