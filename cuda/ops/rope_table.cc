#include "cuda/ops/rope_table.h"

#include "core/ops/rope.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {

bool MakeRopeTable(const KernelContext& ctx, RopeTable& table) {
  RopeOptions options;
  options.num_heads = ctx.Int("num_heads");
  options.rotary_dim = ctx.Int("rotary_dim");
  options.theta = ctx.Double("theta");
  options.interleaved = ctx.Int("interleaved") != 0;
  options.magnitude = ctx.Double("magnitude");
  options.stretch = static_cast<RopeStretch>(ctx.Int("stretch"));
  options.factor = ctx.Double("factor");
  options.original_len = ctx.Double("original_len");
  options.low = ctx.Double("low");
  options.high = ctx.Double("high");
  options.truncate = ctx.Int("truncate") != 0;
  if (options.rotary_dim > 2 * RopeTable::kMaxHalf) return false;

  table.num_heads = options.num_heads;
  table.half = static_cast<int>(options.rotary_dim / 2);
  table.interleaved = options.interleaved;
  table.magnitude = options.magnitude;
  table.turn = ctx.Int("inverse") != 0 ? -options.magnitude : options.magnitude;
  table.dynamic = options.stretch == RopeStretch::kDynamic;
  table.theta = options.theta;
  table.factor = options.factor;
  table.original_len = options.original_len;
  if (!table.dynamic) RopeFrequencies(options, /*seq_len=*/0, table.frequency);
  return true;
}

}  // namespace strata::gpu
