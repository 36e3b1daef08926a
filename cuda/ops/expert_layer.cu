#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/expert_layer.h"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

using BFloat = __nv_bfloat16;

// --- Eight elements of a row, to and from floats ---

constexpr int kEight = 8;

__device__ __forceinline__ void LoadEight(const BFloat* from,
                                          float (&x)[kEight]) {
  Unpack(*reinterpret_cast<const uint4*>(from), x);
}
__device__ __forceinline__ void LoadEight(const float* from,
                                          float (&x)[kEight]) {
  const auto* const pair = reinterpret_cast<const float4*>(from);
  const float4 a = pair[0], b = pair[1];
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
  x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
__device__ __forceinline__ void StoreEight(const float (&x)[kEight],
                                           BFloat* to) {
  *reinterpret_cast<uint4*>(to) = Pack(x);
}
__device__ __forceinline__ void StoreEight(const float (&x)[kEight],
                                           float* to) {
  auto* const pair = reinterpret_cast<float4*>(to);
  pair[0] = {x[0], x[1], x[2], x[3]};
  pair[1] = {x[4], x[5], x[6], x[7]};
}

// --- Many slots ---

// Slots of a token that a thread has at a time.
constexpr int kAtOnce = 8;

// rows[slot_row[s]] = x of the slot's token; a thread eight elements of a
// token, which so are read once.
template <typename X>
__global__ void __launch_bounds__(kBlock)
    GatherKernel(Extent tokens, int64_t pieces, int k, const X* x,
                 const int32_t* slot_row, BFloat* out) {
  WaitForEarlier();
  LetLaterBegin();  // Now, as the products' weights_ahead has it.
  const int64_t n = tokens.Get() * pieces;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const int64_t token = i / pieces, piece = i % pieces;
    float element[kEight];
    LoadEight(x + i * kEight, element);
    for (int begin = 0; begin < k; begin += kAtOnce) {
      int64_t row[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        row[j] = begin + j < k ? slot_row[token * k + begin + j] : -1;
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (row[j] < 0) continue;
        StoreEight(element, out + (row[j] * pieces + piece) * kEight);
      }
    }
  }
}

// The row of h and y that token i goes to; -1, and a fault, if there is none.
__device__ __forceinline__ int64_t RowOf(const ExpertLayerArgs& a, int64_t i) {
  if (a.index == nullptr) return i;
  const int64_t to = a.index[i];
  if (to >= 0 && to < a.num_indexed) return to;
  a.fault.Report(FaultKind::kRowIndex, i, to, a.num_indexed);
  return -1;
}

__device__ __forceinline__ void AddEight(const float (&x)[kEight],
                                         float (&sum)[kEight]) {
#pragma unroll
  for (int c = 0; c < kEight; ++c) sum[c] += x[c];
}

// Rows of kAsked slots are asked for before the first is waited for: of few
// tokens that is what it takes; of many, other warps do it. With `plan_is_old`
// the kernel ahead makes rows alone, and has waited for what makes the rest.
template <typename Y, typename Row, int kAsked>
__global__ void __launch_bounds__(kBlock)
    CombineKernel(const ExpertLayerArgs a, const Row* rows, bool plan_is_old) {
  LetLaterBegin();
  bool waits = kAsked > 1 && plan_is_old;
  if (!waits) WaitForEarlier();
  const int64_t pieces = a.d / kEight, n = a.tokens.Get() * pieces;
  const auto* const h = static_cast<const Y*>(a.h);
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const int64_t token = i / pieces, piece = i % pieces;
    const int64_t to = RowOf(a, token);
    if (to < 0) continue;
    const int64_t at = (to * pieces + piece) * kEight;
    // What is added behind rows is asked for with them.
    float sum[kEight] = {}, of_h[kEight], beside[kEight];
    if (h != nullptr) LoadEight(h + at, of_h);
    const int64_t first = token * a.k;
#pragma unroll 8 / kAsked
    for (int begin = 0; begin < a.k; begin += kAsked) {
      int64_t row[kAsked];
      float weight[kAsked], x[kAsked][kEight];
#pragma unroll
      for (int j = 0; j < kAsked; ++j) {
        const bool there = begin + j < a.k;
        row[j] = there ? a.slot_row[first + begin + j] : -1;
        weight[j] =
            there && a.weight != nullptr ? a.weight[first + begin + j] : 1.f;
      }
      if (waits) WaitForEarlier();
      waits = false;
      if (begin == 0 && a.beside != nullptr) {
        LoadEight(a.beside + i * kEight, beside);
      }
#pragma unroll
      for (int j = 0; j < kAsked; ++j) {
        if (row[j] < 0) continue;
        LoadEight(rows + (row[j] * pieces + piece) * kEight, x[j]);
      }
#pragma unroll
      for (int j = 0; j < kAsked; ++j) {
        if (row[j] < 0) continue;
#pragma unroll
        for (int c = 0; c < kEight; ++c) {
          sum[c] = fmaf(weight[j], x[j][c], sum[c]);
        }
      }
    }
    if (a.beside != nullptr) AddEight(beside, sum);
    if (h != nullptr) AddEight(of_h, sum);
    StoreEight(sum, static_cast<Y*>(a.y) + at);
  }
  if (waits) WaitForEarlier();
}

// --- Few slots ---

// The expert of a slot, or -1.
__device__ __forceinline__ int ExpertOf(const ExpertLayerArgs& a,
                                        int64_t slot) {
  if (a.expert != nullptr) return a.expert[slot];
  const int32_t row = a.slot_row[slot];
  if (row < 0) return -1;
  // The last expert that begins at the row or before.
  int expert = 0;
  for (int step = 1024; step > 0; step /= 2) {
    if (expert + step < a.num_experts && a.offset[expert + step] <= row) {
      expert += step;
    }
  }
  return expert;
}

// sum += a's elements times b's.
__device__ __forceinline__ void AddDot(const float (&a)[kEight],
                                       const float (&b)[kEight], float& sum) {
#pragma unroll
  for (int c = 0; c < kEight; ++c) sum = fmaf(a[c], b[c], sum);
}

// hidden[slot], a warp a column of it: two rows of gate_up.
template <typename X>
__global__ void __launch_bounds__(kBlock)
    FewHiddenKernel(const ExpertLayerArgs a) {
  WaitForEarlier();
  LetLaterBegin();  // Now, so that the choice is old to the kernel behind.
  const int64_t slots = a.tokens.Get() * a.k;
  const int64_t slot = blockIdx.y;
  const int64_t column =
      int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarp;
  if (slot >= slots || column >= a.width) return;
  const int expert = ExpertOf(a, slot);
  if (expert < 0) return;
  const X* const x = static_cast<const X*>(a.x) + slot / a.k * a.d;
  const BFloat* const gate =
      a.gate_up + (int64_t{expert} * 2 * a.width + column) * a.d;
  const BFloat* const up = gate + a.width * a.d;
  float gate_sum = 0, up_sum = 0;
#pragma unroll 8
  for (int64_t c = Lane() * kEight; c < a.d; c += kWarp * kEight) {
    float value[kEight], g[kEight], u[kEight];
    LoadEight(gate + c, g);
    LoadEight(up + c, u);
    LoadEight(x + c, value);
    AddDot(value, g, gate_sum);
    AddDot(value, u, up_sum);
  }
  gate_sum = WarpSum(gate_sum);
  up_sum = WarpSum(up_sum);
  if (Lane() == 0) {
    a.hidden[slot * a.width + column] =
        __float2bfloat16_rn(gate_sum * SigmoidOf(gate_sum) * up_sum);
  }
}

// y of a token's column, by the lane that has its sum.
template <typename Y>
__device__ __forceinline__ void StoreFew(const ExpertLayerArgs& a,
                                         int64_t token, int64_t column,
                                         float sum) {
  const int64_t to = RowOf(a, token);
  if (to < 0) return;
  const int64_t at = to * a.d + column;
  if (a.h != nullptr) {
    sum += static_cast<float>(static_cast<const Y*>(a.h)[at]);
  }
  static_cast<Y*>(a.y)[at] = static_cast<Y>(sum);
}

// y of a token, a warp a column: a row of down for each of its slots.
template <typename Y>
__global__ void __launch_bounds__(kBlock)
    FewOutputKernel(const ExpertLayerArgs a) {
  WaitForEarlier();
  LetLaterBegin();
  const int64_t token = blockIdx.y;
  const int64_t column =
      int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarp;
  if (token >= a.tokens.Get() || column >= a.d) return;
  float sum = 0;
#pragma unroll 8
  for (int j = 0; j < a.k; ++j) {
    const int64_t slot = token * a.k + j;
    const int expert = ExpertOf(a, slot);
    if (expert < 0) continue;
    const BFloat* const w = a.down + (int64_t{expert} * a.d + column) * a.width;
    const BFloat* const x = a.hidden + slot * a.width;
    float dot = 0;
#pragma unroll 4
    for (int64_t c = Lane() * kEight; c < a.width; c += kWarp * kEight) {
      float value[kEight], weight[kEight];
      LoadEight(w + c, weight);
      LoadEight(x + c, value);
      AddDot(value, weight, dot);
    }
    sum = fmaf(a.weight != nullptr ? a.weight[slot] : 1.f, dot, sum);
  }
  sum = WarpSum(sum);
  if (Lane() == 0) StoreFew<Y>(a, token, column, sum);
}

// The same of up to a slot a lane, of which all rows of down are on their way
// to shared memory before hidden is there.
template <typename Y>
__global__ void __launch_bounds__(kBlock)
    FewOutputAheadKernel(const ExpertLayerArgs a) {
  extern __shared__ uint4 rows_of_down[];
  const int64_t token = blockIdx.y, warp = threadIdx.x / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarpsPerBlock + warp;
  const bool there = token < a.tokens.Get() && column < a.d;
  int expert = -1;
  float weight = 1;
  if (there && Lane() < a.k) {
    const int64_t slot = token * a.k + Lane();
    expert = ExpertOf(a, slot);
    if (a.weight != nullptr) weight = a.weight[slot];
  }
  const int of_row = static_cast<int>(a.width / kEight);
  uint4* const rows = rows_of_down + warp * a.k * of_row;
#pragma unroll 8
  for (int j = 0; j < a.k; ++j) {
    const int of_slot = __shfl_sync(kWholeWarp, expert, j);
    if (of_slot < 0) continue;
    const auto* const from = reinterpret_cast<const uint4*>(
        a.down + (int64_t{of_slot} * a.d + column) * a.width);
    for (int i = Lane(); i < of_row; i += kWarp) {
      CopyAsync16(rows + j * of_row + i, from + i);
    }
  }
  EndCopies();
  WaitForEarlier();
  LetLaterBegin();
  WaitForCopies<0>();  // A lane reads what it has copied.
  if (!there) return;
  float sum = 0;
  const auto* const hidden =
      reinterpret_cast<const uint4*>(a.hidden) + token * a.k * of_row;
  for (int first = 0; first < of_row; first += kWarp) {
    const int i = first + Lane();
    for (int begin = 0; begin < a.k; begin += kAtOnce) {
      uint4 x[kAtOnce];
      bool has[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int slot = begin + j;
        const int of_slot = __shfl_sync(kWholeWarp, expert, slot % kWarp);
        has[j] = slot < a.k && of_slot >= 0 && i < of_row;
        if (has[j]) x[j] = hidden[slot * of_row + i];
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int slot = begin + j;
        const float scale = __shfl_sync(kWholeWarp, weight, slot % kWarp);
        if (!has[j]) continue;
        float dot = 0, value[kEight], w[kEight];
        Unpack(x[j], value);
        Unpack(rows[slot * of_row + i], w);
        AddDot(value, w, dot);
        sum = fmaf(scale, dot, sum);
      }
    }
  }
  sum = WarpSum(sum);
  if (Lane() == 0) StoreFew<Y>(a, token, column, sum);
}

template <typename Fn>
cudaError_t WithType(bool bf16, Fn fn) {
  if (bf16) {
    fn(static_cast<BFloat*>(nullptr));
  } else {
    fn(static_cast<float*>(nullptr));
  }
  return cudaGetLastError();
}

unsigned WarpBlocks(int64_t columns) {
  return static_cast<unsigned>(CeilDiv(columns, kWarpsPerBlock));
}

// One token's launches begin ahead, and rows of down with them, where two
// blocks of a multiprocessor have room for theirs; more tokens' blocks, or rows
// in parts, have others to wait beside, and it would only cost.
constexpr size_t kMaxBytesAhead = 112 << 10;

template <Begins kBegins>
cudaError_t LaunchFew(const ExpertLayerArgs& args, size_t bytes_ahead,
                      cudaStream_t stream) {
  const dim3 hidden(WarpBlocks(args.width),
                    static_cast<unsigned>(args.max_slots()));
  const dim3 output(WarpBlocks(args.d),
                    static_cast<unsigned>(args.tokens.bound));
  cudaError_t error = cudaSuccess;
  WithType(args.bf16_x, [&](auto* x) {
    using X = std::remove_pointer_t<decltype(x)>;
    error = LaunchClusters<kBegins>(FewHiddenKernel<X>, 1, hidden, kBlock, 0,
                                    stream, args);
  });
  if (error != cudaSuccess) return error;
  WithType(args.bf16_y, [&](auto* y) {
    using Y = std::remove_pointer_t<decltype(y)>;
    auto* const kernel = kBegins == Begins::kAhead ? FewOutputAheadKernel<Y>
                                                   : FewOutputKernel<Y>;
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes_ahead));
    if (error != cudaSuccess) return;
    error = LaunchClusters<kBegins>(kernel, 1, output, kBlock, bytes_ahead,
                                    stream, args);
  });
  return error;
}

cudaError_t FewSlots(const ExpertLayerArgs& args, cudaStream_t stream) {
  const size_t bytes = kWarpsPerBlock * args.k * args.width * sizeof(BFloat);
  return args.tokens.bound == 1 && args.k <= kWarp && bytes <= kMaxBytesAhead
             ? LaunchFew<Begins::kAhead>(args, bytes, stream)
             : LaunchFew<Begins::kBehind>(args, 0, stream);
}

template <typename Row>
cudaError_t Combine(const ExpertLayerArgs& args, const Row* rows,
                    bool plan_is_old, cudaStream_t stream) {
  // Few tokens go to more multiprocessors, in small blocks.
  constexpr int64_t kMaxFewTokens = 512, kFewThreads = 64;
  const bool few = args.tokens.bound <= kMaxFewTokens;
  const int64_t pieces = args.tokens.bound * (args.d / kEight);
  const unsigned blocks =
      few ? static_cast<unsigned>(std::clamp<int64_t>(
                CeilDiv(pieces, kFewThreads), 1, kMaxBlocks))
          : BlocksFor(pieces);
  cudaError_t error = cudaSuccess;
  const cudaError_t last = WithType(args.bf16_y, [&](auto* y) {
    using Y = std::remove_pointer_t<decltype(y)>;
    auto* const kernel =
        few ? CombineKernel<Y, Row, kAtOnce> : CombineKernel<Y, Row, 1>;
    error = LaunchAhead(kernel, dim3(blocks), dim3(few ? kFewThreads : kBlock),
                        0, stream, args, rows, plan_is_old);
  });
  return error != cudaSuccess ? error : last;
}

cudaError_t Gather(const ExpertLayerArgs& args, cudaStream_t stream) {
  const int64_t pieces = args.d / kEight;
  cudaError_t error = cudaSuccess;
  const cudaError_t last = WithType(args.bf16_x, [&](auto* x) {
    using X = std::remove_pointer_t<decltype(x)>;
    error = LaunchAhead(
        GatherKernel<X>, dim3(BlocksFor(args.tokens.bound * pieces)),
        dim3(kBlock), 0, stream, args.tokens, pieces, args.k,
        static_cast<const X*>(args.x), args.slot_row, args.gathered);
  });
  return error != cudaSuccess ? error : last;
}

cudaError_t Products(const ExpertLayerArgs& args, cudaStream_t stream) {
  GroupedProductArgs up;
  up.rows = args.rows;
  up.num_experts = args.num_experts;
  up.n = 2 * args.width;
  up.k = args.d;
  up.x = args.gathered;
  up.w = args.gate_up;
  up.offset = args.offset;
  up.y = args.hidden;
  up.bf16_y = up.swiglu = up.ahead = true;
  // Or it is behind GatherKernel.
  up.weights_ahead = !args.has_rows || args.plan_is_old;
  if (const cudaError_t e = GroupedProduct(up, stream); e) return e;
  GroupedProductArgs down;
  down.rows = args.rows;
  down.num_experts = args.num_experts;
  down.n = args.d;
  down.k = args.width;
  down.x = args.hidden;
  down.w = args.down;
  down.offset = args.offset;
  down.y = args.gathered;
  down.bf16_y = down.ahead = down.weights_ahead = true;
  return GroupedProduct(down, stream);
}

}  // namespace

bool HasExpertLayer(const ExpertLayerArgs& args) {
  return IsHopper() &&
         HasSwiGluTiles(2 * args.width, args.d, args.num_experts) &&
         HasTiles(args.d, args.width, args.num_experts);
}

cudaError_t ExpertLayer(const ExpertLayerArgs& args, cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (!args.has_rows) {
    if (args.max_slots() <= kMaxFewSlots) return FewSlots(args, stream);
    if (const cudaError_t e = Gather(args, stream); e) return e;
  }
  if (const cudaError_t e = Products(args, stream); e) return e;
  return Combine(args, args.gathered, /*plan_is_old=*/true, stream);
}

cudaError_t CombineExperts(const ExpertLayerArgs& args, const void* rows,
                           bool bf16_rows, bool plan_is_old,
                           cudaStream_t stream) {
  return bf16_rows ? Combine(args, static_cast<const BFloat*>(rows),
                             plan_is_old, stream)
                   : Combine(args, static_cast<const float*>(rows), plan_is_old,
                             stream);
}

}  // namespace strata::gpu
