#include "sim/compute/measurement.h"

#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/substitute.h"
#include "core/base/files.h"
#include "core/testing/status_matchers.h"
#include "core/trace/gzip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/known_devices.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::string_view kGemmHeader =
    "kernel_source,gemm_dtype,m,n,k,latency\n";
constexpr absl::string_view kMoeHeader =
    "kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,topk,"
    "num_experts,moe_tp_size,moe_ep_size,distribution,latency\n";
constexpr absl::string_view kAttentionHeader =
    "kernel_source,batch_size,isl,num_heads,num_key_value_heads,head_dim,"
    "window_size,kv_cache_dtype,step,latency\n";

MeasuredOn H200() {
  MeasuredOn on;
  on.name = "h200";
  on.device = {132, 989e12, 1979e12, 4.8e12, 50 * 1024.0 * 1024};
  on.facts = BuiltInSoftware();
  return on;
}

absl::StatusOr<Measurements> Parse(absl::string_view header,
                                   absl::string_view rows) {
  return ParseMeasurements(absl::StrCat(header, rows), "x.csv", H200());
}

TEST(ParseMeasurementsTest, ReadsProductsInAnyOrderOfColumns) {
  const auto rows =
      Parse("k,latency,n,gemm_dtype,m,note\n", "7,0.5,6,fp8,5,hello\r\n\n");

  ASSERT_THAT(rows, IsOk());
  ASSERT_EQ(rows->rows.size(), 1);
  const Measurement& row = rows->rows[0];
  EXPECT_EQ(row.us, 500);
  EXPECT_EQ(row.precision, "fp8");
  EXPECT_EQ(row.kernel_source, "");
  const MatMul& shape = std::get<MatMul>(row.shape);
  EXPECT_EQ(shape.m, 5);
  EXPECT_EQ(shape.n, 6);
  EXPECT_EQ(shape.k, 7);
  EXPECT_EQ(shape.precision, Precision::kFp8);
  EXPECT_EQ(shape.reuse, Reuse::kRepeated);
}

TEST(ParseMeasurementsTest, LeavesOutRowsWithoutWork) {
  const auto rows =
      Parse(kGemmHeader, "x,bfloat16,0,6,7,0.5\nx,bfloat16,1,6,7,0.5\n");
  ASSERT_THAT(rows, IsOk());
  EXPECT_EQ(rows->rows.size(), 1);
  EXPECT_EQ(rows->num_empty, 1);
}

TEST(ParseMeasurementsTest, DrawsTheLoadsOfALayer) {
  const auto rows = Parse(kMoeHeader,
                          "a,bfloat16,32,64,128,2,16,2,4,balanced,1\n"
                          "a,bfloat16,32,64,128,2,16,2,4,power_law_1.2,1\n"
                          "a,bfloat16,32,64,128,2,16,2,4,power_law_1.2,2\n");
  ASSERT_THAT(rows, IsOk());
  const auto& balanced = std::get<MoeLayer>(rows->rows[0].shape);
  EXPECT_EQ(balanced.rows.rows, 16);  // 4 experts of 32 * 2 / 16 rows.
  EXPECT_EQ(balanced.rows.touched, 4);
  EXPECT_TRUE(balanced.gated);
  const auto& skewed = std::get<MoeLayer>(rows->rows[1].shape);
  EXPECT_GE(skewed.rows.rows, 16);  // The busiest rank.
  EXPECT_EQ(skewed.rows.rows,
            std::get<MoeLayer>(rows->rows[2].shape).rows.rows);
}

TEST(ParseMeasurementsTest, KnowsWhatLibrariesDo) {
  const auto rows =
      Parse(kMoeHeader,
            "moe_torch_flow_nongated,bfloat16,32,64,128,2,16,2,4,balanced,1\n"
            "sglang_fused_moe_triton,bfloat16,32,2816,704,2,16,1,4,balanced,"
            "1\n");
  ASSERT_THAT(rows, IsOk());
  EXPECT_FALSE(std::get<MoeLayer>(rows->rows[0].shape).gated);
  // Half of the 32 tokens chose a local expert; both choices of each count.
  const auto& remote = std::get<MoeLayer>(rows->rows[1].shape);
  EXPECT_EQ(remote.tokens, 16);
  EXPECT_EQ(remote.rows.rows, 32);
}

TEST(ParseMeasurementsTest, FindsLayersThatRanUntuned) {
  // Two layers of 8 experts a rank, 512 wide: the second finds the file of the
  // first. Kernels of FP8 blocks and other libraries are not tuned so.
  constexpr absl::string_view kRows =
      "$0,$1,1,6144,16384,2,8,32,1,balanced,1\n"
      "$0,$1,1,6144,2048,8,256,4,32,balanced,1\n"
      "$0,$1,2,6144,2048,8,256,4,32,balanced,1\n";
  const auto untuned = [&](absl::string_view source, absl::string_view dtype) {
    const auto rows = Parse(kMoeHeader, absl::Substitute(kRows, source, dtype));
    EXPECT_THAT(rows, IsOk());
    std::vector<bool> result;
    for (const Measurement& row : rows->rows) {
      result.push_back(std::get<MoeLayer>(row.shape).untuned);
    }
    return result;
  };
  EXPECT_THAT(untuned("moe_torch_flow_cutlass", "bfloat16"),
              ElementsAre(false, true, true));
  EXPECT_THAT(untuned("moe_torch_flow_cutlass", "fp8_block"),
              ElementsAre(false, false, false));
  EXPECT_THAT(untuned("a", "bfloat16"), ElementsAre(false, false, false));
}

TEST(ParseMeasurementsTest, TellsPrefillFromDecode) {
  const auto rows = Parse(kAttentionHeader,
                          "t,4,1024,32,8,128,0,bfloat16,0,1\n"
                          "t,4,1,32,8,128,0,fp8,1023,1\n");
  ASSERT_THAT(rows, IsOk());
  EXPECT_EQ(std::get<AttentionPrefill>(rows->rows[0].shape).sequence, 1024);
  EXPECT_EQ(std::get<AttentionDecode>(rows->rows[1].shape).context, 1024);
  EXPECT_EQ(rows->rows[0].variant, "");
  EXPECT_EQ(rows->rows[1].variant, "per_group_fp8");
}

TEST(ParseMeasurementsTest, ReadsLatentAttention) {
  const auto rows =
      Parse("mla_dtype,kv_cache_dtype,num_heads,batch_size,isl,step,latency\n",
            "bfloat16,bfloat16,64,2,512,0,1\nbfloat16,fp8,64,2,1,7,1\n");
  ASSERT_THAT(rows, IsOk());
  EXPECT_EQ(std::get<LatentPrefill>(rows->rows[0].shape).sequence, 512);
  EXPECT_EQ(std::get<LatentDecode>(rows->rows[1].shape).context, 8);
}

TEST(ParseMeasurementsTest, NamesTheLineOfAnError) {
  const auto error = [](absl::string_view header, absl::string_view rows,
                        const char* text) {
    EXPECT_THAT(Parse(header, rows),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
  };
  error("a,b\n", "", "x.csv line 1: the header has none of the columns");
  error("gemm_dtype,m,n,k\n", "", "line 1: no column latency");
  error("gemm_dtype,m,n,latency\n", "fp8,1,1,1\n", "line 2: no column k");
  error(kGemmHeader, "x,bfloat16,1,1\n", "line 2: 4 cells; want 6");
  error(kGemmHeader, "x,bfloat16,1,1,1,1\nx,bfloat16,-1,1,1,1\n",
        "line 3: m is \"-1\"; want a whole number from 0 to 16777216");
  error(kGemmHeader, "x,bfloat16,1,99999999999999999999,1,1\n",
        "n is \"99999999999999999999\"");
  error(kGemmHeader, "x,float64,1,1,1,1\n", "gemm_dtype is \"float64\"");
  error(kGemmHeader, "x,bfloat16,1,1,1,0\n", "latency is \"0\"");
  error(kGemmHeader, "x,bfloat16,1,1,1,nan\n", "latency is \"nan\"");
  error(kMoeHeader, "a,bfloat16,32,64,128,17,16,2,4,balanced,1\n",
        "topk is \"17\"; want a whole number from 1 to 16");
  error(kMoeHeader, "a,bfloat16,32,64,128,2,16,2,3,balanced,1\n",
        "moe_ep_size is 3, which does not divide the 16 experts");
  error(kMoeHeader, "a,bfloat16,32,64,128,2,16,2,4,uniform,1\n",
        "distribution is \"uniform\"; want balanced or power_law_<exponent>");
  error(kMoeHeader, "a,bfloat16,32,64,128,2,16,2,4,power_law_-1,1\n",
        "want an exponent");
  error(kAttentionHeader, "t,4,1024,8,9,128,0,bfloat16,0,1\n",
        "num_key_value_heads is \"9\"; want a whole number from 1 to 8");
  EXPECT_THAT(Parse("", ""), StatusIs(absl::StatusCode::kInvalidArgument,
                                      HasSubstr("x.csv is empty")));
}

TEST(ReadMeasurementsTest, ReadsGzipAndNoticesDamage) {
  const std::string path = absl::StrCat(testing::TempDir(), "/rows.csv.gz");
  GzipCompressor gzip;
  const std::string whole(
      gzip.Compress(absl::StrCat(kGemmHeader, "x,bfloat16,1,2,3,0.5\n")));
  ASSERT_THAT(WriteFileAtomically(path, whole), IsOk());
  const auto rows = ReadMeasurements(path, H200());
  ASSERT_THAT(rows, IsOk());
  EXPECT_EQ(rows->rows.size(), 1);

  ASSERT_THAT(WriteFileAtomically(path, whole.substr(0, whole.size() - 9)),
              IsOk());
  EXPECT_THAT(ReadMeasurements(path, H200()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("rows.csv.gz")));
  EXPECT_THAT(ReadMeasurements(path + ".not", H200()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("cannot open")));
}

}  // namespace
}  // namespace strata
