#include <cstdint>

#include "core/quant/log_levels.h"
#include "cuda/ops/attend.cuh"
#include "cuda/ops/cache/cached_rows.cuh"
#include "cuda/ops/cache/decode_paths.cuh"
#include "cuda/ops/cache/packed_cache.h"
#include "cuda/ops/cache/packed_decode.h"
#include "cuda/ops/cache/packed_head.cuh"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

// Kernels of decoding where heads allow them; else, and for probabilities in
// powers of two, the plain one, which unpacks keys on their way to shared
// memory.

namespace strata::gpu {
namespace {

// As core/ops/packed_cache.h has them.
enum PackedInput { kQ, kK, kV, kTable, kWhere, kPosition };

// Probabilities: floats, or the nearest powers of two (core/quant/log_levels.h)
// of what they are of the row's largest.
struct PackedWeight {
  int steps = 0;  // To an octave; 0: floats.
  float half_step = 1;
  float fraction[4] = {1, 1, 1, 1};

  // LogLevels::value(CodeOf(exp(below))).
  __device__ __forceinline__ float operator()(float below) const {
    const float ratio = expf(below);
    if (steps == 0 || isnan(ratio)) return ratio;
    const uint32_t bits = __float_as_uint(ratio * half_step);
    const float mantissa = __uint_as_float((bits & 0x7FFFFF) | 0x3F800000);
    const int exponent = static_cast<int>(bits >> 23 & 255) - 127;
    int step = 0;
#pragma unroll
    for (int k = 1; k < 4; ++k) step += k < steps && mantissa >= fraction[k];
    if (exponent >= 0) return 1;
    if (exponent * steps + step <= -LogLevels::kOctaves * steps) return 0;
    // Its step's lower end, at a power of two that is not below 2^-16.
    const float octave =
        __uint_as_float(static_cast<uint32_t>(exponent + 127) << 23);
    return octave * (step == 0   ? 1.f
                     : step == 1 ? fraction[1]
                     : step == 2 ? fraction[2]
                                 : fraction[3]);
  }
};
using Args = CachedArgs<PackedCache, PackedWeight>;

PackedWeight WeightOf(int bits) {
  PackedWeight weight;
  if (bits == 0) return weight;
  const LogLevels levels(bits);
  weight.steps = levels.steps_per_octave();
  weight.half_step = levels.half_step();
  for (int k = 0; k < 4; ++k) weight.fraction[k] = levels.fraction(k);
  return weight;
}

CachePlaces PlacesOf(const KernelContext& ctx) {
  const Operand& where = ctx.in(kWhere);
  const Operand& position = ctx.in(kPosition);
  const int64_t slots = ctx.in(kK).dim(0);
  return ctx.has(kTable) ? BlockPlaces(ctx.in(kTable), ctx.Int("block_size"),
                                       where, position, slots)
                         : RowPlaces(where, position, slots);
}

PackedCache CacheOf(const KernelContext& ctx, int input, int64_t num_kv_heads) {
  const Operand& cache = ctx.in(input);
  return {cache.as<uint8_t>(), cache.dim(1), cache.dim(1) / num_kv_heads,
          static_cast<PackedFormat>(ctx.Int("format"))};
}

Args ReadArgs(const KernelContext& ctx) {
  const Operand& q = ctx.in(kQ);
  const int64_t num_kv_heads = ctx.Int("num_kv_heads");
  const bool latent = !ctx.has(kV);
  Args args;
  args.tokens = q.rows();
  args.num_heads = static_cast<int>(ctx.Int("num_heads"));
  args.sizes.key_dim = static_cast<int>(q.dim(1) / args.num_heads);
  args.sizes.value_dim = static_cast<int>(ctx.Int("value_dim"));
  args.sizes.scale = ctx.Float("scale");
  args.window = ctx.Int("window");
  args.values_are_keys = latent;
  args.q = q.as<float>();
  args.k = CacheOf(ctx, kK, num_kv_heads);
  args.v = latent ? args.k : CacheOf(ctx, kV, num_kv_heads);
  static_cast<CachePlaces&>(args.places) = PlacesOf(ctx);
  args.weight = WeightOf(static_cast<int>(ctx.Int("attention_bits")));
  args.fault = ctx.fault;
  return args;
}

cudaError_t Run(const KernelContext& ctx, bool old_keys_stay) {
  const int64_t num_kv_heads = ctx.Int("num_kv_heads");
  const int64_t bits = ctx.Int("attention_bits");
  const bool latent = !ctx.has(kV);
  const Args args = ReadArgs(ctx);
  const bool bf16 = args.k.format == PackedFormat::kBf16;
  if (latent && bits == 0 && num_kv_heads == 1 &&
      ctx.precision == Precision::kBf16 &&
      HasLatentDecode(args.sizes.value_dim, args.sizes.key_dim)) {
    return RunLatents(ctx, args, args.k.data, args.k.format);
  }
  DecodeAttentionArgs decode = DecodeHeads(ctx, args, num_kv_heads);
  decode.bf16_cache = bf16;
  decode.old_keys_stay = old_keys_stay;
  // Heads of whole groups, as which those of BF16 lie as in a plain cache.
  const bool has_kernel =
      !latent && bits == 0 && args.sizes.key_dim == args.sizes.value_dim &&
      (bf16 ? HasDecodeAttention(decode) : HasPackedDecode(decode));
  if (!has_kernel) {
    return RunCached(ctx, num_kv_heads, args,
                     /*weights_want_largest=*/bits > 0);
  }
  const bool in_bytes = !bf16 && ctx.precision != Precision::kF32;
  if (in_bytes) {
    decode.kv_heads_of_block = PackedHeadsOfBlock(decode, args.k.format);
  }
  if (!TakePieces(ctx, decode)) return cudaErrorMemoryAllocation;
  if (bf16) return DecodeAttention(decode, ctx.stream);
  return in_bytes ? PackedDecodeInBytes(decode, args.k.format, ctx.stream)
                  : PackedDecode(decode, args.k.format, ctx.stream);
}

}  // namespace

cudaError_t RunPackedAttention(const KernelContext& ctx) {
  return Run(ctx, /*old_keys_stay=*/false);
}

cudaError_t RunPackedAttentionAhead(const KernelContext& ctx) {
  return Run(ctx, /*old_keys_stay=*/true);
}

cudaError_t ReadPackedLatents(const KernelContext& ctx,
                              LatentDecodeArgs& args) {
  const Args packed = ReadArgs(ctx);
  args.format = packed.k.format;
  return ReadLatents(ctx, packed, packed.k.data, args);
}

void RegisterPackedAttentionKernels(KernelRegistry& kernels) {
  kernels.Register("PackedAttention", RunPackedAttention);
}

}  // namespace strata::gpu
