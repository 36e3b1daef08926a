#include <cstdint>

#include "cuda/ops/cache/packed_cache.h"
#include "cuda/ops/cache/packed_group.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

struct WriteArgs {
  Extent tokens;
  int64_t slots = 0, row_bytes = 0, head_bytes = 0;
  int num_heads = 1, columns = 0;
  PackedRounding rounding;
  const float* rows = nullptr;
  const int32_t* row = nullptr;
  uint8_t* cache = nullptr;
  FaultSink fault;
};

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
      PackGroup(args.rounding, c < args.columns ? x[c] : 0.f, to);
      to += PackedGroupBytes(args.rounding.format);
    }
  }
}

}  // namespace

cudaError_t WritePacked(const KernelContext& ctx, const Operand& cache,
                        const Operand& rows, const Operand& row,
                        int64_t num_heads, const PackedRounding& rounding) {
  WriteArgs args;
  args.tokens = rows.rows();
  args.slots = cache.dim(0);
  args.row_bytes = cache.dim(1);
  args.num_heads = static_cast<int>(num_heads);
  args.head_bytes = args.row_bytes / args.num_heads;
  args.columns = static_cast<int>(rows.dim(1) / args.num_heads);
  args.rounding = rounding;
  args.rows = rows.as<float>();
  args.row = row.as<int32_t>();
  args.cache = cache.as<uint8_t>();
  args.fault = ctx.fault;
  PackedWriteKernel<<<BlocksForRows(rows.dim(0) * args.num_heads), kBlock, 0,
                      ctx.stream>>>(args);
  return cudaGetLastError();
}

namespace {

cudaError_t RunPackedCacheWrite(const KernelContext& ctx) {
  return WritePacked(ctx, ctx.in(0), ctx.in(1), ctx.in(2), ctx.Int("num_heads"),
                     PackedRoundingOf(ctx));
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
