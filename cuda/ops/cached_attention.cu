#include <cstdint>

#include "cuda/ops/attend.cuh"
#include "cuda/ops/cached_attention.h"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/decode_attention.h"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// --- Where keys lie ---

// Token i sees rows first_row[i] .. first_row[i] + position[i] of the cache.
struct RowPlaces {
  const int32_t* first_row;  // [t]
  const int32_t* position;   // [t]
  int64_t slots;

  // Keys that the token sees, before any window; 0 where they are not all in
  // the cache.
  __device__ int64_t NumKeys(int64_t token, const FaultSink& fault) const {
    const int64_t first = first_row[token], last = first + position[token];
    if (first >= 0 && position[token] >= 0 && last < slots) {
      return position[token] + 1;
    }
    fault.Report(FaultKind::kCacheRow, token, last, slots);
    return 0;
  }
  __device__ int64_t RowOf(int64_t token, int64_t key, const FaultSink&) const {
    return first_row[token] + key;
  }
};

// The same through a table of blocks: core/ops/paged_attention.h.
struct BlockPlaces {
  const int32_t* table;  // [rows, max_blocks]
  int64_t rows, max_blocks, block_size;
  const int32_t* sequence;  // [t]
  const int32_t* position;  // [t]
  int64_t slots;

  __device__ int64_t NumKeys(int64_t token, const FaultSink& fault) const {
    const int64_t s = sequence[token], last = position[token];
    if (s >= 0 && s < rows && last >= 0 && last < max_blocks * block_size) {
      return last + 1;
    }
    fault.Report(FaultKind::kCacheRow, token, last, max_blocks * block_size);
    return 0;
  }
  // -1 where the block is not in the cache.
  __device__ int64_t RowOf(int64_t token, int64_t key,
                           const FaultSink& fault) const {
    const int64_t block =
        table[sequence[token] * max_blocks + key / block_size];
    if (block >= 0 && (block + 1) * block_size <= slots) {
      return block * block_size + key % block_size;
    }
    fault.Report(FaultKind::kCacheRow, token, block * block_size, slots);
    return -1;
  }
};

// --- Attention ---

// The most pieces that a token's keys are cut into, so that few tokens over
// many keys fill the GPU, too.
constexpr int kMaxSplits = 32;
constexpr int64_t kWantedBlocks = 132 * 2;

struct CachedArgs {
  Extent tokens;
  int num_heads = 0, group = 0;
  int chunks = 1;  // Blocks that share the heads of a KV head.
  int splits = 1;
  int64_t ld_q = 0, ld_k = 0, ld_v = 0;
  int64_t window = 0;
  HeadSizes sizes;
  bool values_are_keys = false;  // The first columns of them.
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  float* o = nullptr;    // [t, heads, splits, value_dim], not yet divided
  float* max = nullptr;  // [t, heads, splits]
  float* sum = nullptr;  // [t, heads, splits]
  FaultSink fault;
};

// Block (token, KV head and chunk of its heads, split). Rows are heads, kQ to a
// warp.
template <int kQ, int kD, typename Places>
__global__ void __launch_bounds__(kAttendThreads)
    CachedKernel(const CachedArgs args, const Places places) {
  extern __shared__ float4 shared[];
  const int64_t token = blockIdx.x;
  if (token >= args.tokens.Get()) return;
  constexpr int kRows = kAttendWarps * kQ;
  const HeadSizes sizes = args.sizes;
  const int64_t kv_head = blockIdx.y / args.chunks;
  const int first_of_group = static_cast<int>(blockIdx.y % args.chunks) * kRows;
  const int count = min(kRows, args.group - first_of_group);
  const int64_t head = kv_head * args.group + first_of_group;

  const int64_t num_keys = places.NumKeys(token, args.fault);
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
        return i < count
                   ? args.q + token * args.ld_q + (head + i) * sizes.key_dim
                   : nullptr;
      },
      q);
  Attending<kQ, kD> rows;
  rows.Clear();
#pragma unroll
  for (int i = 0; i < kQ; ++i) {
    rows.first[i] = begin;
    rows.end[i] = end;
  }
  const auto in_cache = [&](const float* cache, int64_t ld, int64_t column) {
    return [=](int64_t key) -> const float* {
      const int64_t row = places.RowOf(token, key, args.fault);
      return row >= 0 ? cache + row * ld + column : nullptr;
    };
  };
  Attend(sizes, begin, end,
         in_cache(args.k, args.ld_k, kv_head * sizes.key_dim),
         in_cache(args.v, args.ld_v, kv_head * sizes.value_dim), q, k, v, rows);
  const int mine = static_cast<int>(threadIdx.x / kWarp) * kQ;
#pragma unroll
  for (int i = 0; i < kQ; ++i) {
    if (mine + i >= count) continue;
    const int64_t at =
        (token * args.num_heads + head + mine + i) * args.splits + blockIdx.z;
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
__global__ void __launch_bounds__(kBlock)
    JoinKernel(Extent tokens, int num_heads, int splits, int dim,
               const float* o, const float* max, const float* sum, float* out) {
  const int64_t n = tokens.Get() * num_heads;
  for (int64_t i = FirstRow(); i < n; i += RowStride()) {
    float largest = -INFINITY, total = 0;
    for (int s = 0; s < splits; ++s) {
      largest = fmaxf(largest, max[i * splits + s]);
    }
    const auto share = [&](int s) {
      return sum[i * splits + s] > 0 ? expf(max[i * splits + s] - largest)
                                     : 0.f;
    };
    for (int s = 0; s < splits; ++s) total += sum[i * splits + s] * share(s);
    const float factor = total > 0 ? 1.f / total : 0.f;
    for (int c = Lane(); c < dim; c += kWarp) {
      float value = 0;
      for (int s = 0; s < splits; ++s) {
        value = fmaf(o[(i * splits + s) * dim + c], share(s), value);
      }
      out[i * dim + c] = value * factor;
    }
  }
}

template <int kQ, typename Places>
cudaError_t Launch(const KernelContext& ctx, CachedArgs args,
                   const Places& places, int64_t num_kv_heads,
                   int64_t max_keys) {
  constexpr int kRows = kAttendWarps * kQ;
  args.chunks = static_cast<int>(CeilDiv(args.group, kRows));
  const int64_t blocks = args.tokens.bound * num_kv_heads * args.chunks;
  args.splits = static_cast<int>(std::clamp<int64_t>(
      std::min(kWantedBlocks / blocks, CeilDiv(max_keys, 4 * kKeys)), 1,
      kMaxSplits));
  const int64_t pieces = args.tokens.bound * args.num_heads * args.splits;
  args.o = ctx.Take<float>(pieces * args.sizes.value_dim);
  args.max = ctx.Take<float>(pieces);
  args.sum = ctx.Take<float>(pieces);
  if (args.o == nullptr || args.max == nullptr || args.sum == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  const HeadSizes& sizes = args.sizes;
  const size_t shared =
      sizeof(float) *
      (kRows * sizes.padded_key() + kKeys * sizes.key_pitch() +
       (args.values_are_keys ? 0 : kKeys * sizes.value_pitch()));
  const dim3 grid(static_cast<unsigned>(args.tokens.bound),
                  static_cast<unsigned>(num_kv_heads * args.chunks),
                  static_cast<unsigned>(args.splits));
  const cudaError_t error = WithColumns<16>(sizes.value_dim, [&](auto columns) {
    auto* const kernel = CachedKernel<kQ, decltype(columns)::value, Places>;
    if (const cudaError_t e = AllowShared(kernel, shared); e) return e;
    kernel<<<grid, kAttendThreads, shared, ctx.stream>>>(args, places);
    return cudaGetLastError();
  });
  if (error == cudaErrorNotSupported) {
    return ctx.Refuse("values of more than 512 columns a head");
  }
  if (error != cudaSuccess) return error;
  JoinKernel<<<BlocksForRows(args.tokens.bound * args.num_heads), kBlock, 0,
               ctx.stream>>>(args.tokens, args.num_heads, args.splits,
                             sizes.value_dim, args.o, args.max, args.sum,
                             ctx.out(0).as<float>());
  return cudaGetLastError();
}

template <typename Places>
cudaError_t Run(const KernelContext& ctx, CachedArgs args, const Places& places,
                int64_t num_kv_heads, int64_t max_keys) {
  if (args.tokens.bound == 0) return cudaSuccess;
  args.group = args.num_heads / static_cast<int>(num_kv_heads);
  return args.group <= kAttendWarps
             ? Launch<1>(ctx, args, places, num_kv_heads, max_keys)
             : Launch<4>(ctx, args, places, num_kv_heads, max_keys);
}

CachedArgs ReadArgs(const KernelContext& ctx) {
  const Operand& q = ctx.in(0);
  CachedArgs args;
  args.tokens = q.rows();
  args.num_heads = static_cast<int>(ctx.Int("num_heads"));
  args.ld_q = q.dim(1);
  args.sizes.key_dim = static_cast<int>(q.dim(1) / args.num_heads);
  args.sizes.scale = ctx.Float("scale");
  args.window = ctx.Int("window");
  args.q = q.as<float>();
  args.k = args.v = ctx.in(1).as<float>();
  args.ld_k = args.ld_v = ctx.in(1).dim(1);
  args.fault = ctx.fault;
  return args;
}

// (q, k_cache, v_cache, ...)
CachedArgs WithValues(const KernelContext& ctx) {
  CachedArgs args = ReadArgs(ctx);
  args.v = ctx.in(2).as<float>();
  args.ld_v = ctx.in(2).dim(1);
  args.sizes.value_dim = static_cast<int>(args.ld_v / ctx.Int("num_kv_heads"));
  return args;
}

// (q, cache, ...): the values are the first columns of the one key.
CachedArgs OverLatents(const KernelContext& ctx) {
  CachedArgs args = ReadArgs(ctx);
  args.sizes.value_dim = static_cast<int>(ctx.Int("rank"));
  args.values_are_keys = true;
  return args;
}

// Where heads allow it, keys are read as vectors by one kernel for both kinds
// of place. False leaves them to the kernel above.
bool RunVectors(const KernelContext& ctx, const CachedArgs& cached,
                int64_t num_kv_heads, int64_t max_keys,
                const CachePlaces& places, cudaError_t& error) {
  DecodeAttentionArgs args;
  args.tokens = cached.tokens;
  args.num_heads = cached.num_heads;
  args.num_kv_heads = static_cast<int>(num_kv_heads);
  args.dim = cached.sizes.key_dim;
  args.scale = cached.sizes.scale;
  args.window = cached.window;
  args.max_keys = max_keys;
  args.q = cached.q;
  args.k = cached.k;
  args.v = cached.v;
  args.places = places;
  args.o = ctx.out(0).as<float>();
  args.fault = cached.fault;
  if (cached.sizes.key_dim != cached.sizes.value_dim ||
      !HasDecodeAttention(args)) {
    return false;
  }
  const int64_t pieces = DecodePieces(args);
  args.partial = ctx.Take<float>(pieces * args.dim);
  args.max = ctx.Take<float>(pieces);
  args.sum = ctx.Take<float>(pieces);
  args.ended = ctx.Keep<int32_t>("ended", DecodeCounters(args));
  const bool taken = args.partial != nullptr && args.max != nullptr &&
                     args.sum != nullptr && args.ended != nullptr;
  error = taken ? DecodeAttention(args, ctx.stream) : cudaErrorMemoryAllocation;
  return true;
}

// Of latents in the tensor cores, with room for pieces.
cudaError_t ReadLatents(const KernelContext& ctx, const CachedArgs& cached,
                        int64_t max_keys, const CachePlaces& places,
                        LatentDecodeArgs& args) {
  args.tokens = cached.tokens;
  args.num_heads = cached.num_heads;
  args.scale = cached.sizes.scale;
  args.window = cached.window;
  args.max_keys = max_keys;
  args.q = cached.q;
  args.cache = cached.k;
  args.places = places;
  args.fault = cached.fault;
  if (LatentSplits(args) == 1) return cudaSuccess;
  const int64_t pieces = LatentPieces(args);
  args.partial = ctx.Take<float>(pieces * kLatentRank);
  args.max = ctx.Take<float>(pieces);
  args.sum = ctx.Take<float>(pieces);
  return args.partial != nullptr && args.max != nullptr && args.sum != nullptr
             ? cudaSuccess
             : cudaErrorMemoryAllocation;
}

RowPlaces RowsFrom(const KernelContext& ctx, int first) {
  return {ctx.in(first).as<int32_t>(), ctx.in(first + 1).as<int32_t>(),
          ctx.in(1).dim(0)};
}

BlockPlaces BlocksFrom(const KernelContext& ctx, int first) {
  const Operand& table = ctx.in(first);
  return {table.as<int32_t>(),
          table.dim(0),
          table.dim(1),
          ctx.Int("block_size"),
          ctx.in(first + 1).as<int32_t>(),
          ctx.in(first + 2).as<int32_t>(),
          ctx.in(1).dim(0)};
}

int64_t MaxKeys(const BlockPlaces& places) {
  return places.max_blocks * places.block_size;
}

CachePlaces PlacesOf(const RowPlaces& rows) {
  CachePlaces places;
  places.position = rows.position;
  places.first_row = rows.first_row;
  places.slots = rows.slots;
  return places;
}

CachePlaces PlacesOf(const BlockPlaces& blocks) {
  CachePlaces places;
  places.position = blocks.position;
  places.table = blocks.table;
  places.table_rows = blocks.rows;
  places.max_blocks = blocks.max_blocks;
  places.block_size = blocks.block_size;
  places.sequence = blocks.sequence;
  places.slots = blocks.slots;
  return places;
}

template <typename Places>
cudaError_t RunKeysAndValues(const KernelContext& ctx, const Places& places,
                             int64_t max_keys) {
  const int64_t num_kv_heads = ctx.Int("num_kv_heads");
  cudaError_t error = cudaSuccess;
  if (RunVectors(ctx, WithValues(ctx), num_kv_heads, max_keys, PlacesOf(places),
                 error)) {
    return error;
  }
  return Run(ctx, WithValues(ctx), places, num_kv_heads, max_keys);
}

// In the tensor cores under bf16, else by the kernel above.
template <typename Places>
cudaError_t RunOverLatents(const KernelContext& ctx, const Places& places,
                           int64_t max_keys) {
  const CachedArgs cached = OverLatents(ctx);
  if (ctx.precision != Precision::kBf16 ||
      !HasLatentDecode(cached.sizes.value_dim, cached.sizes.key_dim)) {
    return Run(ctx, cached, places, 1, max_keys);
  }
  LatentDecodeArgs args;
  if (const cudaError_t e =
          ReadLatents(ctx, cached, max_keys, PlacesOf(places), args);
      e != cudaSuccess) {
    return e;
  }
  args.o = ctx.out(0).as<float>();
  return LatentDecode(args, ctx.stream);
}

cudaError_t RunCachedAttention(const KernelContext& ctx) {
  const RowPlaces places = RowsFrom(ctx, 3);
  return RunKeysAndValues(ctx, places, places.slots);
}

cudaError_t RunPagedAttention(const KernelContext& ctx) {
  const BlockPlaces places = BlocksFrom(ctx, 3);
  return RunKeysAndValues(ctx, places, MaxKeys(places));
}

}  // namespace

cudaError_t ReadCachedLatents(const KernelContext& ctx,
                              LatentDecodeArgs& args) {
  const RowPlaces places = RowsFrom(ctx, 2);
  return ReadLatents(ctx, OverLatents(ctx), places.slots, PlacesOf(places),
                     args);
}

cudaError_t ReadPagedLatents(const KernelContext& ctx, LatentDecodeArgs& args) {
  const BlockPlaces places = BlocksFrom(ctx, 2);
  return ReadLatents(ctx, OverLatents(ctx), MaxKeys(places), PlacesOf(places),
                     args);
}

cudaError_t RunCachedLatentAttention(const KernelContext& ctx) {
  const RowPlaces places = RowsFrom(ctx, 2);
  return RunOverLatents(ctx, places, places.slots);
}

cudaError_t RunPagedLatentAttention(const KernelContext& ctx) {
  const BlockPlaces places = BlocksFrom(ctx, 2);
  return RunOverLatents(ctx, places, MaxKeys(places));
}

namespace {

// cache [slots, n] at row[i] = rows [t, n] at i, a warp a row.
__global__ void __launch_bounds__(kBlock)
    CacheWriteKernel(Extent tokens, int64_t slots, int64_t n, const float* rows,
                     const int32_t* row, float* cache, FaultSink fault) {
  const int64_t t = tokens.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    const int64_t to = row[i];
    if (to < 0 || to >= slots) {
      if (Lane() == 0) fault.Report(FaultKind::kCacheRow, i, to, slots);
      continue;
    }
    for (int64_t c = Lane(); c < n; c += kWarp) {
      cache[to * n + c] = rows[i * n + c];
    }
  }
}

cudaError_t RunCacheWrite(const KernelContext& ctx) {
  const Operand& cache = ctx.in(0);
  const Operand& rows = ctx.in(1);
  CacheWriteKernel<<<BlocksForRows(rows.dim(0)), kBlock, 0, ctx.stream>>>(
      rows.rows(), cache.dim(0), cache.dim(1), rows.as<float>(),
      ctx.in(2).as<int32_t>(), cache.as<float>(), ctx.fault);
  return cudaGetLastError();
}

}  // namespace

void RegisterCachedAttentionKernels(KernelRegistry& kernels) {
  kernels.Register("CacheWrite", RunCacheWrite);
  kernels.Register("CachedAttention", RunCachedAttention);
  kernels.Register("PagedAttention", RunPagedAttention);
  kernels.Register("CachedLatentAttention", RunCachedLatentAttention);
  kernels.Register("PagedLatentAttention", RunPagedLatentAttention);
}

}  // namespace strata::gpu
