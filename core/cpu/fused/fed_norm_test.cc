#include "core/cpu/fused/fed_norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/cpu/elementwise.h"
#include "core/cpu/norm.h"
#include "core/graph/builder.h"
#include "core/ops/elementwise.h"
#include "core/ops/fed_norm.h"
#include "core/ops/norm.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr double kEps = 1e-5;
constexpr int64_t kBound = 140;

struct Case {
  int64_t count, d;
  bool to_before, to_rows;
};

// The operator and its gradients, or those that it stands for.
void Build(GraphBuilder& b, DType dtype, const Case& c, bool fused) {
  const ValueId n = b.Input("n", DType::kI32, {});
  const Dims dims = {Ragged(kBound, n), Static(c.d)};
  const ValueId before = b.Input("before", dtype, dims);
  const ValueId rows = b.Input("the rows", dtype, dims);
  const ValueId dx = b.Input("dx", dtype, dims);
  const ValueId to_before = b.Input("to before", dtype, dims);
  const ValueId to_rows = b.Input("to the rows", dtype, dims);
  const ValueId gain = b.Parameter("gain", {Static(c.d)});
  const ValueId fed_gain = b.Parameter("fed gain", {Static(c.d)});
  const auto output = [&](const std::vector<ValueId>& values) {
    const char* const names[] = {"x",      "rstd",  "fed_rstd", "d_before",
                                 "d_rows", "dgain", "dfed_gain"};
    for (size_t i = 0; i < values.size(); ++i) b.Output(names[i], values[i]);
  };
  if (fused) {
    const std::vector<ValueId> x =
        b.Add(kFedNorm, {before, rows, gain, fed_gain}, {{"eps", kEps}});
    const std::vector<ValueId> d =
        b.Add(kFedNormInputGrad,
              {dx, before, rows, gain, fed_gain, x[1], x[2],
               c.to_before ? to_before : kNone, c.to_rows ? to_rows : kNone});
    const std::vector<ValueId> dgain =
        b.Add(kFedNormWeightGrad, {dx, before, rows, x[1], x[2]});
    return output({x[0], x[1], x[2], d[0], d[1], dgain[0], dgain[1]});
  }
  const ValueId added = Add(b, rows, Scale(b, before, -1));
  const std::vector<ValueId> y =
      b.Add(kRmsNorm, {before, gain}, {{"eps", kEps}});
  const std::vector<ValueId> fed =
      b.Add(kRmsNorm, {added, fed_gain}, {{"eps", kEps}});
  const ValueId g = b.Add1(kRmsNormInputGrad, {dx, before, gain, y[1]});
  const ValueId f = b.Add1(kRmsNormInputGrad, {dx, added, fed_gain, fed[1]});
  output({Add(b, y[0], fed[0]), y[1], fed[1],
          Add(b, c.to_before ? Add(b, to_before, g) : g, Scale(b, f, -1)),
          c.to_rows ? Add(b, to_rows, f) : f,
          b.Add1(kRmsNormWeightGrad, {dx, before, gain, y[1]}),
          b.Add1(kRmsNormWeightGrad, {dx, added, fed_gain, fed[1]})});
}

absl::StatusOr<RunResult> RunCase(DType dtype, int num_threads, const Case& c,
                                  bool fused) {
  return RunGraph(
      dtype, num_threads,
      {RegisterNormKernels, RegisterElementwiseKernels, RegisterFedNormKernels},
      [&](GraphBuilder& b) { Build(b, dtype, c, fused); },
      [&](const std::string& name, const TensorView& view) {
        if (name == "n") return Copy({static_cast<double>(c.count)}, view);
        std::vector<double> values =
            Normal(view.num_elements(), static_cast<uint32_t>(name.size()));
        if (name != "gain" && name != "fed gain") {
          std::fill(values.begin() + c.count * c.d, values.end(), NAN);
        }
        Copy(values, view);
      });
}

// Rows on both sides of a block of the gains' gradients (64), columns on both
// sides of vectors.
TEST(FedNormTest, GivesTheBitsOfTheOperatorsThatItStandsFor) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const int64_t count : {0, 1, 63, 64, 65, 140}) {
      for (const int64_t d : {1, 15, 16, 33, 128}) {
        const Case c = {count, d, count % 2 == 1, d % 2 == 1};
        SCOPED_TRACE(testing::Message() << count << " rows of " << d);
        const auto want = RunCase(dtype, 2, c, /*fused=*/false);
        const auto got = RunCase(dtype, 2, c, /*fused=*/true);
        ASSERT_THAT(want, IsOk());
        ASSERT_THAT(got, IsOk());
        EXPECT_EQ(*got, *want);
      }
    }
  }
}

TEST(FedNormTest, RepeatsBitForBitOnAnyNumberOfThreads) {
  const Case c = {133, 65, true, true};
  const auto one = RunCase(DType::kF32, 1, c, /*fused=*/true);
  ASSERT_THAT(one, IsOk());
  for (const int num_threads : {2, 3}) {
    const auto more = RunCase(DType::kF32, num_threads, c, /*fused=*/true);
    ASSERT_THAT(more, IsOk());
    EXPECT_EQ(*more, *one);
  }
}

TEST(FedNormTest, GradientsMatchDifferences) {
  EXPECT_THAT(
      CheckGradients(
          [](GraphBuilder& b) -> std::vector<ValueId> {
            const Dims dims = {Static(70), Static(9)};
            return {FedNorm(b, b.Input("before", DType::kF64, dims),
                            b.Input("rows", DType::kF64, dims),
                            b.Parameter("gain", {Static(9)}),
                            b.Parameter("fed gain", {Static(9)}), kEps)};
          },
          {RegisterFedNormKernels, RegisterElementwiseKernels}),
      IsOk());
}

}  // namespace
}  // namespace strata
