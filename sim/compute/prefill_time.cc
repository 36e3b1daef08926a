#include "sim/compute/prefill_time.h"

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

constexpr double kKeys = 64;  // of a block
constexpr double kNarrowDim = 64;

using Spec = ParameterSpec<PrefillParameters>;
using P = PrefillParameters;

constexpr Spec kSpecs[] = {
    {"launch_us", [](P& p) -> double& { return p.launch_us; }, 10, 1, 60},
    {"wide_us", [](P& p) -> double& { return p.wide_us; }, 0.5, 0.01, 20},
    {"tile_us", [](P& p) -> double& { return p.tile_us; }, 2, 0.01, 20},
    {"tile_dim", [](P& p) -> double& { return p.tile_dim; }, 128, 4, 10000},
    {"math_share", [](P& p) -> double& { return p.math_share; }, 0.65, 0.1, 2},
    {"softmax_ns", [](P& p) -> double& { return p.softmax_ns; }, 50, 1, 5000},
    {"step_ns", [](P& p) -> double& { return p.step_ns; }, 500, 10, 5000},
    {"window_blocks", [](P& p) -> double& { return p.window_blocks; }, 2, 0.01,
     20},
    {"wave_share", [](P& p) -> double& { return p.wave_share; }, 0.8, 0.01, 1},
    {"memory_share", [](P& p) -> double& { return p.memory_share; }, 0.8, 0.05,
     1},
    {"l2_gb_per_s", [](P& p) -> double& { return p.l2_gb_per_s; }, 4000, 500,
     20000},
    {"resident_share", [](P& p) -> double& { return p.resident_share; }, 0.8,
     0.05, 2},
    {"sustained_share", [](P& p) -> double& { return p.sustained_share; }, 0.95,
     0.3, 1},
};

// Heads of a batch of sequences.
struct Scores {
  double sequences_heads = 0;  // batch * heads
  double sequence = 0;
  double qk_dim = 0;
  double v_dim = 0;
  double window = 0;  // infinite for none
  bool causal = true;
  double bytes = 0;  // of everything read and written but scores
};

// Blocks of keys that the tiles of one head walk.
struct Walk {
  double mean = 0;
  double longest = 0;
};

Walk WalkOf(const PrefillParameters& p, const Scores& s, double queries) {
  const double tiles = std::ceil(s.sequence / queries);
  const double all = std::ceil(s.sequence / kKeys);
  if (!s.causal) return {all, all};
  const double blocks_per_tile = queries / kKeys;
  // Tiles whose window still reaches the first key.
  const double ramp = std::min(tiles, std::floor(s.window / queries));
  double total = blocks_per_tile * ramp * (ramp + 1) / 2;
  double longest = blocks_per_tile * ramp;
  if (tiles > ramp) {
    longest = std::ceil((s.window + queries) / kKeys) + p.window_blocks;
    total += (tiles - ramp) * longest;
  }
  if (tiles == 1) return {all, all};
  return {total / tiles, std::min(longest, all)};
}

double ScoresUs(const Device& device, const PrefillParameters& p,
                const Scores& s) {
  const double ns_per_flop =
      device.num_sms / (device.bf16_flops * p.math_share) * 1e9;
  const double dim = (s.qk_dim + s.v_dim) / 2;
  const double tile_us = p.tile_us * (1 + dim / p.tile_dim);
  double best = std::numeric_limits<double>::infinity();
  for (const double queries : {64.0, 128.0}) {
    const Walk walk = WalkOf(p, s, queries);
    const double tiles = s.sequences_heads * std::ceil(s.sequence / queries);
    const double most_held = queries == 64 ? 2 : 1;
    const double held =
        std::clamp(std::ceil(tiles / device.num_sms), 1.0, most_held);
    const double work_ns = 4 * queries * kKeys * dim * ns_per_flop +
                           p.softmax_ns * queries / kKeys;
    const double block_us =
        std::max(p.step_ns * (0.5 + dim / 256), held * work_ns) * 1e-3;
    const double waves = Waves(tiles, held * device.num_sms, p.wave_share);
    best = std::min(best, std::max(tile_us + walk.longest * block_us,
                                   waves * (tile_us + walk.mean * block_us)));
  }
  // Activations have just been written: what fits in L2 is there.
  const double miss =
      MissShare(Reuse::kRepeated, s.bytes, p.resident_share * device.l2_bytes);
  return p.launch_us + (dim > kNarrowDim ? p.wide_us : 0) +
         best * PowerLimit(best, p.sustained_share) +
         TrafficUs(
             s.bytes, miss,
             {p.memory_share * device.memory_bytes_per_s, p.l2_gb_per_s * 1e9});
}

}  // namespace

absl::Span<const Spec> SpecsOf(const PrefillParameters&) { return kSpecs; }

double PrefillUs(const Device& device, const PrefillParameters& p,
                 const AttentionPrefill& shape) {
  const double tokens = static_cast<double>(shape.batch) * shape.sequence;
  const double heads = shape.heads, kv_heads = shape.kv_heads,
               dim = shape.head_dim;
  Scores s;
  s.sequences_heads = shape.batch * heads;
  s.sequence = shape.sequence;
  s.qk_dim = s.v_dim = dim;
  s.window =
      shape.window > 0 ? shape.window : std::numeric_limits<double>::infinity();
  s.causal = shape.causal;
  // Rotation reads and writes q, k, v; the cache takes k, v; attention reads
  // q, k, v and writes its output.
  s.bytes = tokens * dim * (2 * heads + 2 * kv_heads) * 2;
  if (!shape.scores_only) {
    s.bytes += tokens * dim *
               ((heads + 2 * kv_heads) * 4 +
                2 * kv_heads * (shape.fp8_kv_cache ? 1 : 2));
  }
  return ScoresUs(device, p, s);
}

double LatentPrefillUs(const Device& device, const PrefillParameters& p,
                       const LatentPrefill& shape) {
  const double tokens = static_cast<double>(shape.batch) * shape.sequence;
  const double heads = shape.heads;
  Scores s;
  s.sequences_heads = shape.batch * heads;
  s.sequence = shape.sequence;
  s.qk_dim = shape.nope + shape.rope;
  s.v_dim = shape.value_dim;
  s.window = std::numeric_limits<double>::infinity();
  const double head_dims = 2 * s.qk_dim + s.v_dim;  // q, k, v of a head
  // Only the rotary part of q and k is rotated, in place.
  s.bytes = tokens * heads * (head_dims + s.v_dim) * 2;
  if (!shape.scores_only) {
    s.bytes +=
        tokens * (heads * 2 * shape.rope * 4 +
                  (shape.latent + shape.rope) * (shape.fp8_kv_cache ? 1 : 2));
  }
  return ScoresUs(device, p, s);
}

}  // namespace strata
