#include "sim/compute/kernel_model.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/expert_rows.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/known_devices.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

KernelModel Loaded(absl::string_view device) {
  auto model = KernelModel::Load(device);
  EXPECT_THAT(model, IsOk());
  return *std::move(model);
}

MoeLayer Layer() {
  MoeLayer layer;
  layer.tokens = 4096;
  layer.hidden = 6144;
  layer.inner = 2048;
  layer.experts = 256;
  layer.top_k = 8;
  layer.expert_parallel = 8;
  layer.rows = RowsOf(BalancedLoads({4096, 256, 8, 8}).rows);
  return layer;
}

TEST(KernelModelTest, LoadsEveryDevice) {
  EXPECT_THAT(CalibratedDevices(),
              ElementsAre("a100", "h100", "h200", "h800", "b200"));
  for (const std::string& device : CalibratedDevices()) {
    const KernelModel model = Loaded(device);
    const std::vector<double> seconds = {
        model.Predict(MatMul{4096, 4096, 4096}).seconds,
        model.Predict(GroupedMatMul{EvenRows(4096, 8), 8, 4096, 2048}).seconds,
        model.Predict(Layer()).seconds,
        model.Predict(AttentionPrefill{4, 4096, 32, 8, 128}).seconds,
        model.Predict(AttentionDecode{64, 4096, 32, 8, 128}).seconds,
        model.Predict(LatentPrefill{4, 4096, 32}).seconds,
        model.Predict(LatentDecode{64, 4096, 32}).seconds,
        model.Predict(Elementwise{1e9, 2}).seconds};
    for (const double s : seconds) {
      EXPECT_GT(s, 1e-6) << device;
      EXPECT_LT(s, 0.1) << device;
    }
  }
}

TEST(KernelModelTest, UnknownDeviceNamesThoseThereAre) {
  EXPECT_THAT(KernelModel::Load("h300"),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("no device \"h300\"; there are a100, h100, "
                                 "h200, h800, b200")));
}

TEST(KernelModelTest, NoWorkTakesNoTime) {
  const KernelModel model = Loaded("h100");
  EXPECT_EQ(model.Predict(MatMul{0, 4096, 4096}).seconds, 0);
  EXPECT_EQ(model.Predict(MatMul{-1, 4096, 4096}).seconds, 0);
  EXPECT_EQ(model.Predict(GroupedMatMul{ExpertRows(), 8, 64, 64}).seconds, 0);
  EXPECT_EQ(model.Predict(MoeLayer()).seconds, 0);
  EXPECT_EQ(model.Predict(AttentionPrefill()).seconds, 0);
  EXPECT_EQ(model.Predict(AttentionDecode()).seconds, 0);
  EXPECT_EQ(model.Predict(LatentPrefill()).seconds, 0);
  EXPECT_EQ(model.Predict(LatentDecode()).seconds, 0);
  EXPECT_EQ(model.Predict(Elementwise()).seconds, 0);
}

TEST(KernelModelTest, HasAnErrorBandWhereItWasMeasured) {
  const KernelModel model = Loaded("h200");
  const Prediction inside = model.Predict(MatMul{4096, 4096, 4096});
  EXPECT_TRUE(inside.inside_range);
  EXPECT_GT(inside.median_error, 0);
  EXPECT_GT(inside.relative_error, inside.median_error);
  EXPECT_LT(inside.relative_error, 0.3);

  EXPECT_FALSE(model.Predict(MatMul{4096, 4096, 1 << 20}).inside_range);
  EXPECT_FALSE(model.Predict(MatMul{4096, 16, 4096}).inside_range);
  EXPECT_FALSE(model.Predict(Elementwise{1e9}).inside_range);
}

TEST(KernelModelTest, H800ComputesAsH100AndSaysSo) {
  const KernelModel h100 = Loaded("h100");
  const KernelModel h800 = Loaded("h800");
  const MatMul product = {4096, 7168, 2048};
  EXPECT_EQ(h800.Predict(product).seconds, h100.Predict(product).seconds);
  EXPECT_FALSE(h800.Predict(product).inside_range);
  EXPECT_EQ(h800.calibration().derived_from(), "h100");
  EXPECT_THAT(h800.notes(), Not(IsEmpty()));
  EXPECT_THAT(h800.notes()[0], HasSubstr("not measured on h800"));
}

TEST(KernelModelTest, SaysWhatADeviceBorrows) {
  const KernelModel model = Loaded("a100");
  ASSERT_THAT(model.notes(), Not(IsEmpty()));
  EXPECT_THAT(model.notes()[0], HasSubstr("attention_decode bfloat16"));
  // It has no FP8 to borrow.
  EXPECT_THAT(model.notes()[0], Not(HasSubstr("fp8")));
}

TEST(KernelModelTest, FasterSheetsAreFasterWhereItCounts) {
  const KernelModel h100 = Loaded("h100");
  const KernelModel b200 = Loaded("b200");
  EXPECT_LT(b200.Predict(MatMul{8192, 8192, 8192}).seconds,
            h100.Predict(MatMul{8192, 8192, 8192}).seconds / 1.8);
  EXPECT_LT(b200.Predict(MatMul{1, 16384, 16384}).seconds,
            h100.Predict(MatMul{1, 16384, 16384}).seconds / 1.8);
}

TEST(KernelModelTest, BackwardAttentionHasFiveProductsForTwo) {
  const KernelModel model = Loaded("h100");
  AttentionPrefill shape = {4, 8192, 32, 8, 128};
  const double forward = model.Predict(shape).seconds;
  shape.backward = true;
  const double share = model.calibration().attention_backward_share();
  ASSERT_GT(share, 0);
  EXPECT_NEAR(model.Predict(shape).seconds / forward, 2.5 / share, 1e-9);
}

TEST(KernelModelTest, TakesTheLibraryThatIsAskedFor) {
  const KernelModel model = Loaded("h200");
  MoeLayer layer = Layer();
  const double by_default = model.Predict(layer).seconds;
  layer.kernel_source = "moe_torch_flow_cutlass";
  EXPECT_EQ(model.Predict(layer).seconds, by_default);
  layer.kernel_source = "sglang_fused_moe_triton";
  // Untuned Triton tiles are much slower for large loads.
  EXPECT_GT(model.Predict(layer).seconds, 1.2 * by_default);
}

TEST(KernelModelTest, RefusesCalibrationsThatAreNot) {
  const auto create = [](auto edit) {
    DeviceCalibration calibration = *MeasuredCalibration("h100");
    edit(calibration);
    return KernelModel::Create(calibration).status();
  };
  const auto invalid = [](const char* text) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text));
  };
  EXPECT_THAT(create([](DeviceCalibration&) {}), IsOk());
  EXPECT_THAT(create([](DeviceCalibration& c) {
                c.mutable_sheet()->set_memory_gb_per_s(0);
              }),
              invalid("0 GB/s"));
  EXPECT_THAT(create([](DeviceCalibration& c) { c.clear_fit(); }),
              invalid("no fit of the family mat_mul"));
  EXPECT_THAT(create([](DeviceCalibration& c) {
                c.mutable_fit(0)->set_family("convolution");
              }),
              invalid("no family of kernels \"convolution\""));
  EXPECT_THAT(create([](DeviceCalibration& c) {
                c.mutable_fit(0)->mutable_parameter(0)->set_value(-1);
              }),
              invalid("is -1; want"));
  EXPECT_THAT(create([](DeviceCalibration& c) {
                c.mutable_fit(0)->mutable_parameter(0)->set_value(NAN);
              }),
              invalid("is nan; want"));
  EXPECT_THAT(create([](DeviceCalibration& c) {
                c.mutable_fit(0)->mutable_parameter()->RemoveLast();
              }),
              invalid("is missing"));
  EXPECT_THAT(create([](DeviceCalibration& c) {
                c.mutable_fit(0)->add_parameter()->set_name("speed");
              }),
              invalid("of the family"));
  EXPECT_THAT(create([](DeviceCalibration& c) {
                *c.mutable_fit(0)->add_parameter() = c.fit(0).parameter(0);
              }),
              invalid("is there twice"));
  EXPECT_THAT(
      create([](DeviceCalibration& c) { c.set_attention_backward_share(-1); }),
      invalid("attention_backward_share is -1"));
}

}  // namespace
}  // namespace strata
