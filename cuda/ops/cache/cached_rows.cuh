// Tokens that attend to rows of a cache, of any widths and formats: the plain
// kernel, which faster ones stand beside where shapes allow it
// (cuda/ops/heads/decode_attention.h, cuda/ops/decode/latent_decode.h).
//
//   block (token, KV head and a chunk of its heads, split of its keys)
//     --> o [t, heads, splits, value_dim], max and sum [t, heads, splits]
//     --> joined: o [t, heads * value_dim]

#ifndef CUDA_OPS_CACHE_CACHED_ROWS_CUH_
#define CUDA_OPS_CACHE_CACHED_ROWS_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/ops/attend.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/cache_places.cuh"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {

// The most pieces that a token's keys are cut into, so that few tokens over
// many keys fill the GPU, too.
constexpr int kMaxCachedSplits = 32;
constexpr int64_t kWantedBlocks = 132 * 2;

// `Cache` has a type Line, as Attend() takes rows, and
//   Line At(int64_t row, int64_t kv_head) const;
// `Weight` is what ExpWeight is.
template <typename Cache, typename Weight>
struct CachedArgs {
  Extent tokens;
  int num_heads = 0, group = 0;
  int chunks = 1;  // Blocks that share the heads of a KV head.
  int splits = 1;
  int64_t window = 0;
  HeadSizes sizes;
  bool values_are_keys = false;  // The first columns of them.
  const float* q = nullptr;      // [t, heads * key_dim]
  Cache k, v;
  Places places;
  Weight weight;
  // Scores' largest of another run [t, heads, splits], or null: a maximum runs
  // along.
  const float* largest = nullptr;
  float* o = nullptr;    // [t, heads, splits, value_dim], not yet divided
  float* max = nullptr;  // [t, heads, splits]
  float* sum = nullptr;  // [t, heads, splits]
  FaultSink fault;
};

// Rows are heads, kQ to a warp.
template <int kQ, int kD, typename Args>
__global__ void __launch_bounds__(kAttendThreads)
    CachedKernel(const Args args) {
  extern __shared__ float4 shared[];
  const int64_t token = blockIdx.x;
  if (token >= args.tokens.Get()) return;
  constexpr int kRows = kAttendWarps * kQ;
  const HeadSizes sizes = args.sizes;
  const int64_t kv_head = blockIdx.y / args.chunks;
  const int first_of_group = static_cast<int>(blockIdx.y % args.chunks) * kRows;
  const int count = min(kRows, args.group - first_of_group);
  const int64_t head = kv_head * args.group + first_of_group;

  const int64_t num_keys = args.places.NumKeys(token, args.fault);
  const int64_t first =
      args.window > 0 ? max(int64_t{0}, num_keys - args.window) : 0;
  // Pieces are whole tiles.
  const int64_t piece =
      ((num_keys - first + args.splits - 1) / args.splits + kKeys - 1) / kKeys *
      kKeys;
  const int64_t begin = first + blockIdx.z * piece;
  const int64_t end = min(num_keys, begin + piece);

  float* const q = reinterpret_cast<float*>(shared);
  float* const k = q + kRows * sizes.padded_key();
  float* const v =
      args.values_are_keys ? nullptr : k + kKeys * sizes.key_pitch();
  LoadRows(
      kRows, sizes.key_dim, sizes.padded_key(), sizes.padded_key(),
      [&](int i) -> const float* {
        return i < count ? args.q + (token * args.num_heads + head + i) *
                                        sizes.key_dim
                         : nullptr;
      },
      q);
  const int mine = static_cast<int>(threadIdx.x / kWarp) * kQ;
  const auto index = [&](int i) {
    return (token * args.num_heads + head + mine + i) * args.splits;
  };
  Attending<kQ, kD> rows;
  rows.Clear();
#pragma unroll
  for (int i = 0; i < kQ; ++i) {
    rows.first[i] = begin;
    rows.end[i] = end;
    if (args.largest == nullptr || mine + i >= count) continue;
    for (int s = 0; s < args.splits; ++s) {
      rows.max[i] = fmaxf(rows.max[i], args.largest[index(i) + s]);
    }
  }
  const auto in = [&](const auto& cache) {
    return [&](int64_t key) {
      return cache.At(
          args.places.RowOf(token, static_cast<int>(key), args.fault), kv_head);
    };
  };
  Attend(sizes, begin, end, in(args.k), in(args.v), args.weight, q, k, v, rows);
#pragma unroll
  for (int i = 0; i < kQ; ++i) {
    if (mine + i >= count) continue;
    const int64_t at = index(i) + blockIdx.z;
#pragma unroll
    for (int d = 0; d < kD; ++d) {
      const int c = d * kWarp + Lane();
      if (c < sizes.value_dim) args.o[at * sizes.value_dim + c] = rows.o[i][d];
    }
    if (Lane() == 0) {
      args.max[at] = rows.max[i];
      args.sum[at] = rows.sum[i];
    }
  }
}

// Joins the splits of a token's head, by a warp.
template <typename Args>
__global__ void __launch_bounds__(kBlock)
    JoinCachedKernel(const Args args, float* out) {
  const int splits = args.splits, dim = args.sizes.value_dim;
  const int64_t n = args.tokens.Get() * args.num_heads;
  for (int64_t i = FirstRow(); i < n; i += RowStride()) {
    float largest = -INFINITY, total = 0;
    for (int s = 0; s < splits; ++s) {
      largest = fmaxf(largest, args.max[i * splits + s]);
    }
    const auto share = [&](int s) {
      return args.sum[i * splits + s] > 0
                 ? expf(args.max[i * splits + s] - largest)
                 : 0.f;
    };
    for (int s = 0; s < splits; ++s) {
      total += args.sum[i * splits + s] * share(s);
    }
    const float factor = total > 0 ? 1.f / total : 0.f;
    for (int c = Lane(); c < dim; c += kWarp) {
      float value = 0;
      for (int s = 0; s < splits; ++s) {
        value = fmaf(args.o[(i * splits + s) * dim + c], share(s), value);
      }
      out[i * dim + c] = value * factor;
    }
  }
}

// Cuts keys into splits and takes room for them.
template <typename Args>
cudaError_t PlanCached(const KernelContext& ctx, int64_t num_kv_heads, int rows,
                       Args& args) {
  args.chunks = static_cast<int>(CeilDiv(args.group, rows));
  const int64_t blocks = args.tokens.bound * num_kv_heads * args.chunks;
  args.splits = static_cast<int>(
      std::clamp<int64_t>(std::min(kWantedBlocks / blocks,
                                   CeilDiv(MaxKeys(args.places), 4 * kKeys)),
                          1, kMaxCachedSplits));
  const int64_t pieces = args.tokens.bound * args.num_heads * args.splits;
  args.o = ctx.Take<float>(pieces * args.sizes.value_dim);
  args.max = ctx.Take<float>(pieces);
  args.sum = ctx.Take<float>(pieces);
  return args.o != nullptr && args.max != nullptr && args.sum != nullptr
             ? cudaSuccess
             : cudaErrorMemoryAllocation;
}

template <int kQ, typename Args>
cudaError_t LaunchCached(const KernelContext& ctx, int64_t num_kv_heads,
                         const Args& args) {
  const HeadSizes& sizes = args.sizes;
  const size_t shared =
      sizeof(float) *
      (kAttendWarps * kQ * sizes.padded_key() + kKeys * sizes.key_pitch() +
       (args.values_are_keys ? 0 : kKeys * sizes.value_pitch()));
  const dim3 grid(static_cast<unsigned>(args.tokens.bound),
                  static_cast<unsigned>(num_kv_heads * args.chunks),
                  static_cast<unsigned>(args.splits));
  const cudaError_t error = WithColumns<16>(sizes.value_dim, [&](auto columns) {
    auto* const kernel = CachedKernel<kQ, decltype(columns)::value, Args>;
    if (const cudaError_t e = AllowShared(kernel, shared); e) return e;
    kernel<<<grid, kAttendThreads, shared, ctx.stream>>>(args);
    return cudaGetLastError();
  });
  return error == cudaErrorNotSupported
             ? ctx.Refuse("values of more than 512 columns a head")
             : error;
}

// Output 0 = attention. Weights that are made of a row's largest score, not
// corrected as it grows, want it first: keys are gone through twice then.
template <typename Args>
cudaError_t RunCached(const KernelContext& ctx, int64_t num_kv_heads, Args args,
                      bool weights_want_largest = false) {
  if (args.tokens.bound == 0) return cudaSuccess;
  args.group = args.num_heads / static_cast<int>(num_kv_heads);
  const bool few = args.group <= kAttendWarps;
  const int rows = few ? kAttendWarps : 4 * kAttendWarps;
  cudaError_t e = PlanCached(ctx, num_kv_heads, rows, args);
  const auto launch = [&] {
    return few ? LaunchCached<1>(ctx, num_kv_heads, args)
               : LaunchCached<4>(ctx, num_kv_heads, args);
  };
  if (e == cudaSuccess) e = launch();
  if (e == cudaSuccess && weights_want_largest) {
    args.largest = args.max;
    args.max =
        ctx.Take<float>(args.tokens.bound * args.num_heads * args.splits);
    if (args.max == nullptr) return cudaErrorMemoryAllocation;
    e = launch();
  }
  if (e != cudaSuccess) return e;
  JoinCachedKernel<<<BlocksForRows(args.tokens.bound * args.num_heads), kBlock,
                     0, ctx.stream>>>(args, ctx.out(0).as<float>());
  return cudaGetLastError();
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_CACHED_ROWS_CUH_
