// Decode attention (decode_attention.h) over caches of any format: which keys a
// block has, and what becomes of what its warps make of them.
//
// A Loop says how a warp goes through its keys (decode_lanes.cuh: lane by lane;
// cache/packed_loop.cuh: in the tensor cores, of codes):
//
//   Maps                    what a launch brings besides the args
//   kDim, kQ                of a head; query heads of a KV head, at most
//   kHeadBytes              of a head in the cache
//   kBlocks, kSharedBytes   of a multiprocessor; of a block
//   Run(work, wait)         the block's keys; what others still write is read
//                           behind wait(), which it calls. Leaves, of each warp
//                           and head, sums of values in `memory` [kWarps, kQ,
//                           kDim], the scores' maximum and the weights' sum
//
// Then the warps of a block join, and the last block of a token's KV head joins
// what all have left in memory: a launch saved, and its wait.

#ifndef CUDA_OPS_HEADS_DECODE_KERNEL_CUH_
#define CUDA_OPS_HEADS_DECODE_KERNEL_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/cache_places.cuh"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/ops/heads/decode_pieces.cuh"
#include "cuda/runtime/kernel.h"

namespace strata::gpu::decode {

// What a block is about.
template <typename Loop>
struct Work {
  static constexpr int kQ = Loop::kQ;
  const Args& args;
  const typename Loop::Maps& maps;
  int64_t token;
  int kv_head;
  const RowsOfToken& rows;
  const Piece& piece;
  uint4* memory;  // Aligned to 128 bytes.
  float (&max_of)[kWarps][kQ];
  float (&sum_of)[kWarps][kQ];

  __device__ __forceinline__ int head() const { return kv_head * args.group; }
};

// Block (token and KV head, piece), a warp some of its keys.
template <typename Loop>
__global__ void __launch_bounds__(kThreads, Loop::kBlocks)
    PieceKernel(const __grid_constant__ Args args,
                const __grid_constant__ typename Loop::Maps maps) {
  constexpr int kDim = Loop::kDim, kQ = Loop::kQ;
  static_assert(sizeof(float) * kWarps * kQ * kDim <= Loop::kSharedBytes);
  // Eight lanes' copies are a line of 128 bytes in shared memory, or each
  // sector of theirs is fetched twice.
  extern __shared__ __align__(128) uint4 memory[];
  float* const joined = reinterpret_cast<float*>(memory);  // [kWarps, kQ, kDim]
  __shared__ float max_of[kWarps][kQ], sum_of[kWarps][kQ];

  bool waited = false;
  const auto wait = [&waited] {
    if (waited) return;
    WaitForEarlier();
    LetLaterBegin();
    waited = true;
  };
  if (!args.ahead) wait();
  // All heads of a token at about the same time: those of a key lie together.
  const int64_t token = blockIdx.x / args.num_kv_heads;
  if (token >= args.tokens.Get()) return wait();
  const int kv_head = static_cast<int>(blockIdx.x % args.num_kv_heads);
  const int64_t pair = token * args.num_kv_heads + kv_head;
  const int head = kv_head * args.group;
  const RowsOfToken rows(args.places, token);
  const Piece piece = PieceOf(args, token);
  if (blockIdx.y >= piece.pieces) return wait();
  if (!piece.old) wait();
  Loop::Run(Work<Loop>{args, maps, token, kv_head, rows, piece, memory, max_of,
                       sum_of},
            wait);
  __syncthreads();
  const int64_t first_to = (token * args.num_heads + head) * args.splits;
  for (int at = threadIdx.x; at < args.group * kDim; at += kThreads) {
    const int h = at / kDim, c = at % kDim;
    float largest = -INFINITY, total = 0, value = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, max_of[w][h]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float share =
          max_of[w][h] > -INFINITY ? exp2f(max_of[w][h] - largest) : 0.f;
      total = fmaf(sum_of[w][h], share, total);
      value = fmaf(joined[(w * kQ + h) * kDim + c], share, value);
    }
    if (piece.pieces == 1) {
      args.o[(token * args.num_heads + head) * kDim + at] =
          total > 0 ? value / total : 0.f;
      continue;
    }
    const int64_t to = first_to + h * args.splits + blockIdx.y;
    args.partial[to * kDim + c] = value;
    if (c == 0) {
      args.max[to] = largest;
      args.sum[to] = total;
    }
  }
  if (piece.pieces == 1 || !IsLast(args.ended + pair, piece.pieces)) return;
  JoinPieces<kDim, kQ>(args, token * args.num_heads + head, piece.pieces,
                       joined);
  if (threadIdx.x == 0) args.ended[pair] = 0;
}

template <typename Loop>
cudaError_t Launch(const DecodeAttentionArgs& args, cudaStream_t stream,
                   const typename Loop::Maps& maps = {}) {
  Args kernel_args;
  kernel_args.tokens = args.tokens;
  kernel_args.num_heads = args.num_heads;
  kernel_args.num_kv_heads = args.num_kv_heads / args.kv_heads_of_block;
  kernel_args.group = args.num_heads / kernel_args.num_kv_heads;
  kernel_args.splits = static_cast<int>(SplitsOf(args));
  kernel_args.head_bytes = Loop::kHeadBytes;
  kernel_args.row_bytes = int64_t{kernel_args.num_kv_heads} * Loop::kHeadBytes;
  kernel_args.factor = args.scale * 1.4426950408889634f;  // For powers of 2.
  kernel_args.window = args.window;
  kernel_args.ahead = args.old_keys_stay;
  kernel_args.q = args.q;
  kernel_args.k = args.k;
  kernel_args.v = args.v;
  static_cast<CachePlaces&>(kernel_args.places) = args.places;
  kernel_args.partial = args.partial;
  kernel_args.max = args.max;
  kernel_args.sum = args.sum;
  kernel_args.ended = args.ended;
  kernel_args.o = args.o;
  kernel_args.fault = args.fault;
  auto* const kernel = PieceKernel<Loop>;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, Loop::kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(
      static_cast<unsigned>(args.tokens.bound * kernel_args.num_kv_heads),
      static_cast<unsigned>(kernel_args.splits));
  return LaunchAhead(kernel, grid, dim3(kThreads), Loop::kSharedBytes, stream,
                     kernel_args, maps);
}

}  // namespace strata::gpu::decode

#endif  // CUDA_OPS_HEADS_DECODE_KERNEL_CUH_
