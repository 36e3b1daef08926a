#include "core/graph/builder.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::vector<ValueType>> SameType(const OpView& op) {
  if (op.type(0).rank() != 2) {
    return absl::InvalidArgumentError("x has rank 1; want 2");
  }
  return std::vector<ValueType>{op.type(0)};
}

// A count of its own, and rows ragged by it.
absl::StatusOr<std::vector<ValueType>> SomeRows(const OpView& op) {
  Dims dims = op.type(0).dims;
  dims[0] = Ragged(dims[0].bound, /*output 1 of this node*/ -3);
  return std::vector<ValueType>{{op.type(0).dtype, dims}, {DType::kI32, {}}};
}

const OpDef kTwice = {"Twice", SameType, nullptr,
                      [](const OpView& op, const Binding& binding) {
                        return Elements(op.type(0), binding);
                      }};
const OpDef kFilter = {"Filter", SomeRows, nullptr, nullptr};
const OpDef kUpdate = {
    "Update",
    [](const OpView& op) -> absl::StatusOr<std::vector<ValueType>> {
      return std::vector<ValueType>{};
    },
    nullptr,
    nullptr,
    {0}};

TEST(GraphBuilderTest, InfersTypesAndWritesTheGraphAsText) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(4), Static(8)});
  GraphBuilder::Scope layer(b, "layer.0");
  b.Output("y", b.Add1(kTwice, {x}));
  const auto graph = b.Finish();

  ASSERT_THAT(graph, IsOk());
  EXPECT_EQ(ToText(*graph),
            "input x: F32[4, 8]\n"
            "%1: F32[4, 8] = Twice(x)  # layer.0\n");
}

TEST(GraphBuilderTest, CountsThatANodeMakesSizeItsOwnOutputs) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(4), Static(8)});
  const std::vector<ValueId> rows = b.Add(kFilter, {x});
  const ValueId twice = b.Add1(kTwice, {rows[0]});
  const auto graph = b.Finish();

  ASSERT_THAT(graph, IsOk());
  EXPECT_EQ(graph->value(rows[0]).type.dims[0], Ragged(4, rows[1]));
  EXPECT_EQ(graph->value(twice).type.dims[0], Ragged(4, rows[1]));
}

TEST(GraphBuilderTest, TheFirstErrorSticksAndNamesThePlace) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(4)});
  GraphBuilder::Scope layer(b, "layer.7");
  const ValueId y = b.Add1(kTwice, {x});
  b.Add1(kTwice, {y});  // Would crash if it looked at y.

  EXPECT_EQ(y, kNone);
  EXPECT_THAT(b.Finish(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("layer.7: Twice: x has rank 1; want 2")));
}

TEST(GraphBuilderTest, TwoSourcesOfOneNameAreAnError) {
  GraphBuilder b;
  b.Input("x", DType::kF32, {});
  b.Parameter("x", {});

  EXPECT_THAT(b.Finish(), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("two values are called x")));
}

TEST(VerifyTest, OnlyStateIsUpdatedInPlace) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(4), Static(8)});
  b.Add(kUpdate, {x});

  EXPECT_THAT(b.Finish(), StatusIs(absl::StatusCode::kInternal,
                                   HasSubstr("which is no state")));
}

TEST(VerifyTest, InputGradientsNeverReadWeightGradients) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(4), Static(8)});
  b.set_phase(Phase::kWeightGrad);
  const ValueId dw = b.Add1(kTwice, {x});
  b.set_phase(Phase::kInputGrad);
  b.Add1(kTwice, {dw});

  EXPECT_THAT(b.Finish(), StatusIs(absl::StatusCode::kInternal,
                                   HasSubstr("reads the weight gradient")));
}

TEST(CostTest, TakesCountsFromTheBinding) {
  GraphBuilder b;
  const ValueId n = b.Input("n", DType::kI32, {});
  const ValueId x = b.Input("x", DType::kF32, {Ragged(100, n), Static(8)});
  b.Add1(kTwice, {x});
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const Cost at_bound = CostOf(*graph, Binding());
  const Cost at_ten = CostOf(*graph, [](ValueId, int64_t) { return 10.0; });

  EXPECT_EQ(at_bound.flops, 800);
  EXPECT_EQ(at_ten.flops, 80);
  EXPECT_EQ(at_ten.bytes_read, 320);
  EXPECT_EQ(at_ten.bytes_written, 320);
}

}  // namespace
}  // namespace strata
