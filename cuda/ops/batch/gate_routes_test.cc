#include "cuda/ops/batch/gate_routes.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

struct Routed {
  const char* name;
  int64_t bound, tokens, d;
  int experts, k;
  bool softmax = false, normalize = false, bias = false;
};
std::string RoutedName(const testing::TestParamInfo<Routed>& info) {
  return info.param.name;
}
using GateRoutesTest = DeviceTest<Routed>;

constexpr float kEps = 1e-5f, kScale = 2.5f;
constexpr float kUntouched = 12345.f;

// Rows of steps of 1/64 and gains of 1/2, 1 and 2, so that their products are
// BF16; weights of steps of 1/1024 up to 1/16. A row's sum of products is then
// a multiple of 2^-17, and exact in F32, as d of them stay below 2^7.
struct Operands {
  std::vector<float> h, gain, bias;
  std::vector<BFloat16> gate;
};
Operands OperandsOf(const Routed& p) {
  Operands o;
  for (const int32_t x : RandomInts(p.bound * p.d, -64, 64, 1)) {
    o.h.push_back(x / 64.f);
  }
  for (const int32_t x : RandomInts(p.d, -1, 1, 2)) {
    o.gain.push_back(std::ldexp(1.f, x));
  }
  for (const int32_t x : RandomInts(p.experts * p.d, -64, 64, 3)) {
    o.gate.push_back(RoundToBFloat16(x / 1024.f));
  }
  for (const int32_t x : RandomInts(p.experts, -64, 64, 4)) {
    o.bias.push_back(x / 64.f);
  }
  return o;
}

struct Results {
  std::vector<BFloat16> x;
  std::vector<float> weight;
  std::vector<int32_t> expert, slot_row, row_token, offset, rows;
};

absl::StatusOr<Results> OnDevice(const Routed& p, const Operands& o) {
  ASSIGN_OR_RETURN(const auto h, DeviceArray<float>::CopyOf(o.h));
  ASSIGN_OR_RETURN(const auto gain, DeviceArray<float>::CopyOf(o.gain));
  ASSIGN_OR_RETURN(const auto bias, DeviceArray<float>::CopyOf(o.bias));
  ASSIGN_OR_RETURN(const auto gate, DeviceArray<BFloat16>::CopyOf(o.gate));
  ASSIGN_OR_RETURN(const auto x,
                   DeviceArray<BFloat16>::CopyOf(std::vector<BFloat16>(
                       p.bound * p.d, RoundToBFloat16(kUntouched))));
  const auto ints = [](int64_t n) {
    return DeviceArray<int32_t>::CopyOf(std::vector<int32_t>(n, -1));
  };
  const int64_t slots = p.bound * p.k;
  ASSIGN_OR_RETURN(const auto weight,
                   DeviceArray<float>::CopyOf(std::vector<float>(slots, -1)));
  ASSIGN_OR_RETURN(const auto expert, ints(slots));
  ASSIGN_OR_RETURN(const auto slot_row, ints(slots));
  ASSIGN_OR_RETURN(const auto row_token, ints(slots));
  ASSIGN_OR_RETURN(const auto offset, ints(p.experts + 1));
  ASSIGN_OR_RETURN(const auto rows, ints(1));
  ASSIGN_OR_RETURN(const auto count,
                   DeviceArray<int32_t>::CopyOf(
                       std::vector<int32_t>{static_cast<int32_t>(p.tokens)}));
  GateRoutesArgs args;
  args.choice.tokens = {p.bound, count.data()};
  args.choice.num_experts = p.experts;
  args.choice.k = p.k;
  args.choice.softmax = p.softmax;
  args.choice.normalize = p.normalize;
  args.choice.scale = kScale;
  if (p.bias) args.choice.bias = bias.data();
  args.choice.expert = expert.data();
  args.choice.weight = weight.data();
  args.choice.offset = offset.data();
  args.choice.rows = rows.data();
  args.d = p.d;
  args.h = h.data();
  args.gain = gain.data();
  args.eps = kEps;
  args.gate = reinterpret_cast<const __nv_bfloat16*>(gate.data());
  args.x = reinterpret_cast<__nv_bfloat16*>(x.data());
  args.slot_row = slot_row.data();
  args.row_token = row_token.data();
  if (!HasGateRoutes(args)) return absl::InternalError("no kernel");
  RETURN_IF_ERROR(ToStatus(GateRoutes(args, /*stream=*/nullptr)));
  Results results;
  ASSIGN_OR_RETURN(results.x, x.ToHost());
  ASSIGN_OR_RETURN(results.weight, weight.ToHost());
  ASSIGN_OR_RETURN(results.expert, expert.ToHost());
  ASSIGN_OR_RETURN(results.slot_row, slot_row.ToHost());
  ASSIGN_OR_RETURN(results.row_token, row_token.ToHost());
  ASSIGN_OR_RETURN(results.offset, offset.ToHost());
  ASSIGN_OR_RETURN(results.rows, rows.ToHost());
  return results;
}

// A token's probabilities of all experts.
std::vector<double> Probabilities(const Routed& p, const Operands& o,
                                  int64_t token, double scale) {
  std::vector<double> logit(p.experts);
  for (int64_t e = 0; e < p.experts; ++e) {
    for (int64_t c = 0; c < p.d; ++c) {
      logit[e] +=
          double{o.h[token * p.d + c]} * o.gain[c] * Widen(o.gate[e * p.d + c]);
    }
    logit[e] *= scale;
  }
  if (!p.softmax) {
    for (double& x : logit) x = 1 / (1 + std::exp(-x));
    return logit;
  }
  const double largest = *std::max_element(logit.begin(), logit.end());
  double sum = 0;
  for (double& x : logit) sum += x = std::exp(x - largest);
  for (double& x : logit) x /= sum;
  return logit;
}

double ScaleOf(const Routed& p, const Operands& o, int64_t token) {
  double sum = 0;
  for (int64_t c = 0; c < p.d; ++c) {
    sum += double{o.h[token * p.d + c]} * o.h[token * p.d + c];
  }
  return 1 / std::sqrt(sum / static_cast<double>(p.d) + kEps);
}

// Choices and weights of a token: of scores that are all but equal either may
// be chosen. A logit of up to 16 is off by some 2^-19 as its scale is F32.
void ExpectChoice(const Routed& p, const Operands& o, int64_t token,
                  const Results& got) {
  constexpr double kOff = 0x1p-17;
  const std::vector<double> probability =
      Probabilities(p, o, token, ScaleOf(p, o, token));
  std::vector<double> score = probability;
  for (int e = 0; e < p.experts && p.bias; ++e) score[e] += o.bias[e];
  std::vector<double> sorted = score;
  std::sort(sorted.rbegin(), sorted.rend());
  const int32_t* const expert = &got.expert[token * p.k];
  double divisor = p.normalize ? 0 : 1;
  for (int j = 0; j < p.k; ++j) {
    ASSERT_GE(expert[j], 0);
    ASSERT_LT(expert[j], p.experts);
    ASSERT_NEAR(score[expert[j]], sorted[j], kOff) << token << " " << j;
    if (p.normalize) divisor += probability[expert[j]];
  }
  ASSERT_EQ(std::set<int32_t>(expert, expert + p.k).size(), p.k) << token;
  for (int j = 0; j < p.k; ++j) {
    const double want = kScale * probability[expert[j]] / divisor;
    ASSERT_NEAR(got.weight[token * p.k + j], want, kOff * (1 + want))
        << token << " " << j;
  }
}

// Slots sorted by expert, those of a token before those of the next.
void ExpectPlan(const Routed& p, const Results& got) {
  const int64_t slots = p.tokens * p.k;
  std::vector<int32_t> count(p.experts + 1);
  for (int64_t s = 0; s < slots; ++s) ++count[got.expert[s] + 1];
  for (int e = 0; e < p.experts; ++e) count[e + 1] += count[e];
  EXPECT_EQ(got.offset, count);
  EXPECT_EQ(got.rows[0], slots);
  std::vector<int32_t> row_token(p.bound * p.k, -1),
      slot_row(p.bound * p.k, -1);
  for (int64_t s = 0; s < slots; ++s) {
    slot_row[s] = count[got.expert[s]]++;
    row_token[slot_row[s]] = static_cast<int32_t>(s / p.k);
  }
  EXPECT_EQ(got.slot_row, slot_row);
  EXPECT_EQ(got.row_token, row_token);
}

TEST_P(GateRoutesTest, NormalisesChoosesAndPlans) {
  const Routed& p = GetParam();
  const Operands o = OperandsOf(p);

  const auto got = OnDevice(p, o);

  ASSERT_THAT(got, IsOk());
  for (int64_t t = 0; t < p.bound; ++t) {
    const double scale = ScaleOf(p, o, t);
    for (int64_t c = 0; c < p.d; ++c) {
      const double want = t < p.tokens ? o.h[t * p.d + c] * scale * o.gain[c]
                                       : Widen(RoundToBFloat16(kUntouched));
      ASSERT_NEAR(Widen(got->x[t * p.d + c]), want, std::abs(want) / 256)
          << t << " " << c;
    }
    if (t < p.tokens) ExpectChoice(p, o, t, *got);
  }
  ExpectPlan(p, *got);
}

// Tokens about the 16, 32 and 64 of a kernel and the pairs of its blocks;
// experts about tiles of 64 and lists of lanes; columns of fewer chunks than
// blocks, of shares that differ, and of shares longer than a warp reads at
// once.
INSTANTIATE_TEST_SUITE_P(
    Shapes, GateRoutesTest,
    testing::Values(Routed{"one", 1, 1, 2048, 128, 8},
                    Routed{"four", 4, 4, 2048, 128, 8, false, true, true},
                    Routed{"fifteen", 15, 15, 1024, 64, 8, true},
                    Routed{"sixteen", 16, 16, 2048, 128, 8, true, true},
                    Routed{"seventeen", 17, 17, 520, 65, 6, false, true},
                    Routed{"thirty_two", 32, 32, 2048, 128, 8, true, false},
                    Routed{"thirty_three", 33, 33, 2048, 128, 8},
                    Routed{"sixty_three", 63, 63, 1000, 129, 5, false, true},
                    Routed{"sixty_four", 64, 64, 2048, 128, 8, true, true},
                    Routed{"fewer_than_bound", 40, 23, 2048, 96, 4},
                    Routed{"none_of_bound", 12, 0, 2048, 96, 4},
                    Routed{"few_columns", 9, 9, 200, 16, 16, false, true},
                    Routed{"one_expert", 20, 20, 64, 1, 1},
                    Routed{"many_experts", 64, 64, 1536, 256, 32, true, true},
                    Routed{"many_columns", 10, 10, 6144, 64, 8, false, true},
                    Routed{"two_hundred", 16, 11, 2560, 200, 8, false, true,
                           true}),
    RoutedName);

TEST(GateRoutesTest, RefusesWhatHasNoRoom) {
  GateRoutesArgs args;
  args.choice.tokens = {64, nullptr};
  args.choice.num_experts = 256;
  args.choice.k = 8;
  args.d = 7168;
  EXPECT_FALSE(HasGateRoutes(args));
  EXPECT_EQ(GateRoutes(args, /*stream=*/nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace strata::gpu
