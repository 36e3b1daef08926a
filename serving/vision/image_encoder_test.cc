#include "serving/vision/image_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/init.h"
#include "core/model/vision/vision_encoder.h"
#include "core/quant/round_parameters.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSize = 20, kPatch = 4;  // A grid of 5 x 5.

VisionConfig Tiny() {
  VisionConfig config = EdgeVisionConfig();
  config.image_size = kSize;
  config.patch_size = kPatch;
  config.blocks.set_d_model(32);
  config.blocks.set_num_layers(2);
  config.blocks.mutable_attention()->set_num_heads(2);
  config.blocks.mutable_attention()->set_num_kv_heads(2);
  config.blocks.mutable_attention()->set_head_dim(16);
  config.blocks.mutable_moe()->set_expert_width(32);
  auto& router = *config.blocks.mutable_moe()->mutable_hierarchical();
  router.set_energy_groups(8);
  router.set_fine_width(8);
  return config;
}

std::vector<uint8_t> Image(int seed) {
  Random random(seed, /*stream=*/0);
  std::vector<uint8_t> pixels(kSize * kSize * 3);
  for (uint8_t& x : pixels) x = static_cast<uint8_t>(256 * random.Uniform());
  return pixels;
}

struct Encoder {
  CpuBackend backend;
  StateStore wide, state;
  std::unique_ptr<ImageEncoder> encoder;

  // `bits` 0: weights in F32.
  Encoder(int threads, bool fuse, int bits = 0,
          const VisionConfig& config = Tiny())
      : backend(threads, AllCpuKernels()), wide(backend), state(backend) {
    const auto graph = ImageEncoder::BuildGraph(config, 3);
    EXPECT_THAT(graph, IsOk());
    StateStore& first = bits > 0 ? wide : state;
    EXPECT_THAT(first.Declare(*graph), IsOk());
    InitializeParameters(config.blocks, /*seed=*/3, first);
    if (bits > 0) {
      EXPECT_THAT(RoundParameters(*graph, RoundableWeights(*graph),
                                  {bits, 32, true}, wide, state),
                  IsOk());
    }
    auto created = ImageEncoder::Create(config, backend, state, {3, fuse});
    EXPECT_THAT(created, IsOk());
    encoder = *std::move(created);
  }

  std::vector<float> operator()(const std::vector<uint8_t>& pixels) {
    const auto features = encoder->Encode(
        pixels, static_cast<int64_t>(pixels.size()) / (kSize * kSize * 3));
    EXPECT_THAT(features, IsOk());
    return {features->begin(), features->end()};
  }
};

double Distance(absl::Span<const float> a, absl::Span<const float> b) {
  double error = 0, energy = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - b[i], 2);
    energy += std::pow(double{a[i]}, 2);
  }
  return std::sqrt(error / energy);
}

TEST(ImageEncoderTest, AnImageIsTheSameInABatchOfOthers) {
  Encoder encode(2, /*fuse=*/false);
  std::vector<uint8_t> batch;
  for (const int seed : {1, 2, 3}) {
    const std::vector<uint8_t> image = Image(seed);
    batch.insert(batch.end(), image.begin(), image.end());
  }
  const std::vector<float> together = encode(batch);
  ASSERT_EQ(together.size(), 3 * 32);
  for (int i = 0; i < 3; ++i) {
    const std::vector<float> alone = encode(Image(i + 1));
    ASSERT_EQ(alone.size(), 32);
    // Tiles of products differ, so roundings do: 2 layers of some 8 products
    // of up to 48 terms, each within 7 * 2^-24 of numbers below 4.
    EXPECT_LT(
        Distance(alone, absl::MakeConstSpan(together).subspan(32 * i, 32)),
        1e-5);
  }
  // And the first is not the second.
  EXPECT_GT(Distance(absl::MakeConstSpan(together).subspan(0, 32),
                     absl::MakeConstSpan(together).subspan(32, 32)),
            0.01);
}

TEST(ImageEncoderTest, DoesNotDependOnThreadsOrFusion) {
  Encoder one(1, /*fuse=*/false), three(3, /*fuse=*/false),
      fused(2, /*fuse=*/true);
  const std::vector<float> features = one(Image(1));
  EXPECT_EQ(features, three(Image(1)));
  // Other kernels, other roundings, as above.
  EXPECT_LT(Distance(features, fused(Image(1))), 1e-5);
}

TEST(ImageEncoderTest, SeesWhereAPatchIs) {
  Encoder encode(1, /*fuse=*/true);
  const std::vector<uint8_t> image = Image(1);
  // Two patches change places: along a row, and down a column.
  for (const int64_t offset : {kPatch * 3, kPatch * kSize * 3}) {
    std::vector<uint8_t> swapped = image;
    for (int64_t y = 0; y < kPatch; ++y) {
      const auto first = swapped.begin() + y * kSize * 3;
      std::swap_ranges(first, first + kPatch * 3, first + offset);
    }
    EXPECT_GT(Distance(encode(image), encode(swapped)), 1e-3);
  }
}

TEST(ImageEncoderTest, EightBitsAreNearAndFourAreFurther) {
  // Every token takes all experts: a choice that flips is no rounding.
  VisionConfig config = Tiny();
  auto& router = *config.blocks.mutable_moe()->mutable_hierarchical();
  router.clear_tier_experts();
  router.add_tier_experts(2);
  router.add_tier_experts(2);
  router.set_k_min(2);
  router.set_coarse_keep(1);
  Encoder f32(2, true, 0, config), int8(2, true, 8, config),
      int4(2, true, 4, config);
  const std::vector<float> exact = f32(Image(1));
  const double eight = Distance(exact, int8(Image(1)));
  const double four = Distance(exact, int4(Image(1)));
  // Half a step of 127 in every weight of some 10 products in a row.
  EXPECT_GT(eight, 0);
  EXPECT_LT(eight, 0.05);
  EXPECT_GT(four, eight);
}

TEST(CutPatchesTest, TakesPatchesRowByRow) {
  const VisionConfig config = Tiny();
  std::vector<uint8_t> pixels(kSize * kSize * 3);
  // The red of pixel (y, x) is 10 y + x, and the rest is white.
  for (int64_t i = 0; i < kSize * kSize; ++i) {
    pixels[3 * i] = static_cast<uint8_t>(10 * (i / kSize) + i % kSize);
    pixels[3 * i + 1] = pixels[3 * i + 2] = 255;
  }
  std::vector<float> patches(config.num_tokens() * config.patch_width());

  CutPatches(config, pixels, absl::MakeSpan(patches));

  EXPECT_EQ(patches[0], 0);  // The summary.
  // Grid row 1, column 2; in it row 3, column 1: pixel (7, 9).
  const int64_t at = (1 + 5 + 2) * 48 + (3 * 4 + 1) * 3;
  EXPECT_EQ(patches[at], 79 / 127.5f - 1);
  EXPECT_EQ(patches[at + 1], 1);
}

TEST(ImageEncoderTest, RejectsWhatIsNoImage) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  Encoder encode(1, true);
  const std::vector<uint8_t> pixels(kSize * kSize * 3 - 1);
  EXPECT_THAT(encode.encoder->Encode(pixels, 1),
              StatusIs(kInvalid, HasSubstr("1199 bytes of pixels for 1 images; "
                                           "want 1 to 3 of 1200")));
  EXPECT_THAT(encode.encoder->Encode({}, 0),
              StatusIs(kInvalid, HasSubstr("for 0 images")));
  VisionConfig config = Tiny();
  config.patch_size = 3;
  EXPECT_THAT(ImageEncoder::BuildGraph(config, 1),
              StatusIs(kInvalid, HasSubstr("image_size is 20; want a multiple "
                                           "of patch_size, which is 3")));
  EXPECT_THAT(ImageEncoder::BuildGraph(Tiny(), 0),
              StatusIs(kInvalid, HasSubstr("max_images is 0")));
}

TEST(EdgeVisionConfigTest, IsTheOneOfTheSpecification) {
  const VisionConfig config = EdgeVisionConfig();
  EXPECT_THAT(Validate(config), IsOk());
  EXPECT_EQ(config.num_tokens(), 197);
  EXPECT_EQ(config.patch_width(), 768);
  EXPECT_EQ(config.blocks.d_model(), 192);
  EXPECT_EQ(config.blocks.num_layers(), 12);
}

}  // namespace
}  // namespace strata
