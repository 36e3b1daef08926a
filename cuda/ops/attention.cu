#include <cstdint>

#include "cuda/kernels/causal_attention.h"
#include "cuda/kernels/causal_attention_grad.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/attend.cuh"
#include "cuda/ops/attention.h"
#include "cuda/ops/bf16/convert.h"
#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/bf16/with_type.h"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

constexpr int kQueries = 4;  // Of a warp.
constexpr int kRows = kAttendWarps * kQueries;

// A node's operands and extents; heads lie beside each other in a row.
struct AttentionArgs {
  Extent tokens;
  int64_t num_heads = 0, group = 0;  // Query heads; those to a KV head.
  int64_t ld_q = 0, ld_k = 0, ld_v = 0, ld_o = 0;
  int64_t window = 0;
  HeadSizes sizes;
  const int32_t* seq_start = nullptr;  // [num_sequences + 1]
  int num_sequences = 0;
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  float* o = nullptr;            // Forward.
  float* lse = nullptr;          // [t, num_heads]
  const float* dout = nullptr;   // Backward, as all that follow.
  const float* delta = nullptr;  // [t, num_heads], dot(dout, o)
  float* dq = nullptr;
  float* dk = nullptr;
  float* dv = nullptr;
  FaultSink fault;
};

AttentionArgs ReadArgs(const KernelContext& ctx, int q, int seq_start) {
  const Operand& query = ctx.in(q);
  const Operand& value = ctx.in(q + 2);
  AttentionArgs args;
  args.tokens = query.rows();
  args.num_heads = ctx.Int("num_heads");
  const int64_t num_kv_heads = ctx.Int("num_kv_heads");
  args.group = args.num_heads / num_kv_heads;
  args.sizes.key_dim = static_cast<int>(query.dim(1) / args.num_heads);
  args.sizes.value_dim = static_cast<int>(value.dim(1) / num_kv_heads);
  args.sizes.scale = ctx.Float("scale");
  args.ld_q = query.dim(1);
  args.ld_k = ctx.in(q + 1).dim(1);
  args.ld_v = value.dim(1);
  args.ld_o = args.num_heads * args.sizes.value_dim;
  args.window = ctx.Int("window");
  args.seq_start = ctx.in(seq_start).as<int32_t>();
  args.num_sequences = static_cast<int>(ctx.in(seq_start).dim(0) - 1);
  args.q = query.as<float>();
  args.k = ctx.in(q + 1).as<float>();
  args.v = value.as<float>();
  args.fault = ctx.fault;
  return args;
}

__device__ void CheckSequences(const AttentionArgs& args, int64_t t) {
  for (int s = threadIdx.x; s <= args.num_sequences; s += blockDim.x) {
    const int64_t start = args.seq_start[s];
    const int64_t least = s > 0 ? args.seq_start[s - 1] : 0;
    const bool at_end = s == args.num_sequences;
    if (start < least || (s == 0 && start != 0) || (at_end && start != t)) {
      args.fault.Report(FaultKind::kSequence, s, start, t);
    }
  }
}

// The sequence of a row: the last that begins there or before.
struct Sequence {
  int64_t begin, end;
};
__device__ Sequence SequenceOf(const AttentionArgs& args, int64_t row,
                               int64_t t) {
  int low = 0, high = args.num_sequences - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (args.seq_start[middle] <= row) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return {max(int64_t{args.seq_start[low]}, int64_t{0}),
          min(int64_t{args.seq_start[low + 1]}, t)};
}

// The first key that a row sees.
__device__ int64_t FirstSeen(const AttentionArgs& args, int64_t row,
                             int64_t t) {
  const int64_t begin = SequenceOf(args, row, t).begin;
  return args.window > 0 ? max(begin, row + 1 - args.window) : begin;
}

// Block (x, y): kRows tokens of head y. Later tokens see more keys, so they
// come first.
template <int kD>
__global__ void __launch_bounds__(kAttendThreads)
    AttentionKernel(const AttentionArgs args) {
  extern __shared__ float4 shared[];
  const int64_t t = args.tokens.Get();
  if (blockIdx.x == 0 && blockIdx.y == 0) CheckSequences(args, t);
  const int64_t row = int64_t{gridDim.x - 1 - blockIdx.x} * kRows;
  if (row >= t) return;
  const int64_t head = blockIdx.y, kv_head = head / args.group;
  const HeadSizes sizes = args.sizes;
  float* const q = reinterpret_cast<float*>(shared);
  float* const k = q + kRows * sizes.padded_key();
  float* const v = k + kKeys * sizes.key_pitch();
  LoadRows(
      kRows, sizes.key_dim, sizes.padded_key(), sizes.padded_key(),
      [&](int i) -> const float* {
        return row + i < t
                   ? args.q + (row + i) * args.ld_q + head * sizes.key_dim
                   : nullptr;
      },
      q);
  const int64_t mine = row + threadIdx.x / kWarp * kQueries;
  Attending<kQueries, kD> rows;
  rows.Clear();
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    rows.first[i] = mine + i < t ? FirstSeen(args, mine + i, t) : t;
    rows.end[i] = mine + i < t ? mine + i + 1 : 0;
  }
  Attend(
      sizes, FirstSeen(args, row, t), min(row + kRows, t),
      [&](int64_t j) {
        return args.k + j * args.ld_k + kv_head * sizes.key_dim;
      },
      [&](int64_t j) {
        return args.v + j * args.ld_v + kv_head * sizes.value_dim;
      },
      ExpWeight(), q, k, v, rows);
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    if (mine + i >= t) continue;
    float* const o = args.o + (mine + i) * args.ld_o + head * sizes.value_dim;
    const float share = rows.sum[i] > 0 ? 1.f / rows.sum[i] : 0.f;
#pragma unroll
    for (int d = 0; d < kD; ++d) {
      const int c = d * kWarp + Lane();
      if (c < sizes.value_dim) o[c] = rows.o[i][d] * share;
    }
    if (Lane() == 0) {
      args.lse[(mine + i) * args.num_heads + head] =
          rows.max[i] + logf(rows.sum[i]);
    }
  }
}

// --- In the tensor cores ---

__global__ void __launch_bounds__(kBlock)
    CheckSequencesKernel(const AttentionArgs args) {
  CheckSequences(args, args.tokens.Get());
}

bool UsesTensorCores(const KernelContext& ctx, const AttentionArgs& args) {
  return ctx.precision == Precision::kBf16 &&
         HasCausalAttention(args.sizes.key_dim, args.sizes.value_dim) &&
         args.window < INT32_MAX && IsHopper();
}

// What both directions take: q, k and v are inputs `q` and on.
cudaError_t ReadRounded(const KernelContext& ctx, const AttentionArgs& args,
                        int q, CausalAttentionShape& shape) {
  shape.tokens = args.tokens;
  shape.num_heads = static_cast<int>(args.num_heads);
  shape.num_kv_heads = static_cast<int>(args.num_heads / args.group);
  shape.key_dim = args.sizes.key_dim;
  shape.value_dim = args.sizes.value_dim;
  shape.scale = args.sizes.scale;
  shape.window = static_cast<int>(args.window);
  shape.seq_start = args.seq_start;
  shape.num_sequences = args.num_sequences;
  if (const cudaError_t e = Rounded(ctx, ctx.in(q), &shape.q); e) return e;
  if (const cudaError_t e = Rounded(ctx, ctx.in(q + 1), &shape.k); e) return e;
  if (const cudaError_t e = Rounded(ctx, ctx.in(q + 2), &shape.v); e) return e;
  CheckSequencesKernel<<<1, kBlock, 0, ctx.stream>>>(args);
  return cudaGetLastError();
}

cudaError_t AttendRounded(const KernelContext& ctx, const AttentionArgs& args) {
  CausalAttentionArgs rounded;
  const cudaError_t error = ReadRounded(ctx, args, 0, rounded);
  if (error != cudaSuccess) return error;
  rounded.o = args.o;
  rounded.bf16_o = ctx.out(0).element_size == 2;
  rounded.lse = args.lse;
  return CausalAttention(rounded, ctx.stream);
}

// --- In F32 ---

// q, k and v, inputs `q` and on, if they are BF16.
cudaError_t WidenRows(const KernelContext& ctx, int q, AttentionArgs& args) {
  const float** const to[3] = {&args.q, &args.k, &args.v};
  for (int i = 0; i < 3; ++i) {
    if (ctx.in(q + i).element_size == 4) continue;
    if (const cudaError_t e = Widened(ctx, ctx.in(q + i), to[i]); e) return e;
  }
  return cudaSuccess;
}

// Scratch in place of a result that is BF16, which StoreIfNarrow() then writes.
cudaError_t RoomFor(const KernelContext& ctx, const Operand& out, float** to) {
  if (out.element_size == 4) return cudaSuccess;
  *to = ctx.Take<float>(out.max_elements());
  return *to == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t StoreIfNarrow(const KernelContext& ctx, const float* result,
                          const Operand& out) {
  return out.element_size == 4 ? cudaSuccess : StoreRounded(ctx, result, out);
}

cudaError_t RunAttention(const KernelContext& ctx) {
  AttentionArgs args = ReadArgs(ctx, 0, 3);
  args.o = ctx.out(0).as<float>();
  args.lse = ctx.out(1).as<float>();
  if (args.tokens.bound == 0) return cudaSuccess;
  if (UsesTensorCores(ctx, args)) return AttendRounded(ctx, args);
  if (const cudaError_t e = WidenRows(ctx, 0, args); e) return e;
  const Operand& o = ctx.out(0);
  if (const cudaError_t e = RoomFor(ctx, o, &args.o); e) return e;
  const HeadSizes& sizes = args.sizes;
  const size_t shared =
      sizeof(float) * (kRows * sizes.padded_key() + kKeys * sizes.key_pitch() +
                       kKeys * sizes.value_pitch());
  const dim3 grid(static_cast<unsigned>(CeilDiv(args.tokens.bound, kRows)),
                  static_cast<unsigned>(args.num_heads));
  const cudaError_t error = WithColumns<8>(sizes.value_dim, [&](auto columns) {
    auto* const kernel = AttentionKernel<decltype(columns)::value>;
    if (const cudaError_t e = AllowShared(kernel, shared); e) return e;
    kernel<<<grid, kAttendThreads, shared, ctx.stream>>>(args);
    return cudaGetLastError();
  });
  if (error == cudaErrorNotSupported) {
    return ctx.Refuse("values of more than 256 columns a head");
  }
  return error == cudaSuccess ? StoreIfNarrow(ctx, args.o, o) : error;
}

// delta [t, heads] = dot(dout, o) of a head, a warp each.
template <typename DOut, typename O>
__global__ void __launch_bounds__(kBlock)
    DeltaKernel(Extent tokens, int64_t num_heads, int64_t dim, const DOut* dout,
                const O* o, float* delta) {
  const int64_t n = tokens.Get() * num_heads;
  for (int64_t i = FirstRow(); i < n; i += RowStride()) {
    float sum = 0;
    // Of F32 in the order of the scores' sums: where a row sees one key, what
    // is subtracted from its score's gradient is equal to it.
    if (sizeof(DOut) + sizeof(O) < 8 && dim % 8 == 0) {
      for (int64_t c = Lane() * 8; c < dim; c += kWarp * 8) {
        float a[8], b[8];
        Load8(dout + i * dim + c, a);
        Load8(o + i * dim + c, b);
#pragma unroll
        for (int m = 0; m < 8; ++m) sum = fmaf(a[m], b[m], sum);
      }
    } else {
      for (int64_t c = Lane(); c < dim; c += kWarp) {
        sum = fmaf(dout[i * dim + c], o[i * dim + c], sum);
      }
    }
    sum = WarpSum(sum);
    if (Lane() == 0) delta[i] = sum;
  }
}

// dq of kRows tokens of a head, with p and ds made anew tile by tile:
//   p = exp(scale q . k - lse),  ds = scale p (dout . v - delta),  dq = ds k
template <int kD>
__global__ void __launch_bounds__(kAttendThreads)
    QueryGradKernel(const AttentionArgs args) {
  extern __shared__ float4 shared[];
  const int64_t t = args.tokens.Get();
  if (blockIdx.x == 0 && blockIdx.y == 0) CheckSequences(args, t);
  const int64_t row = int64_t{gridDim.x - 1 - blockIdx.x} * kRows;
  if (row >= t) return;
  const int64_t head = blockIdx.y, kv_head = head / args.group;
  const HeadSizes sizes = args.sizes;
  float* const q = reinterpret_cast<float*>(shared);
  float* const dout = q + kRows * sizes.padded_key();
  float* const k = dout + kRows * sizes.padded_value();
  float* const v = k + kKeys * sizes.key_pitch();
  const auto in_rows = [&](const float* from, int64_t ld, int dim) {
    return [=](int i) -> const float* {
      return row + i < t ? from + (row + i) * ld + head * dim : nullptr;
    };
  };
  LoadRows(kRows, sizes.key_dim, sizes.padded_key(), sizes.padded_key(),
           in_rows(args.q, args.ld_q, sizes.key_dim), q);
  LoadRows(kRows, sizes.value_dim, sizes.padded_value(), sizes.padded_value(),
           in_rows(args.dout, args.ld_o, sizes.value_dim), dout);
  const int warp = threadIdx.x / kWarp;
  const int64_t mine = row + warp * kQueries;
  int64_t first[kQueries];
  float lse[kQueries], delta[kQueries], dq[kQueries][kD] = {};
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    const bool there = mine + i < t;
    first[i] = there ? FirstSeen(args, mine + i, t) : t;
    const int64_t at = (mine + i) * args.num_heads + head;
    lse[i] = there ? args.lse[at] : 0.f;
    delta[i] = there ? args.delta[at] : 0.f;
  }
  const int64_t end = min(row + kRows, t);
  for (int64_t tile = FirstSeen(args, row, t); tile < end; tile += kKeys) {
    const auto in_tile = [&](const float* from, int64_t ld, int dim) {
      return [=](int j) -> const float* {
        return tile + j < end ? from + (tile + j) * ld + kv_head * dim
                              : nullptr;
      };
    };
    __syncthreads();
    LoadRows(kKeys, sizes.key_dim, sizes.padded_key(), sizes.key_pitch(),
             in_tile(args.k, args.ld_k, sizes.key_dim), k);
    LoadRows(kKeys, sizes.value_dim, sizes.padded_value(), sizes.value_pitch(),
             in_tile(args.v, args.ld_v, sizes.value_dim), v);
    __syncthreads();
    float score[kQueries] = {}, ds[kQueries] = {};
    Dots(q + warp * kQueries * sizes.padded_key(),
         k + Lane() * sizes.key_pitch(), sizes.padded_key(), score);
    Dots(dout + warp * kQueries * sizes.padded_value(),
         v + Lane() * sizes.value_pitch(), sizes.padded_value(), ds);
    const int64_t j = tile + Lane();
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      const bool seen = j >= first[i] && j <= mine + i && mine + i < t;
      const float p = seen ? expf(score[i] * sizes.scale - lse[i]) : 0.f;
      ds[i] = sizes.scale * p * (ds[i] - delta[i]);
    }
    AddLines(ds, k, sizes.key_pitch(), sizes.key_dim, dq);
  }
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    if (mine + i >= t) continue;
    float* const to = args.dq + (mine + i) * args.ld_q + head * sizes.key_dim;
#pragma unroll
    for (int d = 0; d < kD; ++d) {
      const int c = d * kWarp + Lane();
      if (c < sizes.key_dim) to[c] = dq[i][d];
    }
  }
}

// dk and dv of kRows keys of KV head y, summed over the queries that see them,
// head by head and in order, so without atomics. Here lanes are queries.
template <int kD>
__global__ void __launch_bounds__(kAttendThreads)
    KeyGradKernel(const AttentionArgs args) {
  extern __shared__ float4 shared[];
  const int64_t t = args.tokens.Get();
  const int64_t row = int64_t{blockIdx.x} * kRows;
  if (row >= t) return;
  const int64_t kv_head = blockIdx.y;
  const HeadSizes sizes = args.sizes;
  float* const k = reinterpret_cast<float*>(shared);
  float* const v = k + kRows * sizes.padded_key();
  float* const q = v + kRows * sizes.padded_value();
  float* const dout = q + kKeys * sizes.key_pitch();
  const auto in_rows = [&](const float* from, int64_t ld, int dim) {
    return [=](int i) -> const float* {
      return row + i < t ? from + (row + i) * ld + kv_head * dim : nullptr;
    };
  };
  LoadRows(kRows, sizes.key_dim, sizes.padded_key(), sizes.padded_key(),
           in_rows(args.k, args.ld_k, sizes.key_dim), k);
  LoadRows(kRows, sizes.value_dim, sizes.padded_value(), sizes.padded_value(),
           in_rows(args.v, args.ld_v, sizes.value_dim), v);
  const int warp = threadIdx.x / kWarp;
  const int64_t mine = row + warp * kQueries;
  int64_t seen_until[kQueries];
  float dk[kQueries][kD] = {}, dv[kQueries][kD] = {};
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    int64_t until = mine + i < t ? SequenceOf(args, mine + i, t).end : 0;
    if (args.window > 0) until = min(until, mine + i + args.window);
    seen_until[i] = until;
  }
  // The last key's, and so the latest.
  const int64_t last = min(row + kRows, t) - 1;
  int64_t end = SequenceOf(args, last, t).end;
  if (args.window > 0) end = min(end, last + args.window);
  for (int64_t h = 0; h < args.group; ++h) {
    const int64_t head = kv_head * args.group + h;
    for (int64_t tile = row; tile < end; tile += kKeys) {
      const auto in_tile = [&](const float* from, int64_t ld, int dim) {
        return [=](int i) -> const float* {
          return tile + i < end ? from + (tile + i) * ld + head * dim : nullptr;
        };
      };
      __syncthreads();
      LoadRows(kKeys, sizes.key_dim, sizes.padded_key(), sizes.key_pitch(),
               in_tile(args.q, args.ld_q, sizes.key_dim), q);
      LoadRows(kKeys, sizes.value_dim, sizes.padded_value(),
               sizes.value_pitch(),
               in_tile(args.dout, args.ld_o, sizes.value_dim), dout);
      __syncthreads();
      const int64_t i = tile + Lane();
      const bool there = i < end;
      const int64_t at = i * args.num_heads + head;
      const float lse = there ? args.lse[at] : 0.f;
      const float delta = there ? args.delta[at] : 0.f;
      float p[kQueries] = {}, ds[kQueries] = {};
      Dots(k + warp * kQueries * sizes.padded_key(),
           q + Lane() * sizes.key_pitch(), sizes.padded_key(), p);
      Dots(v + warp * kQueries * sizes.padded_value(),
           dout + Lane() * sizes.value_pitch(), sizes.padded_value(), ds);
#pragma unroll
      for (int j = 0; j < kQueries; ++j) {
        const bool seen = i >= mine + j && i < seen_until[j];
        p[j] = seen ? expf(p[j] * sizes.scale - lse) : 0.f;
        ds[j] = sizes.scale * p[j] * (ds[j] - delta);
      }
      AddLines(p, dout, sizes.value_pitch(), sizes.value_dim, dv);
      AddLines(ds, q, sizes.key_pitch(), sizes.key_dim, dk);
    }
  }
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    if (mine + i >= t) continue;
    float* const to_k =
        args.dk + (mine + i) * args.ld_k + kv_head * sizes.key_dim;
    float* const to_v =
        args.dv + (mine + i) * args.ld_v + kv_head * sizes.value_dim;
#pragma unroll
    for (int d = 0; d < kD; ++d) {
      const int c = d * kWarp + Lane();
      if (c < sizes.key_dim) to_k[c] = dk[i][d];
      if (c < sizes.value_dim) to_v[c] = dv[i][d];
    }
  }
}

cudaError_t RoomForGrads(const KernelContext& ctx, AttentionArgs& args) {
  if (const cudaError_t e = RoomFor(ctx, ctx.out(0), &args.dq); e) return e;
  if (const cudaError_t e = RoomFor(ctx, ctx.out(1), &args.dk); e) return e;
  return RoomFor(ctx, ctx.out(2), &args.dv);
}
cudaError_t StoreNarrowGrads(const KernelContext& ctx,
                             const AttentionArgs& args) {
  const float* const grads[3] = {args.dq, args.dk, args.dv};
  for (int i = 0; i < 3; ++i) {
    if (const cudaError_t e = StoreIfNarrow(ctx, grads[i], ctx.out(i)); e) {
      return e;
    }
  }
  return cudaSuccess;
}

cudaError_t DifferentiateRounded(const KernelContext& ctx,
                                 const AttentionArgs& args) {
  CausalAttentionGradArgs rounded;
  const cudaError_t error = ReadRounded(ctx, args, 1, rounded);
  if (error != cudaSuccess) return error;
  if (const cudaError_t e = Rounded(ctx, ctx.in(0), &rounded.dout); e) return e;
  rounded.stats =
      ctx.Take<float>(AttentionStatsFloats(args.tokens.bound, args.num_heads));
  if (rounded.stats == nullptr) return cudaErrorMemoryAllocation;
  rounded.lse = args.lse;
  rounded.delta = args.delta;
  rounded.bf16_grads = ctx.out(0).element_size == 2 &&
                       ctx.out(1).element_size == 2 &&
                       ctx.out(2).element_size == 2;
  if (rounded.bf16_grads) {
    rounded.dq = ctx.out(0).data;
    rounded.dk = ctx.out(1).data;
    rounded.dv = ctx.out(2).data;
    return CausalAttentionGrad(rounded, ctx.stream);
  }
  AttentionArgs wide = args;
  if (const cudaError_t e = RoomForGrads(ctx, wide); e) return e;
  rounded.dq = wide.dq;
  rounded.dk = wide.dk;
  rounded.dv = wide.dv;
  if (const cudaError_t e = CausalAttentionGrad(rounded, ctx.stream); e) {
    return e;
  }
  return StoreNarrowGrads(ctx, wide);
}

cudaError_t RunAttentionGrad(const KernelContext& ctx) {
  AttentionArgs args = ReadArgs(ctx, 1, 6);
  args.dout = ctx.in(0).as<float>();
  args.lse = ctx.in(5).as<float>();
  args.dq = ctx.out(0).as<float>();
  args.dk = ctx.out(1).as<float>();
  args.dv = ctx.out(2).as<float>();
  const int64_t bound = args.tokens.bound;
  if (bound == 0) return cudaSuccess;
  auto* const delta = ctx.Take<float>(bound * args.num_heads);
  if (delta == nullptr) return cudaErrorMemoryAllocation;
  args.delta = delta;
  const HeadSizes& sizes = args.sizes;
  WithType(ctx.in(0), [&](auto* dout_type) {
    WithType(ctx.in(4), [&](auto* o_type) {
      DeltaKernel<<<BlocksForRows(bound * args.num_heads), kBlock, 0,
                    ctx.stream>>>(
          args.tokens, args.num_heads, sizes.value_dim,
          ctx.in(0).as<ElementOf<decltype(dout_type)>>(),
          ctx.in(4).as<ElementOf<decltype(o_type)>>(), delta);
    });
  });
  if (UsesTensorCores(ctx, args) &&
      HasCausalAttentionGrad(sizes.key_dim, sizes.value_dim)) {
    return DifferentiateRounded(ctx, args);
  }
  if (const cudaError_t e = WidenRows(ctx, 1, args); e) return e;
  if (ctx.in(0).element_size == 2) {
    if (const cudaError_t e = Widened(ctx, ctx.in(0), &args.dout); e) return e;
  }
  if (const cudaError_t e = RoomForGrads(ctx, args); e) return e;
  // Both kernels hold kRows rows and kKeys lines of either.
  const size_t shared =
      sizeof(float) * (kRows * (sizes.padded_key() + sizes.padded_value()) +
                       kKeys * (sizes.key_pitch() + sizes.value_pitch()));
  const auto tiles = static_cast<unsigned>(CeilDiv(bound, kRows));
  const dim3 by_head(tiles, static_cast<unsigned>(args.num_heads));
  const dim3 by_kv_head(tiles,
                        static_cast<unsigned>(args.num_heads / args.group));
  const cudaError_t error = WithColumns<8>(
      std::max(sizes.key_dim, sizes.value_dim), [&](auto columns) {
        auto* const of_q = QueryGradKernel<decltype(columns)::value>;
        auto* const of_k = KeyGradKernel<decltype(columns)::value>;
        if (const cudaError_t e = AllowShared(of_q, shared); e) return e;
        if (const cudaError_t e = AllowShared(of_k, shared); e) return e;
        of_q<<<by_head, kAttendThreads, shared, ctx.stream>>>(args);
        of_k<<<by_kv_head, kAttendThreads, shared, ctx.stream>>>(args);
        return cudaGetLastError();
      });
  if (error == cudaErrorNotSupported) {
    return ctx.Refuse("keys or values of more than 256 columns a head");
  }
  return error == cudaSuccess ? StoreNarrowGrads(ctx, args) : error;
}

}  // namespace

void RegisterAttentionKernels(KernelRegistry& kernels) {
  kernels.Register("Attention", RunAttention);
  kernels.Register("AttentionGrad", RunAttentionGrad);
}

}  // namespace strata::gpu
