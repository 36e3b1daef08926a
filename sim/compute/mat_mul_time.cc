#include "sim/compute/mat_mul_time.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/types/span.h"
#include "sim/compute/device.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/memory_cost.h"
#include "sim/compute/parameter.h"
#include "sim/compute/tile_cost.h"

namespace strata {
namespace {

// What CUTLASS and cuBLAS have kernels for: an instruction's 64 rows by a
// multiple of its columns, either way round.
constexpr Tile kTiles[] = {{16, 64},   {16, 128},  {32, 64},  {32, 128},
                           {64, 16},   {64, 32},   {64, 64},  {64, 128},
                           {64, 256},  {128, 16},  {128, 32}, {128, 64},
                           {128, 128}, {128, 256}, {256, 64}, {256, 128}};
constexpr int kMostSplits = 16;
constexpr double kLeastSlabsOfSplit = 4;
constexpr double kMostCopies = 5;

using Spec = ParameterSpec<MatMulParameters>;
using P = MatMulParameters;

constexpr Spec kSpecs[] = {
    {"launch_us", [](P& p) -> double& { return p.launch_us; }, 2.4, 0.5, 30},
    {"fill_us", [](P& p) -> double& { return p.tile.fill_us; }, 0.5, 0.01, 10},
    {"slab_ns", [](P& p) -> double& { return p.tile.slab_ns; }, 80, 5, 1000},
    {"math_share", [](P& p) -> double& { return p.tile.math_share; }, 0.8, 0.1,
     1},
    {"operand_gb_per_s",
     [](P& p) -> double& { return p.tile.operand_gb_per_s; }, 150, 10, 400},
    {"wave_share", [](P& p) -> double& { return p.tile.wave_share; }, 0.5, 0.01,
     1},
    {"memory_share", [](P& p) -> double& { return p.memory_share; }, 0.85, 0.2,
     1},
    {"block_gb_per_s", [](P& p) -> double& { return p.block_gb_per_s; }, 60, 5,
     400},
    {"l2_gb_per_s", [](P& p) -> double& { return p.l2_gb_per_s; }, 4000, 500,
     20000},
    {"resident_share", [](P& p) -> double& { return p.resident_share; }, 0.5,
     0.05, 2},
    {"split_us", [](P& p) -> double& { return p.split_us; }, 2, 0.01, 20},
    {"overlap", [](P& p) -> double& { return p.overlap; }, 2.5, 1, 16},
    {"sustained_share", [](P& p) -> double& { return p.sustained_share; }, 0.9,
     0.3, 1},
    {"quantise_us", [](P& p) -> double& { return p.quantise_us; }, 8, 0.01, 40},
    {"quantise_share", [](P& p) -> double& { return p.quantise_share; }, 0.5,
     0.05, 4},
};

}  // namespace

absl::Span<const Spec> SpecsOf(const MatMulParameters&) { return kSpecs; }

double MatMulUs(const Device& device, const MatMulParameters& p,
                const MatMul& shape) {
  const double m = shape.m, n = shape.n, k = shape.k;
  const bool fp8 = shape.precision == Precision::kFp8 ||
                   shape.precision == Precision::kFp8Block;
  const double operand_bytes = fp8 ? 1 : 2;
  const double flops_per_s =
      fp8 && device.fp8_flops > 0 ? device.fp8_flops : device.bf16_flops;
  const double weight_bytes = n * k * WeightBytes(shape.precision);
  const double activation_bytes = m * k * operand_bytes + m * n * 2;
  const double copies =
      std::clamp(std::ceil(device.l2_bytes / weight_bytes), 1.0, kMostCopies);
  const double miss =
      MissShare(shape.reuse, copies * weight_bytes + activation_bytes,
                p.resident_share * device.l2_bytes);
  const double bytes = weight_bytes + activation_bytes;
  const double memory = p.memory_share * device.memory_bytes_per_s;
  const double slabs = std::ceil(k / kSlabDepth);
  const SlabRates rates = {device.num_sms, device.num_sms / flops_per_s * 1e9,
                           operand_bytes};

  double best = std::numeric_limits<double>::infinity();
  for (const Tile& tile : kTiles) {
    const double tiles = std::ceil(m / tile.height) * std::ceil(n / tile.width);
    for (int split = 1; split <= kMostSplits; split *= 2) {
      if (split > 1 && (tiles * split > 4 * device.num_sms ||
                        slabs / split < kLeastSlabsOfSplit)) {
        break;
      }
      const double blocks =
          std::min(tiles * split, device.num_sms * MostHeld(tile));
      const double tiles_us =
          TilesUs(p.tile, rates, tile, tiles * split, std::ceil(slabs / split));
      const double traffic_us = TrafficUs(
          bytes, miss,
          {std::min(memory, blocks * p.block_gb_per_s * 1e9),
           std::min(p.l2_gb_per_s, blocks * p.tile.operand_gb_per_s) * 1e9});
      // Each part is written and read in FP32.
      const double parts_us =
          split == 1 ? 0
                     : p.split_us + split * m * n * 8 / (p.l2_gb_per_s * 1e3);
      // A bound first: most tiles are far from the best.
      if (std::max(tiles_us, traffic_us) + parts_us >= best) continue;
      best = std::min(best,
                      Overlapped(tiles_us, traffic_us, p.overlap) + parts_us);
    }
  }
  const double busy_us = 2 * m * n * k / flops_per_s * 1e6;
  double us = p.launch_us + best * PowerLimit(busy_us, p.sustained_share);
  if (fp8 && !shape.quantised) {
    // BF16 read twice, for the scale and for the quotient, and FP8 written.
    us += p.quantise_us +
          m * k * 5 / (p.quantise_share * device.memory_bytes_per_s) * 1e6;
  }
  return us;
}

}  // namespace strata
