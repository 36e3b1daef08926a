#include <algorithm>
#include <cstdint>

#include "cuda/kernels/active_clusters.h"
#include "cuda/kernels/few_rows_operands.cuh"
#include "cuda/kernels/few_rows_plan.h"
#include "cuda/kernels/few_rows_product.h"
#include "cuda/kernels/few_rows_stream.cuh"
#include "cuda/kernels/few_rows_stream.h"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/quant_round.h"
#include "cuda/kernels/resident_plan.h"
#include "cuda/kernels/sm90_quant_product.h"
#include "cuda/kernels/sm90_quant_resident.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

bool CanBeResident(const QuantProductArgs& args, const ResidentMore& more) {
  if (args.num_experts > 0 || !IsWhole(args.w)) return false;
  if (more.w.data == nullptr) return true;
  const PackedRows &a = args.w, &b = more.w;
  return more.add == nullptr && IsWhole(b) && b.n > 0 && a.bits == b.bits &&
         a.k == b.k && a.group_shift == b.group_shift;
}

}  // namespace

PackedRows DescribePacked(const uint8_t* data, int64_t n, int64_t k, int bits,
                          int64_t group, bool symmetric) {
  PackedRows w;
  w.data = data;
  w.n = n;
  w.bits = bits;
  w.k = static_cast<int>(k);
  w.group_shift = group == 32 ? 5 : group == 64 ? 6 : group == 128 ? 7 : 31;
  w.num_groups = group == 0 ? 1 : static_cast<int>(k / group);
  w.code_bytes = static_cast<int>((k + 63) / 64 * 64 * bits / 8);
  w.symmetric = symmetric;
  w.row_bytes = w.code_bytes + int64_t{w.num_groups} * (symmetric ? 2 : 3);
  return w;
}

int StreamProducts(int64_t rows) {
  return rows <= kRows ? 1 : rows <= 2 * kRows ? 2 : kMaxStreamProducts;
}

StreamWork DescribeStream(const QuantProductArgs& args) {
  const PackedRows& w = args.w;
  const auto rows = static_cast<int>(args.rows.bound);
  const int products = StreamProducts(rows), tile_rows = products * kRows;
  const int chunk = kChunkBytes * 8 / w.bits;
  // Sums of zeros: for each scale of a chunk, of every row of x.
  const int parts = chunk / std::min(1 << w.group_shift, chunk);
  StreamWork work;
  work.tiles = (w.n + kWarpRows - 1) / kWarpRows;
  work.pairs = w.code_bytes / kPairBytes;
  work.row_tiles = (rows + tile_rows - 1) / tile_rows;
  work.rows = std::min(rows, tile_rows);
  work.pair_bytes_of_row = 2 * chunk * int{sizeof(__nv_bfloat16)};
  work.pair_bytes_of_tile = 2 * parts * tile_rows * int{sizeof(float)};
  work.row_pad = kRowPad;
  return work;
}

bool HasStreamedProduct(const QuantProductArgs& args) {
  constexpr int64_t kMaxSplits = 1 << (kNumClusterSizes - 1);
  // Beyond, blocks of few rows that bring x a segment at a time are faster.
  const int64_t max_pairs_of_one = args.w.group_shift == 5 ? 31 : 32;
  // Rows of several tiles read w as often: only of weights that are soon read.
  constexpr int64_t kMaxRows = 64, kMaxCodeBytes = 2 << 20;
  const int64_t rows = args.rows.bound, pairs = args.w.code_bytes / kPairBytes;
  if (args.num_experts > 0 || !IsWhole(args.w) || rows > kMaxRows) return false;
  if (rows == 1 && pairs > max_pairs_of_one) return false;
  if (rows > 2 * kRows && args.w.n * args.w.code_bytes > kMaxCodeBytes) {
    return false;
  }
  return StreamBytesOfX(DescribeStream(args),
                        (pairs + kMaxSplits - 1) / kMaxSplits) <=
         kStreamBytes<kStreamWarps> - kRingBytes<kStreamWarps>;
}

int64_t RoundedElements(const QuantProductArgs& args) {
  const int64_t of_x = args.rows.bound * RoundedColumns(args.w);
  if (!HasStreamedProduct(args)) return of_x;
  constexpr int64_t kMaxSplits = 1 << (kNumClusterSizes - 1);
  const int64_t products = StreamProducts(args.rows.bound);
  const int64_t row_tiles =
      (args.rows.bound + products * kRows - 1) / (products * kRows);
  const int64_t tiles = row_tiles * ((args.w.n + kWarpRows - 1) / kWarpRows);
  // A tile of each block's, and what warps share of them.
  const int64_t blocks =
      std::min(kMaxSplits * tiles, kMaxStreamBlocks * row_tiles);
  const int64_t slots = kMaxSplits * tiles + kStreamWarps * blocks;
  const int64_t sums = slots * products * kRows * kWarpRows;
  return std::max(of_x, sums * int64_t{sizeof(float) / sizeof(__nv_bfloat16)});
}

cudaError_t QuantProduct(const QuantProductArgs& args, __nv_bfloat16* rounded,
                         cudaStream_t stream, const StreamChoice& only) {
  if (args.rows.bound == 0 || args.w.n == 0) return cudaSuccess;
  if (rounded != nullptr && !IsHopper()) return cudaErrorNotSupported;
  if (rounded != nullptr && HasStreamedProduct(args)) {
    auto* const sums = reinterpret_cast<float*>(rounded);
    return args.w.bits == 4 ? StreamedInt4(args, only, sums, stream)
                            : StreamedInt8(args, only, sums, stream);
  }
  if (only.splits > 0 || only.warps > 0) return cudaErrorInvalidValue;
  return args.w.bits == 4 ? FewRowsInt4(args, rounded, stream)
                          : FewRowsInt8(args, rounded, stream);
}

bool HasResidentProduct(const QuantProductArgs& args,
                        const ResidentMore& more) {
  // Fewer are streamed: up to a tile of rows where there is more in a launch,
  // or blocks of 32 rows of x.
  const bool from_tile = more.add != nullptr || more.w.data != nullptr ||
                         (args.x_bf16 != nullptr && args.w.bits == 4);
  if (args.rows.bound <= (from_tile ? kRows : 2 * kRows) ||
      !CanBeResident(args, more)) {
    return false;
  }
  return args.w.bits == 4 ? HasResidentInt4(args, more)
                          : HasResidentInt8(args, more);
}

cudaError_t ResidentProduct(const QuantProductArgs& args,
                            const ResidentChoice& only, cudaStream_t stream,
                            const ResidentMore& more) {
  if (args.rows.bound == 0 || args.w.n == 0) return cudaSuccess;
  if (!IsHopper()) return cudaErrorNotSupported;
  if (!CanBeResident(args, more)) return cudaErrorInvalidValue;
  return args.w.bits == 4 ? ResidentInt4(args, more, only, stream)
                          : ResidentInt8(args, more, only, stream);
}

cudaError_t QuantProductSm90(const QuantProductArgs& args,
                             __nv_bfloat16* rounded, cudaStream_t stream,
                             const ManyRowsChoice& only) {
  if (args.rows.bound == 0 || args.w.n == 0) return cudaSuccess;
  if (!IsHopper()) return cudaErrorNotSupported;
  const bool chosen = only.tokens > 0 || only.splits > 0 || only.pairs > 0;
  if (!chosen && HasResidentProduct(args)) {
    return ResidentProduct(args, {}, stream);
  }
  QuantProductArgs bf16 = args;
  bf16.x = nullptr;
  bf16.x_bf16 = rounded;
  if (!chosen && args.x != nullptr && args.w.k == RoundedColumns(args.w) &&
      HasResidentProduct(bf16)) {
    const cudaError_t error =
        RoundForProduct(args, RoundedOrder::kAsItLies, rounded, stream);
    return error != cudaSuccess ? error : ResidentProduct(bf16, {}, stream);
  }
  return args.w.bits == 4 ? ManyRowsInt4(args, only, rounded, stream)
                          : ManyRowsInt8(args, only, rounded, stream);
}

}  // namespace strata::gpu
