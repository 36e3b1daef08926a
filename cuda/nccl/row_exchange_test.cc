#include "cuda/nccl/row_exchange.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/collective_rows.h"
#include "core/ops/elementwise.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/rank_wait.h"
#include "core/parallel/thread_communicator.h"
#include "core/passes/hide_exchanges.h"
#include "core/passes/plan_beside.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "cuda/nccl/peer_table.h"
#include "cuda/nccl/threads_with_windows.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/fault.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

struct Shape {
  int ranks = 1;
  int64_t experts = 1;
  int64_t max_rows = 1;
  int64_t columns = 1;
};

// Inputs "offset" [experts + 1], "rows" [], "x" [rows, columns].
struct HomeRows {
  RowExchange exchange;
  ValueId x = kNone;
};

HomeRows RowsAtHome(GraphBuilder& b, const Shape& shape) {
  HomeRows home;
  const ValueId rows = b.Input("rows", DType::kI32, {});
  const ValueId offset =
      b.Input("offset", DType::kI32, {Static(shape.experts + 1)});
  home.exchange = ExchangePlan(b, offset, rows, shape.ranks, "ep");
  home.x = b.Input("x", DType::kF32,
                   {Ragged(shape.max_rows, rows), Static(shape.columns)});
  return home;
}

// Rows to the owners of their experts and back. Outputs: "owner_offset",
// "sent", "returned".
// "sent" is of type `sent`, which the operators' inference knows not of.
Graph ThereAndBack(const Shape& shape, DType sent_type = DType::kF32) {
  GraphBuilder b(DType::kF32);
  const auto [exchange, x] = RowsAtHome(b, shape);
  const ValueId sent = SendRows(b, x, exchange, "ep");
  b.Output("owner_offset", exchange.offset);
  b.Output("sent", sent);
  b.Output("returned", ReturnRows(b, sent, exchange, shape.max_rows, "ep"));
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  Graph typed;
  for (size_t id = 0; id < graph->values().size(); ++id) {
    Value value = graph->value(static_cast<ValueId>(id));
    if (static_cast<ValueId>(id) == sent) value.type.dtype = sent_type;
    typed.AddValue(std::move(value));
  }
  for (const Node& node : graph->nodes()) typed.AddNode(node);
  for (const auto& [name, id] : graph->outputs()) typed.SetOutput(name, id);
  return typed;
}

// The same of a copy of x, and "work", which is x after many steps; as
// HideExchanges orders it, so that rows are on their way meanwhile and no step
// may take their memory.
Graph ThereAndBackBesideWork(const Shape& shape) {
  GraphBuilder b(DType::kF32);
  const auto [exchange, x] = RowsAtHome(b, shape);
  const ValueId sent = SendRows(b, Scale(b, x, 1), exchange, "ep");
  b.Output("owner_offset", exchange.offset);
  b.Output("sent", sent);
  b.Output("returned",
           ReturnRows(b, Scale(b, sent, 1), exchange, shape.max_rows, "ep"));
  ValueId work = x;
  for (int i = 0; i < 20; ++i) work = Scale(b, work, i % 2 == 0 ? 4 : 0.25);
  b.Output("work", work);
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return HideExchanges(*graph);
}

// How many rows rank r has for expert e in a turn: uneven, with empty messages;
// a rank and an expert without any.
int32_t RowsOf(const Shape& shape, int turn, int r, int64_t e) {
  if (r == 1 || e == shape.experts - 1) return 0;
  const int64_t most = shape.max_rows / shape.experts + 1;
  return static_cast<int32_t>((7 * r + 3 * e + 5 * turn) % most);
}

// The element of a row that says whose it is.
float Mark(int turn, int r, int64_t e, int32_t i, int64_t column) {
  const int64_t mark = ((turn * 8 + r) * 64 + e) * 101 + i;
  return static_cast<float>(mark * 7 + column % 7);
}

// A whole number of 8 bits, so of BF16, that depends on x.
float EightBits(float x) {
  return static_cast<float>(static_cast<int64_t>(x) % 251);
}

// What rank r starts a turn with.
struct AtHome {
  std::vector<int32_t> offset = {0};  // [experts + 1]
  std::vector<float> x;               // [rows, columns]
};

AtHome HomeOf(const Shape& shape, int turn, int r) {
  AtHome home;
  for (int64_t e = 0; e < shape.experts; ++e) {
    const int32_t rows = RowsOf(shape, turn, r, e);
    home.offset.push_back(home.offset.back() + rows);
    for (int32_t i = 0; i < rows; ++i) {
      for (int64_t c = 0; c < shape.columns; ++c) {
        home.x.push_back(Mark(turn, r, e, i, c));
      }
    }
  }
  EXPECT_LE(home.offset.back(), shape.max_rows);
  return home;
}

// What comes to rank r: by expert, then sender, then as at home.
AtHome OwnerOf(const Shape& shape, int turn, int r) {
  AtHome owner;
  const int64_t own = shape.experts / shape.ranks;
  for (int64_t e = r * own; e < (r + 1) * own; ++e) {
    owner.offset.push_back(owner.offset.back());
    for (int s = 0; s < shape.ranks; ++s) {
      for (int32_t i = 0; i < RowsOf(shape, turn, s, e); ++i) {
        ++owner.offset.back();
        for (int64_t c = 0; c < shape.columns; ++c) {
          owner.x.push_back(Mark(turn, s, e, i, c));
        }
      }
    }
  }
  return owner;
}

class RowExchangeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no GPU";
    ASSERT_EQ(cudaGetDeviceCount(&num_gpus_), cudaSuccess);
  }

  // Runs `body` on each rank, with the program on a GPU; ranks share GPUs where
  // there are fewer.
  // Each has a GPU's program, `graph`.
  void OnRanks(const Shape& shape, absl::Duration timeout, const Graph& graph,
               const std::function<void(Program&, Communicator&)>& body) {
    const auto hosts = ThreadCommunicators(shape.ranks, absl::Seconds(60));
    std::vector<std::thread> threads;
    for (const auto& host : hosts) {
      threads.emplace_back([&, host = host.get()] {
        CudaOptions options;
        options.device = host->rank() % num_gpus_;
        options.precision = precision_;
        ASSERT_EQ(cudaSetDevice(options.device), cudaSuccess);
        ThreadsWithWindows world(*host, nullptr, options.device, timeout);
        const auto mesh = Mesh::Create(world, {/*dp=*/1, shape.ranks, 1});
        ASSERT_THAT(mesh, IsOk());
        options.mesh = mesh->get();
        const auto backend = CudaBackend::Create(options, AllCudaKernels());
        ASSERT_THAT(backend, IsOk());
        StateStore state(**backend);
        auto program = Program::Compile(graph, **backend, state);
        ASSERT_THAT(program, IsOk());
        // What has one GPU must not set up memory while another waits on it.
        ASSERT_THAT(host->Barrier(), IsOk());
        body(**program, *host);
        ASSERT_THAT(host->Barrier(), IsOk());
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  void OnRanks(const Shape& shape, absl::Duration timeout,
               const std::function<void(Program&, Communicator&)>& body) {
    OnRanks(shape, timeout, ThereAndBack(shape, sent_), body);
  }

  void ExpectRowsArrive(const Shape& shape) {
    ExpectRowsArrive(shape, ThereAndBack(shape, sent_));
  }
  void ExpectRowsArrive(const Shape& shape, const Graph& graph) {
    SCOPED_TRACE(absl::StrCat(shape.experts, " experts, ", shape.ranks,
                              " ranks, ", shape.columns, " columns"));
    OnRanks(
        shape, absl::Seconds(30), graph,
        [&](Program& program, Communicator& host) {
          // Operator by operator, then captured.
          for (int turn = 0; turn < 4; ++turn) {
            const AtHome home = HomeOf(shape, turn, host.rank());
            absl::c_copy(home.offset, program.Input("offset").as<int32_t>());
            absl::c_copy(home.x, program.Input("x").as<float>());
            *program.Input("rows").as<int32_t>() = home.offset.back();

            ASSERT_THAT(program.Run(), IsOk()) << "turn " << turn;

            const AtHome owner = OwnerOf(shape, turn, host.rank());
            EXPECT_THAT(program.Output("owner_offset").span<int32_t>(),
                        ElementsAreArray(owner.offset));
            EXPECT_TRUE(
                absl::c_equal(program.Output("sent").span<float>(), owner.x))
                << "rank " << host.rank() << ", turn " << turn;
            for (const auto& [name, value] : graph.outputs()) {
              if (name != "returned" && name != "work") continue;
              EXPECT_TRUE(
                  absl::c_equal(program.Output(name).span<float>(), home.x))
                  << name << " of rank " << host.rank() << ", turn " << turn;
            }
            ASSERT_THAT(host.Barrier(), IsOk());
          }
        });
  }

  int num_gpus_ = 0;
  Precision precision_ = Precision::kF32;
  DType sent_ = DType::kF32;
};

// One rank first, which loads the kernels: that may wait for what runs.
TEST_F(RowExchangeTest, RowsGoToTheOwnersOfTheirExpertsAndBack) {
  ExpectRowsArrive({/*ranks=*/1, /*experts=*/4, /*max_rows=*/40, 3});
  ExpectRowsArrive({/*ranks=*/2, /*experts=*/4, /*max_rows=*/40, 3});
  ExpectRowsArrive({/*ranks=*/3, /*experts=*/6, /*max_rows=*/60, 4});
  ExpectRowsArrive({/*ranks=*/4, /*experts=*/4, /*max_rows=*/40, 1});
}

TEST_F(RowExchangeTest, ManyRowsToo) {
  ExpectRowsArrive({/*ranks=*/1, /*experts=*/32, /*max_rows=*/1600, 512});
  ExpectRowsArrive({/*ranks=*/2, /*experts=*/32, /*max_rows=*/1600, 512});
  ExpectRowsArrive({/*ranks=*/4, /*experts=*/32, /*max_rows=*/1600, 520});
  ExpectRowsArrive({/*ranks=*/8, /*experts=*/32, /*max_rows=*/1600, 64});
}

// The last may be 64 MB, by their bound, so that they leave room.
TEST_F(RowExchangeTest, RowsGoBesideOtherWork) {
  for (const Shape& shape :
       {Shape{1, 32, 1600, 512}, Shape{2, 32, 1600, 512}, Shape{4, 4, 40, 3},
        Shape{3, 6, 60, 4}, Shape{2, 32, 32768, 512}}) {
    const Graph graph = ThereAndBackBesideWork(shape);
    const BesidePlan plan =
        PlanBeside(graph, [](const Node& node) { return MovesRows(node); });
    EXPECT_TRUE(absl::c_any_of(
        plan.steps, [](const BesidePlan::Step& step) { return step.beside; }));
    ExpectRowsArrive(shape, graph);
  }
}

// Rows that are BF16 on the way there and F32 on the way back, or the other way
// about, whatever products do: whole numbers of 8 bits lose nothing.
TEST_F(RowExchangeTest, TakesAndMakesRowsOfBf16) {
  for (const Shape& shape : {Shape{2, 4, 40, 3}, Shape{4, 32, 1600, 520}}) {
    SCOPED_TRACE(absl::StrCat(shape.columns, " columns"));
    sent_ = DType::kBF16;
    OnRanks(
        shape, absl::Seconds(30), [&](Program& program, Communicator& host) {
          for (int turn = 0; turn < 3; ++turn) {
            AtHome home = HomeOf(shape, turn, host.rank());
            for (float& x : home.x) x = EightBits(x);
            absl::c_copy(home.offset, program.Input("offset").as<int32_t>());
            absl::c_copy(home.x, program.Input("x").as<float>());
            *program.Input("rows").as<int32_t>() = home.offset.back();

            ASSERT_THAT(program.Run(), IsOk()) << "turn " << turn;

            AtHome owner = OwnerOf(shape, turn, host.rank());
            for (float& x : owner.x) x = EightBits(x);
            const auto is_same = [](BFloat16 got, float want) {
              return Widen(got) == want;
            };
            EXPECT_TRUE(absl::c_equal(program.Output("sent").span<BFloat16>(),
                                      owner.x, is_same))
                << "rank " << host.rank() << ", turn " << turn;
            EXPECT_TRUE(
                absl::c_equal(program.Output("returned").span<float>(), home.x))
                << "rank " << host.rank() << ", turn " << turn;
            ASSERT_THAT(host.Barrier(), IsOk());
          }
        });
  }
}

// Under BF16 other ranks' rows come rounded, to 8 bits: by at most 2^-8 of
// each, both ways together as once, since what is rounded stays as it is.
TEST_F(RowExchangeTest, RowsAreRoundedWhereProductsAre) {
  precision_ = Precision::kBf16;
  for (const Shape& shape : {Shape{2, 4, 40, 3}, Shape{4, 32, 1600, 520}}) {
    SCOPED_TRACE(absl::StrCat(shape.columns, " columns"));
    OnRanks(
        shape, absl::Seconds(30), [&](Program& program, Communicator& host) {
          for (int turn = 0; turn < 3; ++turn) {
            const AtHome home = HomeOf(shape, turn, host.rank());
            absl::c_copy(home.offset, program.Input("offset").as<int32_t>());
            absl::c_copy(home.x, program.Input("x").as<float>());
            *program.Input("rows").as<int32_t>() = home.offset.back();

            ASSERT_THAT(program.Run(), IsOk()) << "turn " << turn;

            constexpr float kRounding = 1.f / 256;
            const auto is_near = [](float got, float want) {
              return std::abs(got - want) <= kRounding * std::abs(want);
            };
            const AtHome owner = OwnerOf(shape, turn, host.rank());
            EXPECT_TRUE(absl::c_equal(program.Output("sent").span<float>(),
                                      owner.x, is_near))
                << "rank " << host.rank() << ", turn " << turn;
            EXPECT_TRUE(absl::c_equal(program.Output("returned").span<float>(),
                                      home.x, is_near))
                << "rank " << host.rank() << ", turn " << turn;
            ASSERT_THAT(host.Barrier(), IsOk());
          }
        });
  }
}

// In place and where a lane is joined; the rank that comes late waits for none.
TEST_F(RowExchangeTest, CountsHowLongAnotherRankIsWaitedFor) {
  const Shape shape = {/*ranks=*/2, /*experts=*/4, /*max_rows=*/40, 3};
  for (const Graph& graph :
       {ThereAndBack(shape), ThereAndBackBesideWork(shape)}) {
    OnRanks(shape, absl::Seconds(30), graph,
            [&](Program& program, Communicator& host) {
              // Operator by operator, captured, and again.
              for (int turn = 0; turn < 3; ++turn) {
                const double before = RankWait::Seconds();
                if (host.rank() == 1) absl::SleepFor(absl::Seconds(1));
                ASSERT_THAT(program.Run(), IsOk()) << "turn " << turn;
                const double waited = RankWait::Seconds() - before;
                if (host.rank() == 0) {
                  EXPECT_GT(waited, 0.5) << "turn " << turn;
                } else {
                  EXPECT_LT(waited, 0.5) << "turn " << turn;
                }
                ASSERT_THAT(host.Barrier(), IsOk());
              }
            });
  }
}

TEST_F(RowExchangeTest, NamesTheRankThatDoesNotCome) {
  const Shape shape = {/*ranks=*/2, /*experts=*/4, /*max_rows=*/40, 3};
  OnRanks(shape, absl::Seconds(2), [&](Program& program, Communicator& host) {
    ASSERT_THAT(program.Run(), IsOk());
    ASSERT_THAT(host.Barrier(), IsOk());
    if (host.rank() == 1) return;
    EXPECT_THAT(program.Run(),
                StatusIs(absl::StatusCode::kDeadlineExceeded,
                         HasSubstr("ExchangePlan: rank 1 of its group has not "
                                   "come in 2s")));
  });
}

TEST_F(RowExchangeTest, WantsAMesh) {
  CudaOptions options;
  const auto backend = CudaBackend::Create(options, AllCudaKernels());
  ASSERT_THAT(backend, IsOk());
  StateStore state(**backend);
  auto program =
      Program::Compile(ThereAndBack({2, 4, 40, 3}), **backend, state);
  ASSERT_THAT(program, IsOk());
  EXPECT_THAT((*program)->Run(),
              StatusIs(absl::StatusCode::kInternal,
                       HasSubstr("the backend has no group ep of GPUs")));
}

// One rank's kernels, with peers that have sent their rows before: so nothing
// else runs, and a sanitizer that lets kernels run one by one sees them too.
struct Played {
  bool home, beside, rounded;
};
class PlayedPeersTest : public ::testing::TestWithParam<Played> {
 protected:
  static constexpr int kRanks = 3, kRank = 1, kExperts = 2;
  static constexpr int64_t kColumns = 72, kPieceRows = 2000;
  static constexpr uint32_t kTurn = 7;  // To come; slot 1.

  // Rows that rank s has for expert e of owner o.
  static int Rows(int s, int o, int e) {
    return (s + o + e) % 4 == 2 ? 0 : 100 * s + 37 * o + 211 * e + 1;
  }
  // A number of 8 bits that depends on all; `i` is a row.
  static float Number(int s, int o, int e, int i, int64_t column) {
    return static_cast<float>((s * 59 + o * 31 + e * 17 + i * 3 + column) %
                              251);
  }
  static void Append(int s, int o, int e, std::vector<float>& rows) {
    for (int i = 0; i < Rows(s, o, e); ++i) {
      for (int64_t c = 0; c < kColumns; ++c) {
        rows.push_back(Number(s, o, e, i, c));
      }
    }
  }
  // What rank s has at home; what owner o has.
  static std::vector<float> Home(int s) {
    std::vector<float> rows;
    for (int o = 0; o < kRanks; ++o) {
      for (int e = 0; e < kExperts; ++e) Append(s, o, e, rows);
    }
    return rows;
  }
  static std::vector<float> Owner(int o) {
    std::vector<float> rows;
    for (int e = 0; e < kExperts; ++e) {
      for (int s = 0; s < kRanks; ++s) Append(s, o, e, rows);
    }
    return rows;
  }
  // What goes between them, by expert.
  static std::vector<float> Piece(int s, int o) {
    std::vector<float> rows;
    for (int e = 0; e < kExperts; ++e) Append(s, o, e, rows);
    return rows;
  }

  // Bytes of a piece, and back; F32 or BF16.
  static std::vector<char> Sent(const std::vector<float>& rows, bool rounded) {
    std::vector<char> bytes(rows.size() * SentBytes(rounded));
    for (size_t i = 0; i < rows.size(); ++i) {
      const BFloat16 narrow = RoundToBFloat16(rows[i]);
      rounded ? std::memcpy(&bytes[2 * i], &narrow, 2)
              : std::memcpy(&bytes[4 * i], &rows[i], 4);
    }
    return bytes;
  }
};

TEST_P(PlayedPeersTest, RowsGoAndComeAndNothingElseIsWritten) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  const Played& p = GetParam();
  const int64_t piece_bytes = kPieceRows * kColumns * SentBytes(p.rounded);
  const auto piece_at = [&](int sender) {
    return kPeerFlagBytes + ((kTurn & 1) * kRanks + sender) * piece_bytes;
  };
  std::vector<DeviceArray<char>> block;
  PeerTable table;
  table.piece_bytes = piece_bytes;
  table.turn = kTurn - 1;
  std::vector<std::vector<char>> want_block;
  for (int r = 0; r < kRanks; ++r) {
    std::vector<char> bytes(kPeerFlagBytes + 2 * kRanks * piece_bytes, 0x5a);
    // Peers have sent; this rank's flags are of the turn before.
    for (int s = 0; s < kRanks; ++s) {
      const uint32_t flag = s == kRank ? kTurn - 1 : kTurn;
      std::memcpy(&bytes[4 * s], &flag, sizeof(flag));
    }
    for (int s = 0; r == kRank && s < kRanks; ++s) {
      if (s == kRank) continue;
      const std::vector<char> piece =
          Sent(p.home ? Piece(kRank, s) : Piece(s, kRank), p.rounded);
      absl::c_copy(piece, bytes.begin() + piece_at(s));
    }
    auto array = DeviceArray<char>::CopyOf(bytes);
    ASSERT_THAT(array, IsOk());
    block.push_back(*std::move(array));
    table.block[r] = block.back().data();
    // What is to be there then.
    std::memcpy(&bytes[4 * kRank], &kTurn, sizeof(kTurn));
    if (r != kRank) {
      const std::vector<char> piece =
          Sent(p.home ? Piece(r, kRank) : Piece(kRank, r), p.rounded);
      absl::c_copy(piece, bytes.begin() + piece_at(kRank));
    }
    want_block.push_back(std::move(bytes));
  }
  std::vector<int32_t> home_offset = {0}, count;
  for (int o = 0; o < kRanks; ++o) {
    for (int e = 0; e < kExperts; ++e) {
      home_offset.push_back(home_offset.back() + Rows(kRank, o, e));
      count.push_back(Rows(o, kRank, e));
    }
  }
  const std::vector<float> from = p.home ? Owner(kRank) : Home(kRank);
  const std::vector<float> want = p.home ? Home(kRank) : Owner(kRank);
  const auto device_table = DeviceArray<PeerTable>::CopyOf({table});
  const auto device_offset = DeviceArray<int32_t>::CopyOf(home_offset);
  const auto device_count = DeviceArray<int32_t>::CopyOf(count);
  const auto device_from = DeviceArray<float>::CopyOf(from);
  const auto fault = DeviceArray<Fault>::CopyOf({Fault()});
  // One row more, which stays as it is.
  std::vector<float> to(want.size() + kColumns, -1);
  const auto device_to = DeviceArray<float>::CopyOf(to);
  ASSERT_THAT(device_to, IsOk());
  RowExchangeArgs args;
  args.peers = {device_table->data(),
                kRanks,
                kRank,
                absl::ToInt64Nanoseconds(absl::Seconds(20)),
                {fault->data(), 0}};
  args.experts = kExperts;
  args.columns = kColumns;
  args.rounded = p.rounded;
  args.home_offset = device_offset->data();
  args.count = device_count->data();
  args.from = {device_from->data(), false};
  args.to = {device_to->data(), false};
  args.beside = p.beside;

  ASSERT_EQ(
      p.home ? ReturnRowsHome(args, nullptr) : SendRowsToOwners(args, nullptr),
      cudaSuccess);

  absl::c_copy(want, to.begin());
  const auto got = device_to->ToHost();
  ASSERT_THAT(got, IsOk());
  EXPECT_TRUE(*got == to);
  for (int r = 0; r < kRanks; ++r) {
    const auto bytes = block[r].ToHost();
    ASSERT_THAT(bytes, IsOk());
    EXPECT_TRUE(*bytes == want_block[r]) << "block of rank " << r;
  }
  const auto after = device_table->ToHost();
  ASSERT_THAT(after, IsOk());
  EXPECT_EQ((*after)[0].turn, kTurn);
  EXPECT_EQ((*after)[0].blocks_done, 0);
  EXPECT_EQ((*after)[0].late, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Ways, PlayedPeersTest,
    ::testing::Values(Played{false, false, false}, Played{false, false, true},
                      Played{false, true, false}, Played{false, true, true},
                      Played{true, false, false}, Played{true, false, true},
                      Played{true, true, false}, Played{true, true, true}),
    [](const ::testing::TestParamInfo<Played>& info) {
      return absl::StrCat(info.param.home ? "home" : "to_owners",
                          info.param.beside ? "_beside" : "",
                          info.param.rounded ? "_rounded" : "");
    });

}  // namespace
}  // namespace strata::gpu
