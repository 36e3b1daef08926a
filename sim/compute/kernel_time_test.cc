// Properties that the formulas keep whatever their parameters are.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "sim/compute/decode_time.h"
#include "sim/compute/device.h"
#include "sim/compute/expert_rows.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/mat_mul_time.h"
#include "sim/compute/moe_time.h"
#include "sim/compute/parameter.h"
#include "sim/compute/prefill_time.h"

namespace strata {
namespace {

constexpr Device kDevice = {/*num_sms=*/100, /*bf16_flops=*/1e15,
                            /*fp8_flops=*/2e15, /*memory_bytes_per_s=*/4e12,
                            /*l2_bytes=*/50e6};

Device Faster(double math, double memory) {
  Device device = kDevice;
  device.bf16_flops *= math;
  device.fp8_flops *= math;
  device.memory_bytes_per_s *= memory;
  return device;
}

MoeLayer Layer(int64_t tokens) {
  MoeLayer layer;
  layer.tokens = tokens;
  layer.hidden = 4096;
  layer.inner = 1536;
  layer.experts = 64;
  layer.top_k = 8;
  layer.rows = RowsOf(BalancedLoads({tokens, 64, 8, 1}).rows);
  return layer;
}

TEST(MatMulUsTest, LargeProductsReachTheShareOfThePeak) {
  MatMulParameters p = InitialParameters<MatMulParameters>();
  p.tile.math_share = 0.8;
  p.sustained_share = 1;
  const double us = MatMulUs(kDevice, p, {8192, 8192, 8192});
  const double at_share = 2 * std::pow(8192.0, 3) / (0.8 * 1e15) * 1e6;
  EXPECT_GE(us, at_share);
  EXPECT_LE(us, at_share * 1.15);  // Fill, tails, and what memory adds.
}

TEST(MatMulUsTest, ThinProductsTakeTheTimeOfTheirWeights) {
  const MatMulParameters p = InitialParameters<MatMulParameters>();
  const double us = MatMulUs(kDevice, p, {1, 16384, 16384});
  const double weights_us = 2.0 * 16384 * 16384 / (p.memory_share * 4e12) * 1e6;
  EXPECT_GE(us, weights_us + p.launch_us);
  EXPECT_LE(us, weights_us * 1.3 + p.launch_us);
}

TEST(MatMulUsTest, GrowsWithEachSize) {
  // More blocks may read faster, and a larger size save a tile's tail; no more.
  const MatMulParameters p = InitialParameters<MatMulParameters>();
  for (const int64_t m : {1, 16, 17, 128, 129, 4096}) {
    for (const int64_t n : {32, 64, 65, 4096}) {
      for (const int64_t k : {32, 64, 65, 4096}) {
        const double us = MatMulUs(kDevice, p, {m, n, k});
        EXPECT_GE(MatMulUs(kDevice, p, {2 * m, n, k}), us * 0.9);
        EXPECT_GE(MatMulUs(kDevice, p, {m, 2 * n, k}), us * 0.9);
        EXPECT_GE(MatMulUs(kDevice, p, {m, n, 2 * k}), us * 0.9);
      }
    }
  }
}

TEST(MatMulUsTest, RepeatedCallsOfWhatFitsInL2AreFaster) {
  const MatMulParameters p = InitialParameters<MatMulParameters>();
  MatMul small = {16, 1024, 1024};  // Five copies are 10 MiB.
  MatMul large = {16, 16384, 16384};
  const double small_cold = MatMulUs(kDevice, p, small);
  const double large_cold = MatMulUs(kDevice, p, large);
  small.reuse = large.reuse = Reuse::kRepeated;
  EXPECT_LT(MatMulUs(kDevice, p, small), small_cold);
  EXPECT_EQ(MatMulUs(kDevice, p, large), large_cold);
}

TEST(MatMulUsTest, Fp8PaysForQuantisationAndSavesArithmetic) {
  const MatMulParameters p = InitialParameters<MatMulParameters>();
  const MatMul tiny = {16, 128, 128}, huge = {8192, 8192, 8192};
  MatMul tiny8 = tiny, huge8 = huge;
  tiny8.precision = huge8.precision = Precision::kFp8;
  EXPECT_GT(MatMulUs(kDevice, p, tiny8), MatMulUs(kDevice, p, tiny));
  EXPECT_LT(MatMulUs(kDevice, p, huge8), MatMulUs(kDevice, p, huge));
}

TEST(MoeUsTest, FewTokensTouchFewExperts) {
  const MoeParameters p = InitialParameters<MoeParameters>();
  // 1 token reads 8 experts, 8 tokens all 64: eight times the weights.
  const double one = MoeUs(kDevice, p, {}, Layer(1)) - p.fixed_us;
  const double eight = MoeUs(kDevice, p, {}, Layer(8)) - p.fixed_us;
  EXPECT_GT(eight, 4 * one);
  EXPECT_LT(eight, 9 * one);
}

TEST(MoeUsTest, SkewedLoadsOfAsManyRowsAreNotSlowerThanTouchingAll) {
  // One expert has all rows: one expert's weights, no half-empty tiles.
  const MoeParameters p = InitialParameters<MoeParameters>();
  MoeLayer layer = Layer(64);
  const double even = MoeUs(kDevice, p, {}, layer);
  layer.rows = RowsOf({static_cast<int64_t>(layer.rows.rows)});
  EXPECT_LT(MoeUs(kDevice, p, {}, layer), even);
}

TEST(MoeUsTest, TilesAreThoseOfEvenLoads) {
  // 64 tokens are 8 rows an expert: tiles of 16. One expert with all 512 rows
  // would do with fewer and larger ones, which a grouped product alone takes.
  MoeParameters p = InitialParameters<MoeParameters>();
  p.sustained_share = 1;
  MoeLayer layer = Layer(64);
  layer.rows = RowsOf({512});
  const double products_us =
      GroupedMatMulUs(kDevice, p, {layer.rows, 1, 2 * 1536, 4096}) +
      GroupedMatMulUs(kDevice, p, {layer.rows, 1, 4096, 1536});
  MoeLayer without = layer;
  without.rows = ExpertRows();
  // Gathering, activation and sum take less than this.
  const double rest_us = MoeUs(kDevice, p, {}, without) + 20;
  EXPECT_GT(MoeUs(kDevice, p, {}, layer), rest_us + 1.2 * products_us);
}

TEST(MoeUsTest, UntunedTilesTakeLongerTheEmptierTheyAre) {
  MoeParameters p = InitialParameters<MoeParameters>();
  MoeLayer layer = Layer(64);  // 8 rows an expert: tiles have 120 empty ones.
  const double tuned = MoeUs(kDevice, p, {}, layer);
  layer.untuned = true;
  const double empty = MoeUs(kDevice, p, {}, layer);
  EXPECT_GT(empty, 2 * tuned);

  // Slabs of all tiles, on 100 SMs: 64 experts of 3072 and 4096 columns by 16.
  const double slabs = 64 * (3072 / 16 * 64 + 4096 / 16 * 24) / 100.0;
  p.empty_row_ns += 1;
  p.overlap = 1;
  const double more = MoeUs(kDevice, p, {}, layer);
  p.empty_row_ns -= 1;
  const double less = MoeUs(kDevice, p, {}, layer);
  // Nearly whole waves, and the power limit.
  EXPECT_NEAR(more - less, slabs * 120 * 1e-3, 0.1 * slabs * 120 * 1e-3);

  // 128 rows an expert fill the tiles: no row is empty.
  MoeLayer full = Layer(1024);
  full.untuned = true;
  const double before = MoeUs(kDevice, p, {}, full);
  p.empty_row_ns *= 2;
  EXPECT_EQ(MoeUs(kDevice, p, {}, full), before);
}

TEST(MoeUsTest, ARankWithoutRowsTakesItsLaunches) {
  const MoeParameters p = InitialParameters<MoeParameters>();
  MoeLayer layer = Layer(1);
  layer.rows = ExpertRows();
  EXPECT_GE(MoeUs(kDevice, p, {}, layer), p.fixed_us);
  EXPECT_LE(MoeUs(kDevice, p, {}, layer), p.fixed_us + 2);
}

TEST(MoeUsTest, GatelessLayersSaveAProduct) {
  const MoeParameters p = InitialParameters<MoeParameters>();
  MoeLayer layer = Layer(4096);
  const double gated = MoeUs(kDevice, p, {}, layer);
  layer.gated = false;
  EXPECT_LT(MoeUs(kDevice, p, {}, layer), gated * 0.8);
}

TEST(PrefillUsTest, ScoresAloneNeitherRotateNorWriteACache) {
  PrefillParameters p = InitialParameters<PrefillParameters>();
  AttentionPrefill shape;
  shape.batch = 4;
  shape.sequence = 4096;
  shape.heads = 32;
  shape.kv_heads = 8;
  shape.head_dim = 128;
  const double whole = PrefillUs(kDevice, p, shape);
  shape.scores_only = true;
  // Rotation reads and writes q, k and v, the cache takes k and v: 268 MB more
  // than L2 holds.
  const double bytes = 4.0 * 4096 * 128 * ((32 + 16) * 4 + 16 * 2);
  EXPECT_NEAR(whole - PrefillUs(kDevice, p, shape),
              bytes / (p.memory_share * 4e12) * 1e6, 1e-6);

  LatentPrefill latent;
  latent.batch = 4;
  latent.sequence = 4096;
  latent.heads = 32;
  const double latent_whole = LatentPrefillUs(kDevice, p, latent);
  latent.scores_only = true;
  EXPECT_LT(LatentPrefillUs(kDevice, p, latent), latent_whole);
}

TEST(GroupedMatMulUsTest, EqualsItsPartsInAnyOrder) {
  const MoeParameters p = InitialParameters<MoeParameters>();
  GroupedMatMul a = {RowsOf({100, 0, 7}), 3, 2048, 4096};
  GroupedMatMul b = {RowsOf({7, 100, 0}), 3, 2048, 4096};
  EXPECT_EQ(GroupedMatMulUs(kDevice, p, a), GroupedMatMulUs(kDevice, p, b));
  EXPECT_EQ(GroupedMatMulUs(kDevice, p, {ExpertRows(), 3, 2048, 4096}), 0);
}

TEST(PrefillUsTest, CausalHalvesLongSequences) {
  PrefillParameters p = InitialParameters<PrefillParameters>();
  AttentionPrefill shape = {4, 16384, 32, 8, 128};
  const double causal = PrefillUs(kDevice, p, shape);
  shape.causal = false;
  const double full = PrefillUs(kDevice, p, shape);
  EXPECT_GT(full, 1.8 * causal);
  EXPECT_LT(full, 2.1 * causal);
}

TEST(PrefillUsTest, AWindowMakesTimeLinear) {
  const PrefillParameters p = InitialParameters<PrefillParameters>();
  AttentionPrefill shape = {4, 8192, 32, 8, 128};
  shape.window = 128;
  const double once = PrefillUs(kDevice, p, shape);
  shape.sequence *= 2;
  EXPECT_NEAR(PrefillUs(kDevice, p, shape) / once, 2, 0.1);
}

TEST(PrefillUsTest, WindowBeyondTheSequenceChangesNothing) {
  const PrefillParameters p = InitialParameters<PrefillParameters>();
  AttentionPrefill shape = {4, 1024, 32, 8, 128};
  const double without = PrefillUs(kDevice, p, shape);
  shape.window = 1024;
  EXPECT_DOUBLE_EQ(PrefillUs(kDevice, p, shape), without);
}

TEST(KernelOfTest, FollowsGroupPrecisionAndBlocks) {
  AttentionDecode shape = {64, 1024, 32, 8, 128};
  EXPECT_EQ(KernelOf(kDevice, shape), DecodeKernel::kPerGroup);
  shape.fp8_kv_cache = true;  // 4 heads of 128 are 512 elements.
  EXPECT_EQ(KernelOf(kDevice, shape), DecodeKernel::kPerGroupFp8);
  shape.kv_heads = 1;  // 32 heads of 128 are 4096.
  EXPECT_EQ(KernelOf(kDevice, shape), DecodeKernel::kPerGroup);
  shape.kv_heads = 32;
  EXPECT_EQ(KernelOf(kDevice, shape), DecodeKernel::kPerQueryHead);
  shape.heads = 33;
  shape.kv_heads = 1;
  EXPECT_EQ(KernelOf(kDevice, shape), DecodeKernel::kPerQueryHead);
  // 3 sequences of 8 groups are 24 blocks for 100 SMs; 4 are 32.
  shape = {3, 128, 32, 8, 128};
  EXPECT_EQ(KernelOf(kDevice, shape), DecodeKernel::kPerQueryHead);
  shape.batch = 4;
  EXPECT_EQ(KernelOf(kDevice, shape), DecodeKernel::kPerGroup);
}

TEST(DecodeUsTest, LongContextsTakeTheTimeOfTheCache) {
  const DecodeParameters p = InitialParameters<DecodeParameters>();
  const AttentionDecode shape = {64, 32768, 32, 8, 128};
  const double cache = 64.0 * 32768 * 8 * 128 * 2 * 2;
  const double us = DecodeUs(kDevice, p, shape);
  EXPECT_GE(us, cache / (p.memory_share * 4e12) * 1e6);
  EXPECT_LE(us, cache / (p.memory_share * 4e12) * 1e6 * 2);
}

TEST(DecodeUsTest, AWindowBoundsTheCache) {
  const DecodeParameters p = InitialParameters<DecodeParameters>();
  AttentionDecode shape = {64, 32768, 32, 8, 128};
  shape.window = 1024;
  const double windowed = DecodeUs(kDevice, p, shape);
  shape.window = 0;
  EXPECT_LT(windowed, DecodeUs(kDevice, p, shape) / 4);
}

TEST(LatentDecodeUsTest, ReadsTheLatentOnceForUpTo64Heads) {
  const DecodeParameters p = InitialParameters<DecodeParameters>();
  LatentDecode shape = {256, 32768, 16};
  const double few = LatentDecodeUs(kDevice, p, shape);
  const double bytes = 256.0 * 32768 * 576 * 2;
  EXPECT_GE(few, bytes / (p.memory_share * 4e12) * 1e6);
  shape.heads = 128;  // Compute bound by then.
  EXPECT_GT(LatentDecodeUs(kDevice, p, shape), few);
}

// No kernel is slower on a device with more of anything.
TEST(KernelTimeTest, FasterDevicesAreNotSlower) {
  const auto mat_mul = InitialParameters<MatMulParameters>();
  const auto moe = InitialParameters<MoeParameters>();
  const auto prefill = InitialParameters<PrefillParameters>();
  const auto decode = InitialParameters<DecodeParameters>();
  for (const Device& faster :
       {Faster(2, 1), Faster(1, 2), Faster(1.1, 1.1), Faster(10, 10)}) {
    for (const int64_t size : {1, 15, 64, 65, 1000, 8192}) {
      const MatMul product = {size, 4096, 7168};
      EXPECT_LE(MatMulUs(faster, mat_mul, product),
                MatMulUs(kDevice, mat_mul, product));
      EXPECT_LE(MoeUs(faster, moe, {}, Layer(size)),
                MoeUs(kDevice, moe, {}, Layer(size)));
      const AttentionPrefill attention = {2, size, 16, 4, 128};
      EXPECT_LE(PrefillUs(faster, prefill, attention),
                PrefillUs(kDevice, prefill, attention));
      const AttentionDecode one = {size, 777, 16, 4, 128};
      EXPECT_LE(DecodeUs(faster, decode, one), DecodeUs(kDevice, decode, one));
      const LatentPrefill latent = {2, size, 16};
      EXPECT_LE(LatentPrefillUs(faster, prefill, latent),
                LatentPrefillUs(kDevice, prefill, latent));
      const LatentDecode latent_one = {size, 777, 16};
      EXPECT_LE(LatentDecodeUs(faster, decode, latent_one),
                LatentDecodeUs(kDevice, decode, latent_one));
    }
  }
}

TEST(ParameterTest, BoundsHoldTheInitialValueAndAreDistinct) {
  const auto check = [](auto parameters) {
    std::vector<double> marks;
    for (const auto& spec : SpecsOf(parameters)) {
      EXPECT_GT(spec.least, 0) << spec.name;
      EXPECT_LT(spec.least, spec.most) << spec.name;
      EXPECT_GE(spec.initial, spec.least) << spec.name;
      EXPECT_LE(spec.initial, spec.most) << spec.name;
      marks.push_back(marks.size() + 1);
    }
    // Each spec has a field of its own, or a mark would be overwritten.
    EXPECT_EQ(ValuesOf(FromValues<decltype(parameters)>(marks)), marks);
  };
  check(MatMulParameters());
  check(MoeParameters());
  check(PrefillParameters());
  check(DecodeParameters());
}

}  // namespace
}  // namespace strata
