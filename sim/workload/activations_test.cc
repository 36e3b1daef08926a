#include "sim/workload/activations.h"

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/workload/simulator.h"

namespace strata::sim {
namespace {

constexpr double kTokens = 4096;

class ActivationsTest : public ::testing::Test {
 protected:
  // `rows` of experts on the rank.
  Activations Of(const std::string& model, const std::string& layout,
                 double rows = 0) {
    absl::StatusOr<ModelGraph> graph = ModelGraph::Create(*ParseModel(model));
    EXPECT_THAT(graph, IsOk());
    const absl::StatusOr<Layout> parsed = ParseLayout(layout);
    EXPECT_THAT(parsed, IsOk());
    const RankSizes sizes(*graph, *parsed,
                          std::vector<double>(graph->gates().size(), rows));
    return ActivationsOf(*graph, *parsed, sizes);
  }
};

constexpr char kDense[] = "layers=2 hidden=1024 heads=8 ffn=4096 vocab=8000";
// 2 widths kept in all: residual twice, norms twice, q, k, v, attention's
// output; gate and up, and their product. In BF16, d = 1024, w = 4096.
constexpr double kDenseElements = 2 * 1024 + 2 * 1024 + 4 * 1024 + 3 * 4096;

TEST_F(ActivationsTest, ADenseLayerKeepsWhatItsGradientsRead) {
  const Activations kept = Of(kDense, "seq4096");
  // And a few numbers a token: the norms' scales, attention's sums.
  EXPECT_NEAR(kept.layers[1].kept, 2 * kTokens * kDenseElements,
              2 * kTokens * 64);
  EXPECT_EQ(kept.layers[1].made_again, 0);
}

TEST_F(ActivationsTest, SelectiveRecomputationDropsNormsAndActivations) {
  const Activations kept = Of(kDense, "seq4096,recompute=selective");
  const double again = 2 * kTokens * (2 * 1024 + 4096);
  EXPECT_NEAR(kept.layers[1].made_again, again, 2 * kTokens * 16);
  EXPECT_NEAR(kept.layers[1].kept, 2 * kTokens * kDenseElements - again,
              2 * kTokens * 64);
}

TEST_F(ActivationsTest, FullRecomputationKeepsTheLayersInput) {
  const Activations kept = Of(kDense, "seq4096,recompute=full");
  EXPECT_EQ(kept.layers[1].kept, 2 * kTokens * 1024);
  EXPECT_NEAR(kept.layers[1].made_again, 2 * kTokens * kDenseElements,
              2 * kTokens * 64);
}

TEST_F(ActivationsTest, Fp8HalvesWhatOnlyProductsRead) {
  // Norms' results and the activation's; q, k, v and attention's output are
  // attention's too.
  EXPECT_NEAR(Of(kDense, "seq4096").layers[1].kept -
                  Of(kDense, "seq4096,fp8").layers[1].kept,
              kTokens * (2 * 1024 + 4096), 1);
}

constexpr char kExperts[] =
    "layers=2 hidden=1024 heads=8 vocab=8000 experts=16 top_k=2 expert_ffn=512";

TEST_F(ActivationsTest, ExpertsKeepTheirRowsAndTheFirstProduct) {
  // Of a row: its input, gate and up, their product; not the result, which is
  // handed back.
  const double one_row = Of(kExperts, "seq4096,ep8", 1).layers[1].kept -
                         Of(kExperts, "seq4096,ep8", 0).layers[1].kept;
  EXPECT_NEAR(one_row, 2 * (1024 + 3 * 512), 64);
  // As DeepSeek-V3 keeps them: all in FP8, the activation made again.
  const std::string v3 = "seq4096,ep8,fp8,act8,recompute=selective";
  const double small =
      Of(kExperts, v3, 1).layers[1].kept - Of(kExperts, v3, 0).layers[1].kept;
  EXPECT_NEAR(small, 1024 + 2 * 512, 64);
}

TEST_F(ActivationsTest, MixturesMadeAgainKeepNoRows) {
  const std::string layout = "seq4096,ep8,recompute=moe";
  const Activations none = Of(kExperts, layout, 0);
  const Activations many = Of(kExperts, layout, 8192);
  EXPECT_EQ(many.layers[1].kept, none.layers[1].kept);
  EXPECT_GT(many.layers[1].made_again,
            none.layers[1].made_again + 8192 * 2 * 1024);
}

TEST_F(ActivationsTest, ALossInFp32KeepsTheLogitsTwice) {
  EXPECT_EQ(Of(kDense, "seq4096,loss32").output.kept -
                Of(kDense, "seq4096").output.kept,
            4 * kTokens * 8000);
}

}  // namespace
}  // namespace strata::sim
