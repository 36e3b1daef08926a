#include "core/passes/join_graphs.h"

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/collective_rows.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/ops/optimizer.h"
#include "core/passes/hide_exchanges.h"
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
using ::testing::UnorderedElementsAre;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr int64_t kRows = 8;
constexpr int64_t kWidth = 4;

// Builds graphs whose nodes are known by their scope.
class Part {
 public:
  template <typename Build>
  std::invoke_result_t<Build> Named(const std::string& name,
                                    const Build& build) {
    GraphBuilder::Scope scope(b, name);
    return build();
  }
  ValueId Work(const std::string& name, ValueId x) {
    return Named(name, [&] { return Scale(b, x, 2.0); });
  }

  GraphBuilder b;
};

// `exchanges` times there and back, each followed by work, as mixtures have it.
// Weight gradients, or whatever else nobody waits for, stand between.
Graph Exchanges(const std::string& name, int exchanges) {
  Part part;
  GraphBuilder& b = part.b;
  const ValueId rows = b.Input("rows", DType::kI32, {});
  const ValueId offset = b.Input("offset", DType::kI32, {Static(3)});
  ValueId x = b.Input("x", DType::kF32, {Ragged(kRows, rows), Static(kWidth)});
  const RowExchange exchange = part.Named(name + " plan", [&] {
    return ExchangePlan(b, offset, rows, /*ranks=*/2, "ep");
  });
  for (int i = 0; i < exchanges; ++i) {
    const std::string number = std::to_string(i);
    part.b.Output("rest " + number, part.Work(name + " rest " + number, x));
    x = part.Named(name + " send " + number,
                   [&] { return SendRows(b, x, exchange, "ep"); });
    x = part.Work(name + " expert " + number, x);
    x = part.Named(name + " return " + number,
                   [&] { return ReturnRows(b, x, exchange, kRows, "ep"); });
    x = part.Work(name + " work " + number, x);
  }
  b.Output("y", x);
  return *b.Finish();
}

std::vector<std::string> Scopes(const Graph& graph) {
  std::vector<std::string> scopes;
  for (const Node& node : graph.nodes()) scopes.push_back(node.scope);
  return scopes;
}

TEST(JoinGraphsTest, ExchangesTakeTurnsAndTheRestIsLast) {
  const Graph a = Exchanges("a", 1);
  const Graph b = Exchanges("b", 1);

  const auto joined = JoinGraphs({a, ""}, {b, "b."});

  ASSERT_THAT(joined, IsOk());
  EXPECT_THAT(Verify(*joined), IsOk());
  EXPECT_THAT(
      Scopes(*joined),
      ElementsAre("a plan", "a send 0", "b plan", "b send 0", "a expert 0",
                  "a return 0", "b expert 0", "b return 0", "a rest 0",
                  "a work 0", "b rest 0", "b work 0"));
}

// Two exchanges of the one, six of the other.
TEST(JoinGraphsTest, FewerExchangesAreSpreadOverMore) {
  const Graph a = Exchanges("a", 1);
  const Graph b = Exchanges("b", 3);

  const auto joined = JoinGraphs({a, "a."}, {b, "b."});

  ASSERT_THAT(joined, IsOk());
  std::string turns;
  for (const Node& node : joined->nodes()) {
    if (MovesRows(node)) turns += node.scope[0];
  }
  EXPECT_EQ(turns, "bbabbbab");
}

// Each one's work is beside the other's exchanges; the second's plan, a call of
// the group in its own place, first waits for what is on its way.
TEST(JoinGraphsTest, LetsExchangesRunBesideTheOtherGraph) {
  const Graph a = Exchanges("a", 1);
  const Graph b = Exchanges("b", 1);
  auto joined = JoinGraphs({a, ""}, {b, "b."});
  ASSERT_THAT(joined, IsOk());

  const Graph hidden = HideExchanges(*joined, /*flops_per_wire_byte=*/0.25);

  EXPECT_THAT(Verify(hidden), IsOk());
  EXPECT_THAT(Scopes(hidden),
              ElementsAre("a plan", "a send 0", "a rest 0", "b plan",
                          "b send 0", "a expert 0", "a return 0", "b expert 0",
                          "b return 0", "a work 0", "b rest 0", "b work 0"));
}

TEST(JoinGraphsTest, NamesArePrefixedAndParametersShared) {
  const auto graph = [](double factor) {
    GraphBuilder b;
    const ValueId n = b.Input("n", DType::kI32, {});
    const ValueId x =
        b.Input("x", DType::kF32, {Ragged(kRows, n), Static(kWidth)});
    const ValueId w = b.Parameter("w", {Static(kWidth), Static(kWidth)});
    b.Output("y", Scale(b, MatMul(b, x, w), factor));
    return *b.Finish();
  };
  const Graph a = graph(1);
  const Graph b = graph(2);

  const auto joined = JoinGraphs({a, ""}, {b, "b."});

  ASSERT_THAT(joined, IsOk());
  EXPECT_EQ(CountElements(*joined, Role::kParameter), kWidth * kWidth);
  std::vector<std::string> outputs;
  for (const auto& [name, value] : joined->outputs()) outputs.push_back(name);
  EXPECT_THAT(outputs, UnorderedElementsAre("y", "b.y"));
  // What sizes a part's rows is its own count.
  for (const std::string prefix : {"", "b."}) {
    const ValueType& type =
        joined->value(joined->outputs().at(prefix + "y")).type;
    EXPECT_EQ(type.dims[0].count, joined->FindSource(prefix + "n"));
    EXPECT_NE(type.dims[0].count, kNone);
  }

  CpuBackend backend(/*num_threads=*/1, AllCpuKernels());
  StateStore state(backend);
  auto program = Program::Compile(*joined, backend, state);
  ASSERT_THAT(program, IsOk());
  for (float& w : state.Get("w").span<float>()) w = 1;
  *(*program)->Input("n").as<int32_t>() = 1;
  *(*program)->Input("b.n").as<int32_t>() = 2;
  for (float& x : (*program)->Input("x").span<float>()) x = 1;
  for (float& x : (*program)->Input("b.x").span<float>()) x = 10;
  ASSERT_THAT((*program)->Run(), IsOk());
  // Sums of four, times 1 and times 2.
  EXPECT_THAT((*program)->Output("y").span<float>(), ElementsAre(4, 4, 4, 4));
  EXPECT_THAT((*program)->Output("b.y").span<float>(),
              ElementsAre(80, 80, 80, 80, 80, 80, 80, 80));
}

// A read of what is changed later is not among what nobody waits for, if the
// change has to be before an exchange.
TEST(JoinGraphsTest, StatesAreReadAsTheyWere) {
  Part part;
  GraphBuilder& b = part.b;
  const ValueId rows = b.Input("rows", DType::kI32, {});
  const ValueId offset = b.Input("offset", DType::kI32, {Static(3)});
  const ValueId keep = b.Input("keep", DType::kF32, {});
  const ValueId x =
      b.Input("x", DType::kF32, {Ragged(kRows, rows), Static(kWidth)});
  const ValueId state =
      b.State("state", DType::kF32, {Static(kWidth), Static(kWidth)});
  const ValueId token =
      b.Input("token", DType::kF32, {Static(kWidth), Static(kWidth)});
  b.Output("old", part.Work("reads", state));
  b.Output("rest", part.Work("rest", token));
  part.Named("changes", [&] { Accumulate(b, state, token, keep); });
  const ValueId sum = part.Work("reads again", state);
  const RowExchange exchange = part.Named(
      "plan", [&] { return ExchangePlan(b, offset, rows, /*ranks=*/2, "ep"); });
  b.Output("sent", part.Named("send", [&] {
    return SendRows(b, part.Named("product", [&] { return MatMul(b, x, sum); }),
                    exchange, "ep");
  }));
  part.Named("changes again", [&] { Accumulate(b, state, token, keep); });
  const Graph a = *b.Finish();
  const Graph other = Exchanges("b", 1);

  const auto joined = JoinGraphs({a, "a."}, {other, ""});

  ASSERT_THAT(joined, IsOk());
  EXPECT_THAT(Verify(*joined), IsOk());
  std::vector<std::string> scopes;
  for (const std::string& scope : Scopes(*joined)) {
    if (scope[0] != 'b') scopes.push_back(scope);
  }
  EXPECT_THAT(scopes,
              ElementsAre("reads", "changes", "reads again", "plan",
                          "send.product", "send", "rest", "changes again"));
}

Graph WithState(DType dtype, int64_t size, bool changes) {
  GraphBuilder b;
  const ValueId state = b.State("sum", dtype, {Static(size)});
  if (changes) {
    Accumulate(b, state, b.Input("x", dtype, {Static(size)}),
               b.Input("keep", dtype, {}));
  } else {
    b.Output("y", Scale(b, state, 2.0));
  }
  return *b.Finish();
}

TEST(JoinGraphsTest, RefusesWhatWouldChangeUnderTheOther) {
  const Graph reads = WithState(DType::kF32, 4, /*changes=*/false);
  const Graph changes = WithState(DType::kF32, 4, /*changes=*/true);

  EXPECT_THAT(JoinGraphs({reads, "a."}, {reads, "b."}), IsOk());
  for (const Graph* first : {&reads, &changes}) {
    EXPECT_THAT(JoinGraphs({*first, "a."}, {changes, "b."}),
                StatusIs(kInvalid, HasSubstr("use sum, which one of them")));
  }
  EXPECT_THAT(JoinGraphs({changes, "a."}, {reads, "b."}),
              StatusIs(kInvalid, HasSubstr("use sum, which one of them")));
}

TEST(JoinGraphsTest, RefusesTwoThingsOfOneName) {
  const Graph four = WithState(DType::kF32, 4, /*changes=*/false);
  const Graph five = WithState(DType::kF32, 5, /*changes=*/false);
  EXPECT_THAT(JoinGraphs({four, "a."}, {five, "b."}),
              StatusIs(kInvalid, HasSubstr("sum as F32[4] and as F32[5]")));

  EXPECT_THAT(JoinGraphs({four, ""}, {four, ""}),
              StatusIs(kInvalid, HasSubstr("an output of the name y")));

  const Graph x = Exchanges("a", 1);
  EXPECT_THAT(JoinGraphs({x, "a."}, {x, "a."}),
              StatusIs(kInvalid, HasSubstr("as input and as input, a a.rows")));

  GraphBuilder b;
  b.Output("y", Scale(b, b.Input("sum", DType::kF32, {}), 2.0));
  const Graph input = *b.Finish();
  EXPECT_THAT(JoinGraphs({four, "a."}, {input, ""}),
              StatusIs(kInvalid, HasSubstr("as state and as input, a sum")));
}

}  // namespace
}  // namespace strata
