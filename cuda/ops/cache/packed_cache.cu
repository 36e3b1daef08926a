#include <cmath>
#include <cstdint>

#include "cuda/ops/cache/bf16_number.cuh"
#include "cuda/ops/cache/packed_cache.h"
#include "cuda/ops/cache/packed_head.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// Rounding a head is the CPU's, bit for bit (core/quant/cache_format.cc): what
// one has stored the other may read.

namespace strata::gpu {
namespace {

// Added and taken away it rounds to the nearest integer, ties to even.
constexpr float kRounder = 12582912;  // 1.5 * 2^23
constexpr uint16_t kNan = 0x7FC0;

struct WriteArgs {
  Extent tokens;
  int64_t slots = 0, row_bytes = 0, head_bytes = 0;
  int num_heads = 1, columns = 0;
  PackedFormat format = PackedFormat::kBf16;
  bool power_of_two = false;  // Scales are powers of two, and positive.
  const float* rows = nullptr;
  const int32_t* row = nullptr;
  uint8_t* cache = nullptr;
  FaultSink fault;
};

// The BF16 next to x that is at least as far from zero.
__device__ __forceinline__ uint16_t RoundAway(float x) {
  return static_cast<uint16_t>((__float_as_uint(x) + 0xFFFF) >> 16);
}

// Of a group whose element of largest magnitude is `extreme`.
__device__ __forceinline__ uint16_t ScaleOf(const WriteArgs& args,
                                            float extreme) {
  const bool eight = args.format == PackedFormat::kInt8;
  const float levels = eight ? 127 : 7.5f;
  if (!args.power_of_two) {
    return RoundAway(eight ? __fdiv_rn(fabsf(extreme), levels)
                           : __fdiv_rn(extreme, -8));
  }
  if (extreme == 0) return 0;
  int exponent;
  const float m = frexpf(__fdiv_rn(fabsf(extreme), levels), &exponent);
  return RoundAway(ldexpf(1.f, m == 0.5f ? exponent - 1 : exponent));
}

// Lanes' bytes, the even lanes' with their neighbours', those of lanes below
// `count`.
__device__ __forceinline__ void StorePairs(int byte, int count, uint8_t* to) {
  const int next = __shfl_down_sync(kWholeWarp, byte, 1);
  if (Lane() % 2 != 0 || Lane() >= count) return;
  reinterpret_cast<uint16_t*>(to)[Lane() / 2] =
      static_cast<uint16_t>((byte & 255) | (next & 255) << 8);
}

// A group, a lane a column: x, 0 where there is none.
__device__ void PackGroup(const WriteArgs& args, float x, uint8_t* to) {
  if (args.format == PackedFormat::kBf16) {
    reinterpret_cast<__nv_bfloat16*>(to)[Lane()] = CachedBf16(x);
    return;
  }
  const bool finite = __all_sync(kWholeWarp, isfinite(x));
  // Of several of that magnitude the first one's sign counts.
  const float largest = WarpMax(fabsf(x));
  const int first = __ffs(__ballot_sync(kWholeWarp, fabsf(x) == largest)) - 1;
  const float extreme = __shfl_sync(kWholeWarp, x, max(first, 0));
  const uint16_t stored = finite ? ScaleOf(args, extreme) : kNan;
  const float scale = WidenBits(stored);
  int code = 0;
  if (finite && scale != 0) {
    code = static_cast<int>(
        __fsub_rn(__fadd_rn(__fdiv_rn(x, scale), kRounder), kRounder));
  }
  if (args.format == PackedFormat::kInt8) {
    StorePairs(min(max(code, -127), 127), kPackedGroup, to);
  } else {
    constexpr int kHalf = kPackedGroup / 2;
    const int low = min(max(code, -8), 7) + 8;
    const int high = __shfl_down_sync(kWholeWarp, low, kHalf);
    StorePairs(low | high << 4, kHalf, to);
  }
  if (Lane() == 0) {
    *reinterpret_cast<uint16_t*>(to + PackedCodeBytes(args.format)) = stored;
  }
}

// A warp a head of a token.
__global__ void __launch_bounds__(kBlock) PackedWriteKernel(WriteArgs args) {
  const int64_t n = args.tokens.Get() * args.num_heads;
  for (int64_t i = FirstRow(); i < n; i += RowStride()) {
    const int64_t token = i / args.num_heads, head = i % args.num_heads;
    const int64_t row = args.row[token];
    if (row < 0 || row >= args.slots) {
      if (Lane() == 0 && head == 0) {
        args.fault.Report(FaultKind::kCacheRow, token, row, args.slots);
      }
      continue;
    }
    const float* const x = args.rows + i * args.columns;
    uint8_t* to = args.cache + row * args.row_bytes + head * args.head_bytes;
    for (int c = Lane(); c - Lane() < args.columns; c += kPackedGroup) {
      PackGroup(args, c < args.columns ? x[c] : 0.f, to);
      to += PackedGroupBytes(args.format);
    }
  }
}

cudaError_t RunPackedCacheWrite(const KernelContext& ctx) {
  const Operand& cache = ctx.in(0);
  const Operand& rows = ctx.in(1);
  WriteArgs args;
  args.tokens = rows.rows();
  args.slots = cache.dim(0);
  args.row_bytes = cache.dim(1);
  args.num_heads = static_cast<int>(ctx.Int("num_heads"));
  args.head_bytes = args.row_bytes / args.num_heads;
  args.columns = static_cast<int>(rows.dim(1) / args.num_heads);
  args.format = static_cast<PackedFormat>(ctx.Int("format"));
  args.power_of_two = ctx.Int("attention_bits") > 0;
  args.rows = rows.as<float>();
  args.row = ctx.in(2).as<int32_t>();
  args.cache = cache.as<uint8_t>();
  args.fault = ctx.fault;
  PackedWriteKernel<<<BlocksForRows(rows.dim(0) * args.num_heads), kBlock, 0,
                      ctx.stream>>>(args);
  return cudaGetLastError();
}

// --- Rows copied ---

// Words of `Word` to a row; a warp a row.
template <typename Word>
__global__ void __launch_bounds__(kBlock)
    CopyRowsKernel(Extent rows, int64_t slots, int64_t words,
                   const int32_t* from, const int32_t* to, Word* cache,
                   FaultSink fault) {
  for (int64_t i = FirstRow(); i < rows.Get(); i += RowStride()) {
    const int64_t a = from[i], b = to[i];
    const bool valid = a >= 0 && a < slots && b >= 0 && b < slots;
    if (!valid) {
      const int64_t wrong = a >= 0 && a < slots ? b : a;
      if (Lane() == 0) fault.Report(FaultKind::kCacheRow, i, wrong, slots);
      continue;
    }
    for (int64_t c = Lane(); c < words; c += kWarp) {
      cache[b * words + c] = cache[a * words + c];
    }
  }
}

template <typename Word>
void LaunchCopy(const KernelContext& ctx, int64_t row_bytes) {
  const Operand& cache = ctx.in(0);
  const Operand& from = ctx.in(1);
  CopyRowsKernel<Word><<<BlocksForRows(from.dim(0)), kBlock, 0, ctx.stream>>>(
      from.rows(), cache.dim(0), row_bytes / static_cast<int64_t>(sizeof(Word)),
      from.as<int32_t>(), ctx.in(2).as<int32_t>(), cache.as<Word>(), ctx.fault);
}

cudaError_t RunCopyCacheRows(const KernelContext& ctx) {
  const int64_t row_bytes = ctx.in(0).columns() * ctx.in(0).element_size;
  if (row_bytes % 16 == 0) {
    LaunchCopy<uint4>(ctx, row_bytes);
  } else if (row_bytes % 4 == 0) {
    LaunchCopy<uint32_t>(ctx, row_bytes);
  } else {
    LaunchCopy<uint8_t>(ctx, row_bytes);
  }
  return cudaGetLastError();
}

}  // namespace

void RegisterPackedCacheKernels(KernelRegistry& kernels) {
  kernels.Register("PackedCacheWrite", RunPackedCacheWrite);
  kernels.Register("CopyCacheRows", RunCopyCacheRows);
}

}  // namespace strata::gpu
