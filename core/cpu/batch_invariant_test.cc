#include "core/cpu/batch_invariant.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/builder.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMaxRows = 150;
using Op = std::function<ValueId(GraphBuilder&, ValueId x)>;

// `op` on the first rows of one random matrix, every other source filled the
// same for any number of them.
absl::StatusOr<std::vector<double>> RunRows(DType dtype, int threads,
                                            int64_t rows, int64_t k,
                                            const Op& op) {
  const auto result = RunGraph(
      dtype, threads, {RegisterBatchInvariantProducts},
      [&](GraphBuilder& b) {
        const Dim t = Ragged(kMaxRows, b.Input("n", DType::kI32, {}));
        b.Output("y", op(b, b.Input("x", b.compute(), {t, Static(k)})));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "n") return Copy({static_cast<double>(rows)}, view);
        if (name == "x") return Copy(Normal(rows * k, 1), view);
        if (name == "offset") {
          // Of four experts the second has none, the last all but ten rows.
          const auto n = static_cast<double>(rows);
          return Copy(
              {0, std::min(10.0, n), std::min(10.0, n), std::min(10.0, n), n},
              view);
        }
        Copy(Normal(view.num_elements(), 2), view);
      });
  if (!result.ok()) return result.status();
  return result->at("y");
}

// Rows on both sides of a tile (4) and of a piece (64).
void ExpectRowsOfTheirOwn(int64_t k, const Op& op) {
  const auto all = RunRows(DType::kF32, 3, kMaxRows, k, op);
  const auto exact = RunRows(DType::kF64, 1, kMaxRows, k, op);
  ASSERT_THAT(all, IsOk());
  ASSERT_THAT(exact, IsOk());
  for (size_t i = 0; i < all->size(); ++i) {
    // k roundings of a sum of terms of size 1: well below 1e-6 sqrt(k) each.
    ASSERT_NEAR((*all)[i], (*exact)[i], 2e-4);
  }
  const int64_t n = all->size() / kMaxRows;
  for (const int64_t rows : {1, 3, 4, 5, 11, 63, 64, 65, 129}) {
    const auto some = RunRows(DType::kF32, 1, rows, k, op);
    ASSERT_THAT(some, IsOk());
    EXPECT_EQ(*some, std::vector<double>(all->begin(), all->begin() + rows * n))
        << rows;
  }
}

TEST(BatchInvariantTest, RowsOfProductsDoNotKnowEachOther) {
  for (const int64_t k : {5, 128, 700}) {
    for (const int64_t n : {3, 16, 130}) {
      ExpectRowsOfTheirOwn(k, [&](GraphBuilder& b, ValueId x) {
        return Linear(b, x, b.Parameter("w", {Static(n), Static(k)}));
      });
      ExpectRowsOfTheirOwn(k, [&](GraphBuilder& b, ValueId x) {
        return MatMul(b, x, b.Parameter("w", {Static(k), Static(n)}));
      });
    }
  }
}

TEST(BatchInvariantTest, NorDoRowsOfAnExpert) {
  constexpr int64_t kK = 96, kColumns = 50;
  for (const bool transpose : {true, false}) {
    ExpectRowsOfTheirOwn(kK, [&](GraphBuilder& b, ValueId x) {
      const ValueId w =
          b.Parameter("w", {Static(4), Static(transpose ? kColumns : kK),
                            Static(transpose ? kK : kColumns)});
      return GroupedMatMul(b, x, w, b.Input("offset", DType::kI32, {Static(5)}),
                           transpose);
    });
  }
}

TEST(BatchInvariantTest, NorDoQueriesAndOutputsOfLatentAttention) {
  constexpr LatentHeads kHeads = {3, 10, 4, 6};
  constexpr int64_t kRank = 24;
  const auto kv_b = [](GraphBuilder& b) {
    return b.Parameter("kv_b", {Static(3 * 16), Static(kRank)});
  };
  ExpectRowsOfTheirOwn(3 * 14, [&](GraphBuilder& b, ValueId x) {
    return LatentQuery(b, x, kv_b(b), kHeads);
  });
  ExpectRowsOfTheirOwn(3 * kRank, [&](GraphBuilder& b, ValueId x) {
    return LatentOutput(b, x, kv_b(b), kHeads);
  });
}

// A layer's product and an expert's, by weights that were rounded to BF16 and
// are given as that or as floats.
TEST(BatchInvariantTest, WeightsInBf16GiveWhatTheSameInF32Give) {
  constexpr int64_t kK = 70, kColumns = 50;
  std::vector<BFloat16> narrow;
  std::vector<float> wide;
  for (const double x : Normal(4 * kColumns * kK, 2)) {
    narrow.push_back(RoundToBFloat16(static_cast<float>(x)));
    wide.push_back(Widen(narrow.back()));
  }
  const auto run = [&](DType dtype, bool grouped, auto weights) {
    GraphRun run(
        [&](GraphBuilder& b) {
          const ValueId x =
              b.Input("x", b.compute(), {Static(kMaxRows), Static(kK)});
          if (grouped) {
            const ValueId w =
                b.Input("w", dtype, {Static(4), Static(kColumns), Static(kK)});
            b.Output("y",
                     GroupedMatMul(b, x, w,
                                   b.Input("offset", DType::kI32, {Static(5)}),
                                   /*transpose_w=*/true));
          } else {
            const ValueId w =
                b.Input("w", dtype, {Static(4 * kColumns), Static(kK)});
            b.Output("y", Linear(b, x, w));
          }
        },
        {RegisterBatchInvariantProducts});
    std::vector<float> x;
    for (const double v : Normal(kMaxRows * kK, 1)) x.push_back(v);
    run.Set("x", x);
    run.Set("w", weights);
    if (grouped) run.Set<int32_t>("offset", {0, 10, 10, 75, kMaxRows});
    EXPECT_THAT(run.Run(), IsOk());
    return run.Get<float>("y");
  };
  for (const bool grouped : {false, true}) {
    EXPECT_EQ(run(DType::kBF16, grouped, narrow),
              run(DType::kF32, grouped, wide));
  }
}

TEST(BatchInvariantTest, RejectsAProductThatSumsOverTheBatch) {
  EXPECT_THAT(RunRows(DType::kF32, 1, 4, 8,
                      [](GraphBuilder& b, ValueId x) {
                        return MatMul(
                            b,
                            b.Input("a", DType::kF32, {Static(8), Static(3)}),
                            b.Input("b", DType::kF32, {Static(8), Static(5)}),
                            /*transpose_lhs=*/true);
                      }),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("sums over the batch")));
}

}  // namespace
}  // namespace strata
