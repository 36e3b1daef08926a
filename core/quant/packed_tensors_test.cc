#include "core/quant/packed_tensors.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/quant/format.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A file with "w" [2, 64] in INT4, groups of 32, and room for what spoils it.
class PackedTensorsTest : public ::testing::Test {
 protected:
  PackedTensorsTest() {
    shape_ = {2, 64};
    code_.assign(2 * 8, 0x99999999);  // Codes of 9: one above the zero.
    scale_.assign(4, RoundToBFloat16(0.5f));
    Put("w_packed", DType::kI32, {2, 8}, code_.data());
    Put("w_scale", DType::kBF16, {2, 2}, scale_.data());
    Put("w_shape", DType::kI64, {2}, shape_.data());
  }

  void Put(const std::string& name, DType dtype, const Shape& shape,
           void* data) {
    tensors_[name].view = {dtype, shape, data};
  }

  void ExpectRefused(absl::StatusCode code, const std::string& words) {
    EXPECT_THAT(MergePackedTensors("model.safetensors", tensors_),
                StatusIs(code, AllOf(HasSubstr("model.safetensors"),
                                     HasSubstr("\"w"), HasSubstr(words))));
  }

  std::vector<int64_t> shape_;
  std::vector<uint32_t> code_, zero_ = std::vector<uint32_t>(64);
  std::vector<BFloat16> scale_;
  StoredTensors tensors_;
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST_F(PackedTensorsTest, BecomeOneThatReadsAsNumbers) {
  ASSERT_THAT(MergePackedTensors("model.safetensors", tensors_), IsOk());
  ASSERT_EQ(tensors_.size(), 1u);
  const StoredTensor& w = tensors_.at("w");
  EXPECT_EQ(w.groups.format, (QuantFormat{4, 32, true}));
  EXPECT_EQ(StoredBytes(w), 2 * 8 * 4 + 4 * 2);
  std::vector<float> numbers(128);
  ASSERT_THAT(ReadNumbers<float>("w", w, nullptr, numbers.data()), IsOk());
  EXPECT_EQ(numbers, std::vector<float>(128, 0.5f));  // (9 - 8) * 0.5
}

// 64 codes are four words of 2 bits.
TEST_F(PackedTensorsTest, SayByTheirWordsThatTheyHaveTwoBits) {
  code_.assign(2 * 4, 0xFFFFFFFF);  // Codes of 3: one above the zero.
  Put("w_packed", DType::kI32, {2, 4}, code_.data());
  ASSERT_THAT(MergePackedTensors("model.safetensors", tensors_), IsOk());
  const StoredTensor& w = tensors_.at("w");
  EXPECT_EQ(w.groups.format, (QuantFormat{2, 32, true}));
  EXPECT_EQ(StoredBytes(w), 2 * 4 * 4 + 4 * 2);
  std::vector<float> numbers(128);
  ASSERT_THAT(ReadNumbers<float>("w", w, nullptr, numbers.data()), IsOk());
  EXPECT_EQ(numbers, std::vector<float>(128, 0.5f));  // (3 - 2) * 0.5
}

TEST_F(PackedTensorsTest, MayHaveZeros) {
  // Rows 0 and 1 in the lowest halves of a byte: zeros of 9 and 1.
  zero_.assign(2, 0x19);
  Put("w_zero_point", DType::kI32, {1, 2}, zero_.data());
  ASSERT_THAT(MergePackedTensors("model.safetensors", tensors_), IsOk());
  std::vector<float> numbers(128);
  ASSERT_THAT(
      ReadNumbers<float>("w", tensors_.at("w"), nullptr, numbers.data()),
      IsOk());
  EXPECT_EQ(numbers[0], 0);    // (9 - 9) * 0.5
  EXPECT_EQ(numbers[127], 4);  // (9 - 1) * 0.5
}

TEST_F(PackedTensorsTest, SayWhatIsMissingOrDoesNotFit) {
  const StoredTensors whole = tensors_;
  tensors_.erase("w_shape");
  ExpectRefused(kInvalid, "does not say its shape");
  tensors_ = whole;
  tensors_.erase("w_scale");
  ExpectRefused(kInvalid, "has no scales");
  tensors_ = whole;
  Put("w_packed", DType::kI32, {2, 9}, code_.data());
  ExpectRefused(kInvalid, "want I32[2, 8]");
  tensors_ = whole;
  Put("w_scale", DType::kF32, {2, 2}, scale_.data());
  ExpectRefused(kInvalid, "want BF16[2, 2]");
  tensors_ = whole;
  shape_ = {2, -64};
  ExpectRefused(kInvalid, "an extent of -64");
  shape_ = {2, 64};
  Put("w_scale", DType::kBF16, {2, 4}, scale_.data());
  ExpectRefused(kInvalid, "4 scales for 64 columns");
  tensors_ = whole;
  Put("w", DType::kF32, {2, 64}, code_.data());
  ExpectRefused(kInvalid, "quantised and as it is");
}

TEST_F(PackedTensorsTest, RefuseColumnsInAnotherOrder) {
  Put("w_g_idx", DType::kI32, {64}, zero_.data());
  ExpectRefused(absl::StatusCode::kUnimplemented, "weight_g_idx");
}

TEST_F(PackedTensorsTest, RefuseScalesThatAreNoNumbers) {
  scale_[3].bits = 0x7F80;  // Infinity.
  ASSERT_THAT(MergePackedTensors("model.safetensors", tensors_), IsOk());
  const StoredTensor& w = tensors_.at("w");
  std::vector<float> numbers(128);
  EXPECT_THAT(ReadNumbers<float>("w", w, nullptr, numbers.data()),
              StatusIs(kInvalid, HasSubstr("infinity")));
  std::vector<uint8_t> row(64);
  EXPECT_THAT(PackTensorRow("w", w, 0, w.groups.format, row.data()), IsOk());
  EXPECT_THAT(PackTensorRow("w", w, 1, w.groups.format, row.data()),
              StatusIs(kInvalid, HasSubstr("scale 3")));
}

}  // namespace
}  // namespace strata
