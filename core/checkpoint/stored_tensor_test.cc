#include "core/checkpoint/stored_tensor.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()),
                     values.size() * sizeof(T));
}

StoredTensor Tensor(DType dtype, Shape shape, std::string& bytes) {
  StoredTensor tensor;
  tensor.view = {dtype, std::move(shape), bytes.data()};
  return tensor;
}

std::vector<float> Numbers(const StoredTensor& tensor,
                           const Fp8Scale* scale = nullptr) {
  std::vector<float> out(tensor.view.num_elements());
  EXPECT_THAT(ReadNumbers<float>("x", tensor, scale, out.data()), IsOk());
  return out;
}

TEST(ReadNumbersTest, WidensHalves) {
  // 1, -2, the largest, the smallest subnormal, -0.
  std::string f16 = BytesOf<uint16_t>({0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000});
  EXPECT_THAT(Numbers(Tensor(DType::kF16, {5}, f16)),
              ElementsAre(1, -2, 65504, std::ldexp(1.0f, -24), -0.0f));
  std::string bf16 = BytesOf<uint16_t>({0x3f80, 0xc040});
  EXPECT_THAT(Numbers(Tensor(DType::kBF16, {2}, bf16)), ElementsAre(1, -3));
  std::string f64 = BytesOf<double>({1.5, 1e-300});
  EXPECT_THAT(Numbers(Tensor(DType::kF64, {2}, f64)), ElementsAre(1.5f, 0));
  std::vector<double> wide(2);
  ASSERT_THAT(ReadNumbers<double>("x", Tensor(DType::kF64, {2}, f64), nullptr,
                                  wide.data()),
              IsOk());
  EXPECT_EQ(wide[1], 1e-300);
}

TEST(ReadNumbersTest, KnowsE4M3) {
  // 1, the largest (448, no infinity), the smallest subnormal 2^-9, the
  // smallest normal 2^-6, -1.75.
  std::string bytes = BytesOf<uint8_t>({0x38, 0x7e, 0x01, 0x08, 0xbe});
  EXPECT_THAT(
      Numbers(Tensor(DType::kF8E4M3, {5}, bytes)),
      ElementsAre(1, 448, std::ldexp(1.0f, -9), std::ldexp(1.0f, -6), -1.75f));
  for (const int nan : {0x7f, 0xff}) {
    std::string bad(1, static_cast<char>(nan));
    float out;
    EXPECT_THAT(ReadNumbers<float>("x", Tensor(DType::kF8E4M3, {1}, bad),
                                   nullptr, &out),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("tensor \"x\" holds a NaN at element 0")));
  }
}

TEST(ReadNumbersTest, ScalesBlocksAlsoWhereTheyAreCutOff) {
  // 3 x 5 ones in blocks of 2 x 3: scales of [2, 2].
  std::string bytes(15, 0x38);
  const float scale[] = {1, 2, 3, 4};
  const Fp8Scale blocks = {scale, 2, 3};
  EXPECT_THAT(Numbers(Tensor(DType::kF8E4M3, {3, 5}, bytes), &blocks),
              ElementsAre(1, 1, 1, 2, 2,  //
                          1, 1, 1, 2, 2,  //
                          3, 3, 3, 4, 4));
}

TEST(ReadNumbersTest, ReadsBlocksOfGguf) {
  std::string q8 = BytesOf<uint16_t>({0x4000});  // 2
  for (int i = 0; i < 32; ++i) q8.push_back(static_cast<char>(i - 16));
  StoredTensor tensor = Tensor(DType::kF32, {1, 32}, q8);
  tensor.packing = StoredTensor::Packing::kQ8_0;
  std::vector<float> got = Numbers(tensor);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(got[i], 2 * (i - 16));

  std::string q4 = BytesOf<uint16_t>({0x3800});  // 0.5
  // Byte j: element j in the low half, j + 16 in the high one.
  for (int i = 0; i < 16; ++i) q4.push_back(static_cast<char>(i | 0xf0));
  tensor = Tensor(DType::kF32, {1, 32}, q4);
  tensor.packing = StoredTensor::Packing::kQ4_0;
  got = Numbers(tensor);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(got[i], 0.5 * (i - 8));
    EXPECT_EQ(got[i + 16], 0.5 * 7);
  }
  EXPECT_EQ(PackedBytes(StoredTensor::Packing::kQ8_0, 64), 68);
  EXPECT_EQ(PackedBytes(StoredTensor::Packing::kQ4_0, 64), 36);
}

TEST(ReadNumbersTest, TurnsPairsOfRowsIntoHalves) {
  // Two heads of four rows: pairs (0, 1), (2, 3) become halves 0 2 | 1 3.
  std::string bytes = BytesOf<float>({0, 1, 2, 3, 4, 5, 6, 7});
  StoredTensor tensor = Tensor(DType::kF32, {8, 1}, bytes);
  tensor.paired_heads = 2;
  EXPECT_THAT(Numbers(tensor), ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  tensor.view.shape = {8};  // A bias.
  EXPECT_THAT(Numbers(tensor), ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
}

TEST(ReadNumbersTest, SaysWhereNumbersAreNotFinite) {
  std::string bytes = BytesOf<float>({1, 2, INFINITY});
  std::vector<float> out(3);
  EXPECT_THAT(
      ReadNumbers<float>("w", Tensor(DType::kF32, {3}, bytes), nullptr,
                         out.data()),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("tensor \"w\" holds an infinity at element 2 of 3; "
                         "want finite weights")));
}

TEST(ReadNumbersTest, TakesNone) {
  std::string bytes;
  EXPECT_TRUE(Numbers(Tensor(DType::kF32, {0, 4}, bytes)).empty());
}

}  // namespace
}  // namespace strata
