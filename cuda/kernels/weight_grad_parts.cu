#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/weight_grad_parts.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kThreads = 256;
// Of GroupedWeightGrad().
constexpr int64_t kTileRows = 128, kTileColumns = 256, kTileDepth = 64;
// Multiprocessors of an H100. As a constant, so that sums do not depend on the
// GPU.
constexpr int64_t kProcessors = 132;
// Tiles of all parts if all rows up to the bound are there.
constexpr int64_t kTiles = 2 * kProcessors;
// Eight steps of the sum: below, writing a part and reading it again would
// take as long as making it.
constexpr int64_t kMinRows = 512;

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Room {
  float* sum = nullptr;           // [parts, n, k]
  int32_t* offset = nullptr;      // [parts + 1]: rows where parts begin.
  int32_t* first_part = nullptr;  // [E + 1]
};

Room RoomAt(const GroupedWeightGradArgs& args, const WeightGradParts& parts,
            void* room) {
  Room at;
  at.sum = static_cast<float*>(room);
  at.offset =
      reinterpret_cast<int32_t*>(at.sum + parts.count * args.n * args.k);
  at.first_part = at.offset + parts.count + 1;
  return at;
}

struct Plan {
  Extent rows;
  int num_experts = 0;
  int num_parts = 0;
  int64_t rows_of_part = 0;
  const int32_t* offset = nullptr;
  Room room;
};

// One block. Offsets that do not rise give wrong parts, but no more of them.
__global__ void __launch_bounds__(kThreads) PlanKernel(const Plan plan) {
  __shared__ int32_t parts[kThreads];
  const int e = static_cast<int>(threadIdx.x);
  const int64_t rows = plan.rows.Get();
  int64_t begin = 0;
  parts[e] = 0;
  if (e < plan.num_experts) {
    begin = min(max(int64_t{plan.offset[e]}, int64_t{0}), rows);
    const int64_t end = min(max(int64_t{plan.offset[e + 1]}, begin), rows);
    parts[e] = static_cast<int32_t>((end - begin + plan.rows_of_part - 1) /
                                    plan.rows_of_part);
  }
  __syncthreads();
  int first = 0, all = 0;
  for (int other = 0; other < plan.num_experts; ++other) {
    if (other < e) first += parts[other];
    all += parts[other];
  }
  first = min(first, plan.num_parts);
  all = min(all, plan.num_parts);
  if (e <= plan.num_experts) plan.room.first_part[e] = first;
  const int end = min(first + parts[e], plan.num_parts);
  for (int p = first; p < end; ++p) {
    plan.room.offset[p] =
        static_cast<int32_t>(begin + (p - first) * plan.rows_of_part);
  }
  for (int p = all + e; p <= plan.num_parts; p += kThreads) {
    plan.room.offset[p] = static_cast<int32_t>(rows);
  }
}

template <typename T>
__device__ __forceinline__ float4 Load4(const T* from) {
  if constexpr (sizeof(T) == 4) {
    return *reinterpret_cast<const float4*>(from);
  } else {
    const auto* const pair = reinterpret_cast<const __nv_bfloat162*>(from);
    const float2 a = __bfloat1622float2(pair[0]);
    const float2 b = __bfloat1622float2(pair[1]);
    return {a.x, a.y, b.x, b.y};
  }
}

template <typename T>
__device__ __forceinline__ void Store4(const float4& x, T* to) {
  if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<float4*>(to) = x;
  } else {
    auto* const pair = reinterpret_cast<__nv_bfloat162*>(to);
    pair[0] = __floats2bfloat162_rn(x.x, x.y);
    pair[1] = __floats2bfloat162_rn(x.z, x.w);
  }
}

// blockIdx.y is an expert; a thread four elements of its dw. Bound by the
// parts' bytes, most of which are still in L2.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    SumPartsKernel(Room room, int64_t elements, const float* keep, T* dw) {
  const int64_t i = 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x);
  if (i >= elements) return;
  const int e = static_cast<int>(blockIdx.y);
  const int end = room.first_part[e + 1];
  float4 sum = {0, 0, 0, 0};
#pragma unroll 4
  for (int p = room.first_part[e]; p < end; ++p) {
    const float4 part = Load4(room.sum + p * elements + i);
    sum = {sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w};
  }
  T* const to = dw + e * elements + i;
  const float kept = keep != nullptr ? *keep : 0.f;
  if (kept != 0) {
    const float4 old = Load4(to);
    sum = {fmaf(kept, old.x, sum.x), fmaf(kept, old.y, sum.y),
           fmaf(kept, old.z, sum.z), fmaf(kept, old.w, sum.w)};
  }
  Store4(sum, to);
}

}  // namespace

WeightGradParts PartsOf(const GroupedWeightGradArgs& args) {
  const int64_t tiles = Ceil(args.n, kTileRows) * Ceil(args.k, kTileColumns);
  if (tiles == 0 || args.num_experts * tiles >= kProcessors) return {};
  WeightGradParts parts;
  parts.rows =
      std::max(kMinRows,
               Ceil(args.rows.bound * tiles, kTiles * kTileDepth) * kTileDepth);
  if (args.rows.bound <= parts.rows) return {};
  parts.count =
      static_cast<int>(args.num_experts + Ceil(args.rows.bound, parts.rows));
  parts.room = parts.count * args.n * args.k * sizeof(float) +
               (parts.count + args.num_experts + 2) * sizeof(int32_t);
  return parts;
}

cudaError_t GroupedWeightGradByParts(const GroupedWeightGradArgs& args,
                                     const WeightGradParts& parts, void* room,
                                     cudaStream_t stream) {
  if (parts.count == 0 || args.num_experts == 0) {
    return GroupedWeightGrad(args, stream);
  }
  const Room at = RoomAt(args, parts, room);
  PlanKernel<<<1, kThreads, 0, stream>>>(
      {args.rows, args.num_experts, parts.count, parts.rows, args.offset, at});
  GroupedWeightGradArgs by_part = args;
  by_part.num_experts = parts.count;
  by_part.offset = at.offset;
  by_part.dw = at.sum;
  by_part.bf16_dw = false;
  by_part.keep = nullptr;
  by_part.skips_empty = true;
  if (const cudaError_t e = GroupedWeightGrad(by_part, stream); e) return e;
  const int64_t elements = args.n * args.k;
  const dim3 grid(static_cast<unsigned>(Ceil(elements, 4 * kThreads)),
                  static_cast<unsigned>(args.num_experts));
  if (args.bf16_dw) {
    SumPartsKernel<<<grid, kThreads, 0, stream>>>(
        at, elements, args.keep, static_cast<__nv_bfloat16*>(args.dw));
  } else {
    SumPartsKernel<<<grid, kThreads, 0, stream>>>(at, elements, args.keep,
                                                  static_cast<float*>(args.dw));
  }
  return cudaGetLastError();
}

}  // namespace strata::gpu
