// Losses without logits of all tokens, whose reference on the CPU is held to
// whole logits in //core/passes:chunk_losses_test.

#include "core/ops/head_loss.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::HasSubstr;

struct Head {
  int64_t rows, vocab, width, chunk_rows;
  Precision precision = Precision::kF32;
  bool gradients = true;
};
using HeadLossTest = DeviceTest<Head>;

std::vector<ValueId> BuildHead(GraphBuilder& b, const Head& p) {
  const Dim t = RaggedRows(b, p.rows);
  std::vector<ValueId> in = {
      FloatInput(b, "x", t, p.width),
      b.Parameter("w", {Static(p.vocab), Static(p.width)}),
      b.Input("target", DType::kI32, {t})};
  if (p.gradients) in.push_back(b.Input("dloss", DType::kF32, {}));
  const std::vector<ValueId> out = b.Add(p.gradients ? kHeadLoss : kHeadScore,
                                         in, {{"chunk_rows", p.chunk_rows}});
  const char* const names[] = {"loss", "nll", "hit", "dx", "dw"};
  for (size_t i = 0; i < out.size(); ++i) b.Output(names[i], out[i]);
  return {};
}

TEST_P(HeadLossTest, AgreesWithTheCpu) {
  const Head& p = GetParam();
  const auto fill = [&](const std::string& name, const TensorView& view) {
    if (name == "target") {
      const auto words = static_cast<int>(p.vocab - 1);
      return FillInts(view, RandomInts(view.num_elements(), -1, words, 7));
    }
    if (name == "dloss") {
      *view.as<float>() = 0.5f;
      return true;
    }
    // Eighths, of which logits are sums without a rounding, so that both have
    // the same, and the same largest.
    int64_t i = 0;
    for (const int32_t x : RandomInts(view.num_elements(), -8, 8, name[0])) {
      view.as<float>()[i++] = static_cast<float>(x) / 8;
    }
    return true;
  };
  // A probability has the roundings of two exponentials, a logarithm and the
  // sum over words, in another order; dx is summed over words, dw over rows. In
  // BF16 a probability's own rounding is all that counts, up to four times the
  // largest result where what a result is the sum of cancels.
  const double roundings = p.precision == Precision::kBf16
                               ? 4
                               : 32 + 2 * static_cast<double>(p.vocab + p.rows);
  EXPECT_THAT(CompareBackends([&](GraphBuilder& b) { return BuildHead(b, p); },
                              {roundings, WithRows(p.rows, fill),
                               /*seed=*/1, p.precision}),
              IsOk());
}

// Words about a thread's four and a round of a block (1,024); rows about
// chunks.
INSTANTIATE_TEST_SUITE_P(
    Shapes, HeadLossTest,
    testing::Values(Head{0, 5, 8, 4}, Head{1, 1, 1, 1}, Head{33, 5, 8, 7},
                    Head{63, 255, 24, 64}, Head{64, 256, 24, 64},
                    Head{65, 1023, 40, 64}, Head{130, 1024, 40, 64},
                    Head{20, 1028, 40, 9}, Head{3, 4101, 16, 2},
                    Head{33, 5, 8, 7, Precision::kBf16},
                    Head{65, 255, 24, 64, Precision::kBf16},
                    Head{130, 1024, 40, 64, Precision::kBf16},
                    Head{20, 1028, 40, 9, Precision::kBf16},
                    Head{3, 4101, 16, 2, Precision::kBf16},
                    Head{200, 4096, 64, 128, Precision::kBf16},
                    Head{0, 5, 8, 4, Precision::kF32, false},
                    Head{65, 1023, 40, 64, Precision::kF32, false},
                    Head{20, 1028, 40, 9, Precision::kF32, false},
                    Head{65, 255, 24, 64, Precision::kBf16, false},
                    Head{200, 4096, 64, 128, Precision::kBf16, false}),
    [](const testing::TestParamInfo<Head>& info) {
      const Head& p = info.param;
      return absl::StrCat(info.index, "_rows", p.rows, "_words", p.vocab,
                          p.precision == Precision::kBf16 ? "_bf16" : "",
                          p.gradients ? "" : "_score");
    });

TEST(HeadLossErrorTest, ATargetOutOfRangeIsInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  EXPECT_THAT(
      CompareBackends(
          [](GraphBuilder& b) {
            return BuildHead(b, {3, 8, 8, 2});
          },
          {/*roundings=*/1,
           WithRows(3,
                    [](const std::string& name, const TensorView& view) {
                      return name == "target" && FillInts(view, {0, 7, 8});
                    })}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("target 8")));
}

}  // namespace
}  // namespace strata::gpu
