#include "cuda/ops/batch/skinny_product.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

// A product, or two of one x: the second has SwiGLU, BF16 results and
// `second_n` rows of its weight.
struct Skinny {
  const char* name;
  int64_t bound, tokens;
  int64_t n, k, second_n = 0;
  int64_t rows_of_x = 0;
  bool add = false;
};
std::string SkinnyName(const testing::TestParamInfo<Skinny>& info) {
  return info.param.name;
}
using SkinnyProductTest = DeviceTest<Skinny>;

// Multiples of 1/64 up to 1, which BF16 has; products of two are exact in F32.
std::vector<BFloat16> Numbers(int64_t n, int seed) {
  std::vector<BFloat16> numbers;
  for (const int32_t x : RandomInts(n, -64, 64, seed)) {
    numbers.push_back(RoundToBFloat16(x / 64.f));
  }
  return numbers;
}
std::vector<float> Widened(const std::vector<BFloat16>& x) {
  std::vector<float> wide;
  for (const BFloat16 v : x) wide.push_back(Widen(v));
  return wide;
}

constexpr float kUntouched = 12345.f;

struct Results {
  std::vector<float> first;
  std::vector<BFloat16> second;
};

int64_t Groups(const Skinny& p) {
  return p.rows_of_x > 0 ? p.n / p.rows_of_x : 1;
}
// Of x, with columns between groups that no product reads.
int64_t StepOf(const Skinny& p) { return p.k + (p.rows_of_x > 0 ? 8 : 0); }
// Of y, likewise.
int64_t RowsStep(const Skinny& p) { return p.rows_of_x + 16; }
int64_t PitchOfY(const Skinny& p) {
  return p.rows_of_x > 0 ? Groups(p) * RowsStep(p) : p.n;
}

struct Operands {
  std::vector<BFloat16> x, w, second_w;
  std::vector<float> add;
};

Operands OperandsOf(const Skinny& p) {
  Operands o;
  o.x = Numbers(p.bound * Groups(p) * StepOf(p), 1);
  o.w = Numbers(p.n * p.k, 2);
  o.second_w = Numbers(p.second_n * p.k, 3);
  o.add = Widened(Numbers(p.bound * PitchOfY(p), 4));
  return o;
}

absl::StatusOr<Results> OnDevice(const Skinny& p, const Operands& o) {
  ASSIGN_OR_RETURN(const auto x, DeviceArray<BFloat16>::CopyOf(o.x));
  ASSIGN_OR_RETURN(const auto w, DeviceArray<BFloat16>::CopyOf(o.w));
  ASSIGN_OR_RETURN(const auto second_w,
                   DeviceArray<BFloat16>::CopyOf(o.second_w));
  ASSIGN_OR_RETURN(const auto add, DeviceArray<float>::CopyOf(o.add));
  ASSIGN_OR_RETURN(const auto count,
                   DeviceArray<int32_t>::CopyOf(
                       std::vector<int32_t>{static_cast<int32_t>(p.tokens)}));
  ASSIGN_OR_RETURN(const auto y, DeviceArray<float>::CopyOf(std::vector<float>(
                                     p.bound * PitchOfY(p), kUntouched)));
  ASSIGN_OR_RETURN(const auto second,
                   DeviceArray<BFloat16>::CopyOf(std::vector<BFloat16>(
                       p.bound * p.second_n / 2, RoundToBFloat16(kUntouched))));
  const auto narrow = [](const DeviceArray<BFloat16>& a) {
    return reinterpret_cast<__nv_bfloat16*>(a.data());
  };
  SkinnyProductArgs args;
  args.tokens = {p.bound, count.data()};
  args.k = p.k;
  args.x = narrow(x);
  args.pitch = Groups(p) * StepOf(p);
  args.product[0].w = narrow(w);
  args.product[0].n = p.n;
  args.product[0].y = y.data();
  if (p.add) args.product[0].add = add.data();
  if (p.rows_of_x > 0) {
    args.rows_of_x = p.rows_of_x;
    args.x_step = StepOf(p);
    args.y_step = RowsStep(p);
    args.product[0].y_pitch = PitchOfY(p);
  }
  if (p.second_n > 0) {
    args.num_products = 2;
    args.product[1].w = narrow(second_w);
    args.product[1].n = p.second_n;
    args.product[1].rounded = narrow(second);
    args.product[1].swiglu = true;
  }
  if (!HasSkinnyProduct(args)) return absl::InternalError("no kernel");
  RETURN_IF_ERROR(ToStatus(SkinnyProduct(args, /*stream=*/nullptr)));
  Results results;
  ASSIGN_OR_RETURN(results.first, y.ToHost());
  ASSIGN_OR_RETURN(results.second, second.ToHost());
  return results;
}

double Dot(const float* x, const float* w, int64_t k) {
  double sum = 0;
  for (int64_t c = 0; c < k; ++c) sum += double{x[c]} * w[c];
  return sum;
}

TEST_P(SkinnyProductTest, IsTheProduct) {
  const Skinny& p = GetParam();
  const Operands o = OperandsOf(p);

  const auto got = OnDevice(p, o);

  ASSERT_THAT(got, IsOk());
  const std::vector<float> x = Widened(o.x), w = Widened(o.w);
  const std::vector<float> second_w = Widened(o.second_w);
  const int64_t pitch = Groups(p) * StepOf(p), width = p.second_n / 2;
  // Each term is below 1; a sum of k of them is rounded at most k times.
  const double bound =
      2 * p.k * p.k * double{std::numeric_limits<float>::epsilon()};
  for (int64_t t = 0; t < p.bound; ++t) {
    for (int64_t r = 0; r < p.n; ++r) {
      const int64_t group = p.rows_of_x > 0 ? r / p.rows_of_x : 0;
      const int64_t at =
          t * PitchOfY(p) +
          (p.rows_of_x > 0 ? group * RowsStep(p) + r % p.rows_of_x : r);
      double want = Dot(&x[t * pitch + group * StepOf(p)], &w[r * p.k], p.k);
      if (p.add) want += o.add[at];
      if (t >= p.tokens) want = kUntouched;
      ASSERT_NEAR(got->first[at], want, bound) << t << " " << r;
    }
    for (int64_t r = 0; r < width; ++r) {
      const double gate = Dot(&x[t * pitch], &second_w[r * p.k], p.k);
      const double up = Dot(&x[t * pitch], &second_w[(width + r) * p.k], p.k);
      const double want = t < p.tokens ? gate / (1 + std::exp(-gate)) * up
                                       : Widen(RoundToBFloat16(kUntouched));
      // Of a product of two sums; then 8 bits are left.
      ASSERT_NEAR(
          Widen(got->second[t * width + r]), want,
          bound * (2 + std::abs(gate) + std::abs(up)) + std::abs(want) / 256)
          << t << " " << r;
    }
  }
}

// Tokens about the 16, 32 and 64 of a kernel; columns and rows about tiles of
// 64; as many tiles as let 1 to 8 blocks share columns, and more than blocks.
INSTANTIATE_TEST_SUITE_P(
    Shapes, SkinnyProductTest,
    testing::Values(Skinny{"one", 1, 1, 64, 64},
                    Skinny{"sixteen", 16, 16, 128, 512, 192},
                    Skinny{"seventeen", 17, 9, 72, 520, 80, 0, true},
                    Skinny{"thirty_two", 32, 32, 2048, 1024, 0, 0, true},
                    Skinny{"thirty_three", 33, 31, 1024, 256},
                    Skinny{"sixty_four", 64, 64, 3648, 320, 1536},
                    Skinny{"sixty", 64, 60, 8, 40, 16, 0, true},
                    Skinny{"two_a_tile", 40, 40, 3000, 192},
                    Skinny{"more_than_blocks", 20, 20, 19264, 128, 64},
                    Skinny{"long_rows", 24, 24, 256, 8192, 64},
                    // Shares of a ring, of two blocks a multiprocessor; and of
                    // a tile more than there is room for.
                    Skinny{"in_a_ring", 32, 31, 4224, 2048},
                    Skinny{"not_in_a_ring", 32, 32, 4288, 2048},
                    Skinny{"heads", 32, 30, 1024, 128, 0, 256},
                    Skinny{"few_heads", 64, 64, 128, 512, 0, 64}),
    SkinnyName);

TEST(SkinnyProductTest, RefusesWhatHasNoTiles) {
  SkinnyProductArgs args;
  args.tokens = {65, nullptr};
  args.k = args.pitch = 64;
  args.product[0].n = 64;
  EXPECT_FALSE(HasSkinnyProduct(args));
  EXPECT_EQ(SkinnyProduct(args, /*stream=*/nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace strata::gpu
