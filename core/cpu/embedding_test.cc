#include "core/cpu/embedding.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/cpu/elementwise.h"
#include "core/graph/builder.h"
#include "core/ops/embedding.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kVocab = 11;
constexpr int64_t kBound = 90;

std::vector<double> Ids(int64_t t) {
  std::vector<double> ids(t);
  for (int64_t i = 0; i < t; ++i) ids[i] = i * i % kVocab;
  return ids;
}

absl::StatusOr<RunResult> RunEmbedding(DType dtype, int num_threads,
                                       int64_t count, int64_t d,
                                       const std::vector<double>& ids) {
  return RunGraph(
      dtype, num_threads, {RegisterEmbeddingKernels},
      [&](GraphBuilder& b) {
        const ValueId n = b.Input("n", DType::kI32, {});
        const Dim t = Ragged(kBound, n);
        const ValueId id = b.Input("ids", DType::kI32, {t});
        const ValueId drows = b.Input("drows", dtype, {t, Static(d)});
        const ValueId table = b.Parameter("table", {Static(kVocab), Static(d)});
        b.Output("rows", Embedding(b, table, id));
        b.Output("dtable",
                 b.Add1(kEmbeddingGrad, {drows, id}, {{"vocab", kVocab}}));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "n") Copy({static_cast<double>(count)}, view);
        if (name == "ids") Copy(ids, view);
        if (name == "drows") Copy(Normal(count * d, 1), view);
        if (name == "table") Copy(Normal(kVocab * d, 2), view);
      });
}

TEST(EmbeddingTest, WidensRowsOfABFloat16Table) {
  for (const int64_t d : {1, 15, 16, 17, 130}) {
    std::vector<BFloat16> table;
    for (const double x : Normal(kVocab * d, 2)) {
      table.push_back(RoundToBFloat16(static_cast<float>(x)));
    }
    GraphRun run(
        [&](GraphBuilder& b) {
          b.Output("rows", Embedding(b,
                                     b.Input("table", DType::kBF16,
                                             {Static(kVocab), Static(d)}),
                                     b.Input("ids", DType::kI32, {Static(3)})));
        },
        {RegisterEmbeddingKernels});
    run.Set("table", table);
    run.Set<int32_t>("ids", {4, 0, 10});
    ASSERT_THAT(run.Run(), IsOk());
    const std::vector<float> rows = run.Get<float>("rows");
    ASSERT_EQ(static_cast<int64_t>(rows.size()), 3 * d);
    for (int64_t i = 0; i < d; ++i) {
      EXPECT_EQ(rows[i], Widen(table[4 * d + i]));
      EXPECT_EQ(rows[d + i], Widen(table[i]));
      EXPECT_EQ(rows[2 * d + i], Widen(table[10 * d + i]));
    }
    run.Set<int32_t>("ids", {4, 11, 10});
    EXPECT_THAT(run.Run(), StatusIs(absl::StatusCode::kInvalidArgument,
                                    HasSubstr("id 11")));
  }
}

// Columns on both sides of what one piece of work adds up (64).
TEST(EmbeddingTest, TakesRowsAndAddsUpTheirGradients) {
  for (const int64_t count : {0, 1, 40, 90}) {
    for (const int64_t d : {1, 63, 64, 65, 130}) {
      SCOPED_TRACE(testing::Message() << count << " rows of " << d);
      const std::vector<double> ids = Ids(count);
      const std::vector<double> table = Normal(kVocab * d, 2);
      const std::vector<double> drows = Normal(count * d, 1);
      std::vector<double> rows(count * d), dtable(kVocab * d);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < d; ++j) {
          const int64_t at = static_cast<int64_t>(ids[i]) * d + j;
          rows[i * d + j] = table[at];
          dtable[at] += drows[i * d + j];
        }
      }

      const auto exact = RunEmbedding(DType::kF64, 2, count, d, ids);
      const auto one = RunEmbedding(DType::kF32, 1, count, d, ids);
      const auto three = RunEmbedding(DType::kF32, 3, count, d, ids);

      ASSERT_THAT(exact, IsOk());
      EXPECT_EQ(exact->at("rows"), rows);
      EXPECT_EQ(exact->at("dtable"), dtable);
      ASSERT_THAT(one, IsOk());
      ASSERT_THAT(three, IsOk());
      EXPECT_EQ(one->at("rows"), rows);
      EXPECT_EQ(one->at("dtable"), three->at("dtable"));
    }
  }
}

TEST(EmbeddingTest, RejectsAnIdOutsideTheTable) {
  const auto above = RunEmbedding(DType::kF32, 1, 3, 4, {1, 11, 2});
  const auto below = RunEmbedding(DType::kF32, 1, 3, 4, {1, 2, -1});

  EXPECT_THAT(above, StatusIs(absl::StatusCode::kInvalidArgument,
                              HasSubstr("token 1 has id 11; want 0 to 10")));
  EXPECT_THAT(below, StatusIs(absl::StatusCode::kInvalidArgument,
                              HasSubstr("token 2 has id -1")));
}

TEST(EmbeddingTest, GradientsMatchDifferences) {
  GradCheckOptions options;
  options.fill = [](const std::string& name, const TensorView& view) {
    if (name != "ids") return false;
    Copy(Ids(7), view);
    return true;
  };
  EXPECT_THAT(
      CheckGradients(
          [](GraphBuilder& b) -> std::vector<ValueId> {
            return {Embedding(b, b.Parameter("table", {Static(11), Static(3)}),
                              b.Input("ids", DType::kI32, {Static(7)}))};
          },
          {RegisterEmbeddingKernels, RegisterElementwiseKernels}, options),
      IsOk());
}

}  // namespace
}  // namespace strata
