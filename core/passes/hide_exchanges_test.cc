#include "core/passes/hide_exchanges.h"

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/collective_rows.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/ops/optimizer.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kRows = 8;
constexpr int64_t kWidth = 4;

// Rows go to experts and come back, as a mixture has it; `shared` [kWidth,
// kWidth] is work beside.
class HideExchangesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    rows_ = b_.Input("rows", DType::kI32, {});
    x_ = b_.Input("x", DType::kF32, {Ragged(kRows, rows_), Static(kWidth)});
    token_ = b_.Input("token", DType::kF32, {Static(kRows), Static(kWidth)});
    shared_ = b_.Parameter("shared", {Static(kWidth), Static(kWidth)});
    const ValueId offset = b_.Input("offset", DType::kI32, {Static(3)});
    exchange_ = Named("plan", [&] {
      return ExchangePlan(b_, offset, rows_, /*ranks=*/2, "ep");
    });
  }

  // Nodes are known by their scope.
  template <typename Build>
  std::invoke_result_t<Build> Named(const std::string& name,
                                    const Build& build) {
    GraphBuilder::Scope scope(b_, name);
    return build();
  }
  ValueId Sent(ValueId x) {
    return Named("send", [&] { return SendRows(b_, x, exchange_, "ep"); });
  }
  ValueId Returned(ValueId x) {
    return Named("return",
                 [&] { return ReturnRows(b_, x, exchange_, kRows, "ep"); });
  }
  ValueId Expert(ValueId x) {
    return Named("expert", [&] { return Scale(b_, x, 2.0); });
  }
  ValueId Shared(const std::string& name, ValueId x) {
    return Named(name, [&] { return MatMul(b_, x, shared_); });
  }

  std::vector<std::string> Order(double flops_per_wire_byte) {
    auto graph = b_.Finish();
    EXPECT_THAT(graph, IsOk());
    const Graph ordered = HideExchanges(*graph, flops_per_wire_byte);
    EXPECT_THAT(Verify(ordered), IsOk());
    EXPECT_EQ(ordered.outputs().size(), graph->outputs().size());
    std::vector<std::string> names;
    for (const Node& node : ordered.nodes()) {
      names.push_back(node.scope);
      EXPECT_EQ(node.attrs.Has("beside"),
                node.op == &kSendRows || node.op == &kReturnRows);
    }
    return names;
  }

  GraphBuilder b_;
  ValueId rows_ = kNone, x_ = kNone, token_ = kNone, shared_ = kNone;
  RowExchange exchange_;
};

TEST_F(HideExchangesTest, SharedExpertsStandBetweenSendingAndExperts) {
  b_.Output("y", Returned(Expert(Sent(x_))));
  b_.Output("z", Shared("shared", token_));

  EXPECT_THAT(Order(/*flops_per_wire_byte=*/1),
              ElementsAre("plan", "send", "shared", "expert", "return"));
}

// 64 bytes leave the rank by each exchange (half of 8 x 4 F32); a product has
// 2 x 8 x 4 x 4 = 256 FLOPs, so that at 4 a byte one hides one exchange.
TEST_F(HideExchangesTest, WhatOneExchangeNeedsNoMoreIsLeftForTheNext) {
  const ValueId y = Returned(Expert(Sent(x_)));
  b_.Output("y", Named("after", [&] { return Scale(b_, y, 3.0); }));
  b_.Output("z", Shared("shared 2", Shared("shared 1", token_)));

  EXPECT_THAT(Order(4), ElementsAre("plan", "send", "shared 1", "expert",
                                    "return", "shared 2", "after"));
}

// As backward passes have it: the input gradient, then that of the weight.
TEST_F(HideExchangesTest, AnExchangeGoesBeforeWorkThatDoesNotMakeIt) {
  const ValueId dx = Expert(x_);
  b_.Output("dw", Shared("weight gradient", token_));
  b_.Output("y", Sent(dx));

  EXPECT_THAT(Order(1),
              ElementsAre("plan", "expert", "send", "weight gradient"));
}

// Reads of a state stay before or after its change, and calls of a group in
// their order.
TEST_F(HideExchangesTest, StatesAreReadAsTheyWere) {
  const ValueId state =
      b_.State("state", DType::kF32, {Static(kRows), Static(kWidth)});
  const ValueId keep = b_.Input("keep", DType::kF32, {});
  const ValueId sent = Sent(x_);
  b_.Output("y", Expert(sent));
  b_.Output("old", Named("reads", [&] { return Scale(b_, state, 1.0); }));
  Named("changes", [&] { Accumulate(b_, state, token_, keep); });
  b_.Output("new", Named("reads again", [&] { return Scale(b_, state, 1.0); }));

  EXPECT_THAT(Order(1e6), ElementsAre("plan", "send", "reads", "changes",
                                      "reads again", "expert"));
}

}  // namespace
}  // namespace strata
