#include <algorithm>
#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/step/accumulate.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// All sums of a launch are cut into pieces, which the blocks take in turn; a
// thread works on four elements at a time. Bound by what is read and written,
// or, of small sums, by there being a launch at all.
namespace strata::gpu {
namespace {

constexpr int kInputs = 3;
constexpr int kPiece = 4 * kBlock * 4;  // Elements: four rounds of a block.

struct Sum {
  int64_t n = 0;
  const void* value = nullptr;
  void* sum = nullptr;
};

// Of one launch, by value: 29 of the 32 kB that a kernel's arguments may have.
constexpr int kMaxSums = 1024;
struct Table {
  const float* keep = nullptr;
  int count = 0;
  int32_t first_piece[kMaxSums + 1] = {};
  Sum sum[kMaxSums];
};
static_assert(sizeof(Table) < 32764);

// Whatever `sum` holds, NaN too, is forgotten where nothing is kept.
__device__ __forceinline__ float Added(float keep, float sum, float value) {
  return keep == 0 ? value : fmaf(keep, sum, value);
}
__device__ __forceinline__ int32_t Added(float keep, int32_t sum,
                                         int32_t value) {
  return value + (keep == 0 ? 0 : sum);
}

__device__ __forceinline__ float Wide(float x) { return x; }
__device__ __forceinline__ float Wide(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ int32_t Wide(int32_t x) { return x; }

// Four neighbours, in one access.
template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T at[4];
};

template <typename S, typename V>
__device__ void AddPiece(const Sum& of, float keep, int64_t begin,
                         int64_t end) {
  auto* const sum = static_cast<S*>(of.sum);
  const auto* const value = static_cast<const V*>(of.value);
  auto* const sum4 = static_cast<Four<S>*>(of.sum);
  const auto* const value4 = static_cast<const Four<V>*>(of.value);
  for (int64_t i = begin / 4 + threadIdx.x; i < end / 4; i += kBlock) {
    const Four<V> v = value4[i];
    Four<S> s = sum4[i];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s.at[j] = static_cast<S>(Added(keep, Wide(s.at[j]), Wide(v.at[j])));
    }
    sum4[i] = s;
  }
  const int64_t last = end / 4 * 4 + threadIdx.x;
  if (last < end) {
    sum[last] = static_cast<S>(Added(keep, Wide(sum[last]), Wide(value[last])));
  }
}

// The sum that a piece is of: the last that begins no later.
__device__ int SumOf(const Table& table, int piece) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.first_piece[middle] <= piece ? low : high) = middle;
  }
  return low;
}

template <typename S, typename V>
__global__ void __launch_bounds__(kBlock)
    AccumulateKernel(const __grid_constant__ Table table) {
  const float keep = *table.keep;
  const int pieces = table.first_piece[table.count];
  for (int piece = static_cast<int>(blockIdx.x); piece < pieces;
       piece += static_cast<int>(gridDim.x)) {
    const int s = SumOf(table, piece);
    const Sum& of = table.sum[s];
    const int64_t begin = int64_t{piece - table.first_piece[s]} * kPiece;
    AddPiece<S, V>(of, keep, begin, min(begin + kPiece, of.n));
  }
}

// A sum by itself, however large: its few arguments are quicker to pass.
template <typename S, typename V>
__global__ void __launch_bounds__(kBlock)
    AccumulateOneKernel(const Sum of, const float* keep_at) {
  const float keep = *keep_at;
  for (int64_t begin = int64_t{blockIdx.x} * kPiece; begin < of.n;
       begin += int64_t{gridDim.x} * kPiece) {
    AddPiece<S, V>(of, keep, begin, min(begin + kPiece, of.n));
  }
}

template <typename S, typename V>
cudaError_t AddOne(const Operand& sum, const V* value, const float* keep,
                   cudaStream_t stream) {
  const Sum of = {sum.max_elements(), value, sum.data};
  const int64_t pieces = CeilDiv(of.n, kPiece);
  if (pieces == 0) return cudaSuccess;
  AccumulateOneKernel<S, V>
      <<<static_cast<unsigned>(std::min(pieces, kMaxBlocks)), kBlock, 0,
         stream>>>(of, keep);
  return cudaGetLastError();
}

template <typename S, typename V>
cudaError_t Launch(const Table& table, cudaStream_t stream) {
  const int64_t pieces = table.first_piece[table.count];
  if (pieces == 0) return cudaSuccess;
  AccumulateKernel<S, V><<<static_cast<unsigned>(std::min(pieces, kMaxBlocks)),
                           kBlock, 0, stream>>>(table);
  return cudaGetLastError();
}

// The sums of S whose values are of V, in as few launches as hold them.
template <typename S, typename V>
cudaError_t LaunchAll(const KernelContext& ctx) {
  const auto are_these = [&](int first) {
    return ctx.in(first).element_size == sizeof(S) &&
           ctx.in(first + 1).element_size == sizeof(V);
  };
  if (ctx.num_inputs == kInputs) {
    if (!are_these(0)) return cudaSuccess;
    return AddOne<S>(ctx.in(0), ctx.in(1).as<V>(), ctx.in(2).as<float>(),
                     ctx.stream);
  }
  Table table;
  table.keep = ctx.in(2).as<float>();
  for (int first = 0; first < ctx.num_inputs; first += kInputs) {
    if (!are_these(first)) continue;
    if (ctx.in(first + 2).data != table.keep) {
      return ctx.Refuse("sums of one call are kept each in its own way");
    }
    if (table.count == kMaxSums) {
      if (const cudaError_t e = Launch<S, V>(table, ctx.stream); e) return e;
      table.count = 0;
    }
    const int64_t n = ctx.in(first).max_elements();
    const int s = table.count++;
    table.sum[s] = {n, ctx.in(first + 1).data, ctx.in(first).data};
    table.first_piece[s + 1] =
        table.first_piece[s] + static_cast<int32_t>(CeilDiv(n, kPiece));
  }
  return Launch<S, V>(table, ctx.stream);
}

cudaError_t RunAccumulate(const KernelContext& ctx) {
  using Narrow = __nv_bfloat16;
  if (const cudaError_t e = LaunchAll<float, float>(ctx); e) return e;
  if (const cudaError_t e = LaunchAll<float, Narrow>(ctx); e) return e;
  if (const cudaError_t e = LaunchAll<Narrow, float>(ctx); e) return e;
  return LaunchAll<Narrow, Narrow>(ctx);
}

cudaError_t RunAccumulateCounts(const KernelContext& ctx) {
  return LaunchAll<int32_t, int32_t>(ctx);
}

}  // namespace

cudaError_t AddToSum(const Operand& sum, const float* value, const float* keep,
                     cudaStream_t stream) {
  return sum.element_size == 2 ? AddOne<__nv_bfloat16>(sum, value, keep, stream)
                               : AddOne<float>(sum, value, keep, stream);
}

void RegisterAccumulateKernels(KernelRegistry& kernels) {
  kernels.Register("Accumulate", RunAccumulate);
  kernels.Register("AccumulateCounts", RunAccumulateCounts);
}

}  // namespace strata::gpu
