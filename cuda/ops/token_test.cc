#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/ops/embedding.h"
#include "core/ops/loss.h"
#include "core/ops/optimizer.h"
#include "core/ops/rope.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// Families at the ends of a model: embedding, rope, loss, optimizer.

namespace strata::gpu {
namespace {

using ::testing::_;
using ::testing::HasSubstr;

using TokenTest = DeviceTest<RowsColumns>;  // Tokens, vocabulary.

TEST_P(TokenTest, Embedding) {
  const auto [rows, vocab] = GetParam();
  EXPECT_THAT(CompareBackends(
                  [rows = rows, vocab = vocab](GraphBuilder& b) {
                    const Dim t = RaggedRows(b, rows);
                    return std::vector<ValueId>{strata::Embedding(
                        b, b.Parameter("table", {Static(vocab), Static(40)}),
                        b.Input("ids", DType::kI32, {t}))};
                  },
                  {/*roundings=*/4. + rows,
                   WithRows(rows,
                            [vocab = vocab](const std::string& name,
                                            const TensorView& view) {
                              return name == "ids" &&
                                     FillInts(view,
                                              RandomInts(view.num_elements(), 0,
                                                         vocab - 1, 5));
                            })}),
              IsOk());
}

TEST_P(TokenTest, Loss) {
  const auto [rows, vocab] = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [rows = rows, vocab = vocab](GraphBuilder& b) {
            const Dim t = RaggedRows(b, rows);
            const ValueId target = b.Input("target", DType::kI32, {t});
            const CrossEntropyResult ce =
                CrossEntropy(b, FloatInput(b, "logits", t, vocab), target);
            b.Output("nll", ce.nll);
            b.Output("hit", ce.hit);
            const NextTargetResult next = NextTarget(
                b, target, b.Input("seq_start", DType::kI32, {Static(4)}));
            b.Output("ids", next.ids);
            b.Output("next", next.next);
            return std::vector<ValueId>{ce.loss};
          },
          {/*roundings=*/32. + vocab,
           WithRows(rows,
                    [rows = rows, vocab = vocab](const std::string& name,
                                                 const TensorView& view) {
                      const auto n = static_cast<int32_t>(rows);
                      if (name == "seq_start") {
                        return FillInts(view, {0, n / 3, n / 3, n});
                      }
                      return name == "target" &&
                             FillInts(view, RandomInts(view.num_elements(), -1,
                                                       vocab - 1, 7));
                    })}),
      IsOk());
}

// Tokens and vocabularies about a warp and a block, and more tokens than one
// look at ids (256) sees.
INSTANTIATE_TEST_SUITE_P(Shapes, TokenTest,
                         testing::Values(RowsColumns{0, 5}, RowsColumns{1, 1},
                                         RowsColumns{33, 255},
                                         RowsColumns{256, 257},
                                         RowsColumns{700, 31},
                                         RowsColumns{3000, 600}),
                         RowsColumnsName<RowsColumns>);

TEST(TokenErrorTest, IdsAndTargetsOutOfRangeAreInvalid) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  EXPECT_THAT(CompareBackends(
                  [](GraphBuilder& b) {
                    b.Output("rows",
                             strata::Embedding(
                                 b, b.Parameter("t", {Static(9), Static(4)}),
                                 b.Input("ids", DType::kI32, {Static(3)})));
                    return std::vector<ValueId>{};
                  },
                  {/*roundings=*/1,
                   [](const std::string& name, const TensorView& view) {
                     return name == "ids" && FillInts(view, {0, 9, 8});
                   }}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("id 9")));
  EXPECT_THAT(
      CompareBackends(
          [](GraphBuilder& b) {
            b.Output("loss",
                     CrossEntropy(b, FloatInput(b, "logits", Static(3), 9),
                                  b.Input("target", DType::kI32, {Static(3)}))
                         .loss);
            return std::vector<ValueId>{};
          },
          {/*roundings=*/1,
           [](const std::string& name, const TensorView& view) {
             return name == "target" && FillInts(view, {0, -2, 8});
           }}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("target -2")));
}

struct RopeCase {
  const char* name;
  RopeOptions options;
  int64_t head_dim, tokens, max_position;
  bool lengths = false;  // Each token's sequence has its own.
};
using RopeTest = DeviceTest<RopeCase>;

TEST_P(RopeTest, AgreesWithTheCpu) {
  const RopeCase& p = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [&](GraphBuilder& b) {
            const Dim t = RaggedRows(b, p.tokens);
            return std::vector<ValueId>{
                Rope(b, FloatInput(b, "x", t, p.options.num_heads * p.head_dim),
                     b.Input("position", DType::kI32, {t}), p.options,
                     /*inverse=*/false,
                     p.lengths ? b.Input("seq_len", DType::kI32, {t}) : kNone)};
          },
          {/*roundings=*/8,
           WithRows(p.tokens,
                    [&](const std::string& name, const TensorView& view) {
                      if (name != "position" && name != "seq_len") return false;
                      return FillInts(view, RandomInts(view.num_elements(), 0,
                                                       p.max_position, 11));
                    })}),
      IsOk());
}

std::vector<RopeCase> RopeCases() {
  RopeOptions plain;
  plain.num_heads = 3;
  plain.rotary_dim = 32;
  RopeOptions part = plain;
  part.rotary_dim = 10;
  part.interleaved = true;
  part.magnitude = 1.25;
  RopeOptions dynamic = plain;
  dynamic.stretch = RopeStretch::kDynamic;
  dynamic.factor = 2;
  dynamic.original_len = 64;
  RopeOptions yarn = dynamic;
  yarn.stretch = RopeStretch::kYarn;
  RopeOptions wide = plain;
  wide.num_heads = 40;
  wide.rotary_dim = 256;
  return {{"plain", plain, 32, 100, 99},
          {"part", part, 18, 33, 1000},
          {"dynamic", dynamic, 32, 40, 500},
          {"yarn", yarn, 32, 40, 500},
          {"lengths", dynamic, 32, 40, 500, /*lengths=*/true},
          {"wide", wide, 256, 5, 100000},
          {"many", plain, 32, 3000, 2999},
          {"no_tokens", plain, 32, 0, 1}};
}
INSTANTIATE_TEST_SUITE_P(Cases, RopeTest, testing::ValuesIn(RopeCases()),
                         [](const testing::TestParamInfo<RopeCase>& info) {
                           return std::string(info.param.name);
                         });

using OptimizerTest = DeviceTest<int>;  // Elements of the largest parameter.

TEST_P(OptimizerTest, AgreesWithTheCpu) {
  const int64_t n = GetParam();
  const auto build = [&](GraphBuilder& b) {
    const ValueId divisor = b.Input("divisor", DType::kF32, {});
    const ValueId lr = b.Input("lr", DType::kF32, {});
    const ValueId keep = b.Input("keep", DType::kF32, {});
    const ValueId step = b.Input("step", DType::kI32, {});
    std::vector<ValueId> grads;
    // More than one launch of norms takes, and of steps by the same decay.
    const int kParameters = 1100;
    const auto size = [&](int i) { return i == 0 ? n : 1 + i % 7; };
    for (int i = 0; i < kParameters; ++i) {
      const ValueId sum =
          b.State(absl::StrCat("grad", i), DType::kF32, {Static(size(i))});
      Accumulate(
          b, sum,
          b.Input(absl::StrCat("value", i), DType::kF32, {Static(size(i))}),
          keep);
      grads.push_back(sum);
    }
    AccumulateCounts(b, b.State("count", DType::kI32, {Static(n)}),
                     b.Input("counts", DType::kI32, {Static(n)}), keep);
    const ValueId norm = GlobalNorm(b, grads, divisor);
    b.Output("norm", norm);
    for (int i = 0; i < kParameters; ++i) {
      AdamWOptions options;
      options.weight_decay = i % 2 == 0 ? 0.1 : 0;
      AdamW(b, b.Parameter(absl::StrCat("p", i), {Static(size(i))}),
            b.State(absl::StrCat("m", i), DType::kF32, {Static(size(i))}),
            b.State(absl::StrCat("v", i), DType::kF32, {Static(size(i))}),
            grads[i], norm, divisor, lr, step, options);
    }
    return std::vector<ValueId>{};
  };
  for (const float keep : {0.f, 1.f}) {
    const auto fill = [&](const std::string& name, const TensorView& view) {
      if (name == "divisor") *view.as<float>() = 2;
      if (name == "lr") *view.as<float>() = 1e-2f;
      if (name == "keep") *view.as<float>() = keep;
      if (name == "step") *view.as<int32_t>() = 3;
      if (name[0] == 'v' && name[1] != 'a') {  // Second moments.
        FillCoarse(view, 3);
        return true;
      }
      return view.rank() == 0;
    };
    EXPECT_THAT(CompareBackends(build, {/*roundings=*/64, fill}), IsOk());
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, OptimizerTest,
                         testing::Values(1, 255, 257, 8191, 8192, 8193,
                                         100000));

}  // namespace
}  // namespace strata::gpu
