#include "sim/compute/moe_time.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "absl/types/span.h"
#include "sim/compute/device.h"
#include "sim/compute/expert_rows.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/memory_cost.h"
#include "sim/compute/parameter.h"
#include "sim/compute/tile_cost.h"

namespace strata {
namespace {

constexpr int kWidths[] = {64, 128, 256};
constexpr int kMostArea = 256 * 128;  // Accumulators fill the registers.

using Spec = ParameterSpec<MoeParameters>;
using P = MoeParameters;

constexpr Spec kSpecs[] = {
    {"fixed_us", [](P& p) -> double& { return p.fixed_us; }, 25, 2, 150},
    {"fill_us", [](P& p) -> double& { return p.tile.fill_us; }, 1, 0.01, 10},
    {"slab_ns", [](P& p) -> double& { return p.tile.slab_ns; }, 80, 5, 1000},
    {"math_share", [](P& p) -> double& { return p.tile.math_share; }, 0.7, 0.1,
     1},
    {"operand_gb_per_s",
     [](P& p) -> double& { return p.tile.operand_gb_per_s; }, 150, 10, 400},
    {"wave_share", [](P& p) -> double& { return p.tile.wave_share; }, 0.5, 0.01,
     1},
    {"fixed_tile_math_share",
     [](P& p) -> double& { return p.fixed_tile_math_share; }, 0.3, 0.05, 1},
    {"memory_share", [](P& p) -> double& { return p.memory_share; }, 0.85, 0.1,
     1},
    {"block_gb_per_s", [](P& p) -> double& { return p.block_gb_per_s; }, 30, 3,
     400},
    {"l2_gb_per_s", [](P& p) -> double& { return p.l2_gb_per_s; }, 4000, 500,
     20000},
    {"resident_share", [](P& p) -> double& { return p.resident_share; }, 0.5,
     0.05, 2},
    {"overlap", [](P& p) -> double& { return p.overlap; }, 2, 1, 16},
    {"choice_ns", [](P& p) -> double& { return p.choice_ns; }, 0.5, 0.001, 50},
    {"expert_ns", [](P& p) -> double& { return p.expert_ns; }, 20, 0.01, 2000},
    {"traffic_share", [](P& p) -> double& { return p.traffic_share; }, 0.6,
     0.03, 2},
    {"sustained_share", [](P& p) -> double& { return p.sustained_share; }, 0.9,
     0.3, 1},
    {"empty_row_ns", [](P& p) -> double& { return p.empty_row_ns; }, 2, 0.01,
     20},
};

// Tiles that the rows are cut into.
struct TileRange {
  int first_height = 0;  // in ExpertRows::kHeight
  int last_height = ExpertRows::kNumHeights - 1;
  absl::Span<const int> widths = kWidths;
};

// The first tile of TensorRT-LLM's list for Hopper's grouped products, 128 rows
// by 16 columns: what it takes where its tuner left nothing.
constexpr int kFirstHeight = 3;  // in ExpertRows::kHeight
constexpr int kFirstWidth = 16;

// A slab of such a tile takes longer the fewer of its rows hold anything; why
// is not known.
double EmptyRowsNs(double empty_row_ns, const ExpertRows& rows) {
  const double height = ExpertRows::kHeight[kFirstHeight];
  return empty_row_ns * (height - rows.rows / rows.blocks[kFirstHeight]);
}

bool IsFp8(Precision precision) {
  return precision == Precision::kFp8 || precision == Precision::kFp8Block;
}

double FlopsPerS(const Device& device, Precision precision) {
  return IsFp8(precision) && device.fp8_flops > 0 ? device.fp8_flops
                                                  : device.bf16_flops;
}

double ProductUs(const Device& device, const MoeParameters& p,
                 const TileParameters& tile_parameters, const TileRange& tiles,
                 const GroupedMatMul& shape, const ExpertRows& tuned,
                 double miss_share) {
  const double n = shape.n, k = shape.k;
  const double operand_bytes = IsFp8(shape.precision) ? 1 : 2;
  const double bytes =
      shape.rows.touched * n * k * WeightBytes(shape.precision) +
      shape.rows.rows * (k * operand_bytes + n * 2);
  const double memory = p.memory_share * device.memory_bytes_per_s;
  const SlabRates rates = {
      device.num_sms, device.num_sms / FlopsPerS(device, shape.precision) * 1e9,
      operand_bytes};
  const auto time_us = [&](const Tile& tile, double rows_blocks) {
    const double count = rows_blocks * std::ceil(n / tile.width);
    const double blocks = std::min(count, device.num_sms * MostHeld(tile));
    const double tiles_us =
        TilesUs(tile_parameters, rates, tile, count, std::ceil(k / kSlabDepth));
    const double traffic_us = TrafficUs(
        bytes, miss_share,
        {std::min(memory, blocks * p.block_gb_per_s * 1e9),
         std::min(p.l2_gb_per_s, blocks * tile_parameters.operand_gb_per_s) *
             1e9});
    return Overlapped(tiles_us, traffic_us, p.overlap);
  };
  double best = std::numeric_limits<double>::infinity();
  int best_height = 0;
  int best_width = 0;
  for (int i = tiles.first_height; i <= tiles.last_height; ++i) {
    for (const int width : tiles.widths) {
      const Tile tile = {ExpertRows::kHeight[i], width};
      if (tile.height * tile.width > kMostArea) continue;
      const double us = time_us(tile, tuned.blocks[i]);
      if (us >= best) continue;
      best = us;
      best_height = i;
      best_width = width;
    }
  }
  return time_us({ExpertRows::kHeight[best_height], best_width},
                 shape.rows.blocks[best_height]);
}

double BusyUs(const Device& device, const GroupedMatMul& shape) {
  return 2 * shape.rows.rows * shape.n * shape.k /
         FlopsPerS(device, shape.precision) * 1e6;
}

}  // namespace

absl::Span<const Spec> SpecsOf(const MoeParameters&) { return kSpecs; }

double GroupedMatMulUs(const Device& device, const MoeParameters& p,
                       const GroupedMatMul& shape) {
  if (shape.rows.rows <= 0) return 0;
  const double bytes =
      shape.rows.touched * shape.n * shape.k * WeightBytes(shape.precision);
  const double miss =
      MissShare(shape.reuse, bytes, p.resident_share * device.l2_bytes);
  return ProductUs(device, p, p.tile, TileRange(), shape, shape.rows, miss) *
         PowerLimit(BusyUs(device, shape), p.sustained_share);
}

double MoeUs(const Device& device, const MoeParameters& p,
             const MoeKernel& kernel, const MoeLayer& shape) {
  const ExpertRows& rows = shape.rows;
  const double tokens = shape.tokens, hidden = shape.hidden;
  const double inner = static_cast<double>(shape.inner) / shape.tensor_parallel;
  const double up_width = (shape.gated ? 2 : 1) * inner;
  const double local_experts =
      static_cast<double>(shape.experts) / shape.expert_parallel;
  const bool fp8 = IsFp8(shape.precision);
  const double operand_bytes = fp8 ? 1 : 2;

  GroupedMatMul up;
  up.rows = rows;
  up.n = static_cast<int64_t>(up_width);
  up.k = shape.hidden;
  up.precision = shape.precision;
  GroupedMatMul down = up;
  down.n = shape.hidden;
  down.k = static_cast<int64_t>(inner);

  TileRange tiles;
  TileParameters tile_parameters = p.tile;
  if (kernel.fixed_tiles) {
    static constexpr int kSmall = 32, kLarge = 64;
    const bool few = tokens <= local_experts;
    tiles.first_height = tiles.last_height = few ? 0 : 2;
    tiles.widths = absl::MakeConstSpan(few ? &kSmall : &kLarge, 1);
    tile_parameters.math_share = p.fixed_tile_math_share;
  }
  if (shape.untuned && rows.rows > 0) {
    tiles.first_height = tiles.last_height = kFirstHeight;
    tiles.widths = absl::MakeConstSpan(&kFirstWidth, 1);
    tile_parameters.extra_slab_ns = EmptyRowsNs(p.empty_row_ns, rows);
  }
  // Libraries choose tiles by trying them on even loads.
  const ExpertRows tuned =
      EvenRows(tokens * shape.top_k / shape.expert_parallel,
               std::max<int64_t>(1, std::llround(local_experts)));
  double products_us = 0;
  if (rows.rows > 0) {
    const double working_bytes = rows.touched * (up_width + inner) * hidden *
                                     WeightBytes(shape.precision) +
                                 rows.rows * (hidden + up_width + inner) * 2;
    const double miss = MissShare(shape.reuse, working_bytes,
                                  p.resident_share * device.l2_bytes);
    products_us =
        (ProductUs(device, p, tile_parameters, tiles, up, tuned, miss) +
         ProductUs(device, p, tile_parameters, tiles, down, tuned, miss)) *
        PowerLimit(BusyUs(device, up) + BusyUs(device, down),
                   p.sustained_share);
  }

  // Rows are gathered, activated and summed; FP8 quantises both operands.
  const double passed =
      kernel.passes_all_choices ? tokens * shape.top_k : rows.rows;
  const double row_bytes = hidden * 2 * 2 + up_width * 2 +
                           inner * operand_bytes + (fp8 ? hidden * 3 : 0);
  // Those libraries also write the products' zero rows.
  const double zero_row_bytes =
      kernel.passes_all_choices ? (up_width + 1.5 * inner) * 2 : 0;
  // Each token's sum is written; a rank's own rows are read.
  const double traffic = (tokens + std::min(tokens, passed)) * hidden * 2 +
                         passed * (row_bytes + zero_row_bytes);
  return p.fixed_us + products_us +
         traffic / (p.traffic_share * device.memory_bytes_per_s) * 1e6 +
         (p.choice_ns * tokens * shape.top_k + p.expert_ns * local_experts) *
             1e-3;
}

}  // namespace strata
