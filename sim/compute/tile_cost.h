// The cost of a product that is cut into tiles, one thread block each.
//
//   c [rows, n], in tiles of height by width; k in slabs of 64
//
//     tile   = fill + slabs * max(latency, arithmetic, operands) of a slab
//              (of the tiles that nobody tuned more than that)
//     waves  = tiles over the tiles that all SMs hold at once, rounded up by
//              `wave_share`
//     time   = waves * tile
//
// Small tiles share an SM, so that the latency of one hides behind the
// arithmetic of the others. Operands come from L2, each SM's share of it;
// thread blocks that share operands (clusters) make that share look larger.

#ifndef SIM_COMPUTE_TILE_COST_H_
#define SIM_COMPUTE_TILE_COST_H_

#include <algorithm>
#include <cmath>

namespace strata {

struct TileParameters {
  double fill_us = 0;           // to fill and drain a tile's pipeline
  double slab_ns = 0;           // latency of a step of 64 along k
  double math_share = 0;        // of the peak rate, in the main loop
  double operand_gb_per_s = 0;  // of one SM, from L2
  double wave_share = 0;        // 1: a part of a wave costs a whole one
  double extra_slab_ns = 0;     // of a slab, beside what is above
};

// A tile of c. Libraries have kernels for a few sizes and choose by the shape.
struct Tile {
  int height = 0;  // rows
  int width = 0;   // columns
};

// Depth of the slabs in which the main loop takes k.
inline constexpr double kSlabDepth = 64;

// Waves of `blocks` on `slots`: between the exact share and the next whole
// number, at least one.
inline double Waves(double blocks, double slots, double wave_share) {
  const double waves = blocks / slots;
  if (waves <= 1) return 1;
  return waves + wave_share * (std::ceil(waves - 1e-9) - waves);
}

// Tiles that an SM has room for: its accumulators are in registers.
inline double MostHeld(const Tile& tile) {
  const int area = tile.height * tile.width;
  if (area <= 16 * 64) return 8;
  if (area <= 64 * 64) return 4;
  if (area <= 128 * 128) return 2;
  return 1;
}

// What tiles run on.
struct SlabRates {
  double num_sms = 0;
  double ns_per_flop = 0;    // of one SM
  double operand_bytes = 0;  // of an element
};

// Microseconds of `tiles` tiles with `slabs` slabs of k each.
inline double TilesUs(const TileParameters& p, const SlabRates& rates,
                      const Tile& tile, double tiles, double slabs) {
  const double area = static_cast<double>(tile.height) * tile.width;
  const double held =
      std::clamp(std::ceil(tiles / rates.num_sms - 1e-9), 1.0, MostHeld(tile));
  const double math_ns =
      2 * kSlabDepth * area * rates.ns_per_flop / p.math_share;
  const double operand_ns = kSlabDepth * (tile.height + tile.width) *
                            rates.operand_bytes / p.operand_gb_per_s;
  const double slab_ns =
      std::max({p.slab_ns, held * math_ns, held * operand_ns}) +
      held * p.extra_slab_ns;
  return Waves(tiles, held * rates.num_sms, p.wave_share) *
         (p.fill_us + slabs * slab_ns * 1e-3);
}

}  // namespace strata

#endif  // SIM_COMPUTE_TILE_COST_H_
