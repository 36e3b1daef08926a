#include <cstdint>

#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/optimizer.h"
#include "cuda/ops/step/accumulate.h"
#include "cuda/ops/step/adamw.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// Gradients of one launch, by value: 2.3 kB of a kernel's 4 kB of arguments.
constexpr int kBatch = 96;
struct Gradients {
  const void* data[kBatch];
  int64_t size[kBatch];
  int32_t first_piece[kBatch + 1];  // Of the batch's partial sums.
  bool bf16[kBatch];
};

// Blocks that share a gradient of n elements: enough that the largest alone
// fills the GPU.
int PiecesOf(int64_t n) {
  return static_cast<int>(std::clamp<int64_t>(CeilDiv(n, 1 << 15), 1, 1056));
}

// The squares of a block's part of x, in double; of eights in float before.
template <typename T>
__device__ double SumSquares(const T* x, int64_t n, int64_t first,
                             int64_t stride) {
  double sum = 0;
  for (int64_t i = first; i < n / 8; i += stride) {
    float e[8], squares = 0;
    Load8(x + 8 * i, e);
#pragma unroll
    for (float value : e) squares = fmaf(value, value, squares);
    sum += squares;
  }
  for (int64_t i = n / 8 * 8 + first; i < n; i += stride) {
    const float value = x[i];
    sum += static_cast<double>(value) * value;
  }
  return sum;
}

// partial [pieces of all gradients]: sums of squares.
__global__ void __launch_bounds__(kBlock)
    SquaresKernel(const Gradients gradients, double* partial) {
  const int g = static_cast<int>(blockIdx.y);
  const int piece = gradients.first_piece[g] + static_cast<int>(blockIdx.x);
  const int pieces = gradients.first_piece[g + 1] - gradients.first_piece[g];
  if (blockIdx.x >= pieces) return;
  const int64_t n = gradients.size[g];
  const int64_t first = FirstElement(), stride = int64_t{pieces} * kBlock;
  double sum = 0;
  if (gradients.bf16[g]) {
    sum = SumSquares(static_cast<const __nv_bfloat16*>(gradients.data[g]), n,
                     first, stride);
  } else {
    sum = SumSquares(static_cast<const float*>(gradients.data[g]), n, first,
                     stride);
  }
  sum = BlockSum(sum);
  if (threadIdx.x == 0) partial[piece] = sum;
}

__global__ void __launch_bounds__(kBlock)
    NormKernel(int64_t n, const double* partial, const float* divisor,
               float* norm) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kBlock) sum += partial[i];
  sum = BlockSum(sum);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum) / *divisor);
}

cudaError_t RunGlobalNorm(const KernelContext& ctx) {
  const int num_grads = ctx.num_inputs - 1;
  int64_t all_pieces = 0;
  for (int g = 0; g < num_grads; ++g) {
    all_pieces += PiecesOf(ctx.in(1 + g).max_elements());
  }
  auto* const partial = ctx.Take<double>(all_pieces);
  if (partial == nullptr) return cudaErrorMemoryAllocation;
  double* of_batch = partial;
  for (int first = 0; first < num_grads; first += kBatch) {
    const int count = std::min(kBatch, num_grads - first);
    Gradients gradients = {};
    int most = 1;
    for (int g = 0; g < count; ++g) {
      const Operand& grad = ctx.in(1 + first + g);
      gradients.data[g] = grad.data;
      gradients.size[g] = grad.max_elements();
      gradients.bf16[g] = grad.element_size == 2;
      const int pieces = PiecesOf(gradients.size[g]);
      gradients.first_piece[g + 1] = gradients.first_piece[g] + pieces;
      most = std::max(most, pieces);
    }
    SquaresKernel<<<dim3(static_cast<unsigned>(most),
                         static_cast<unsigned>(count)),
                    kBlock, 0, ctx.stream>>>(gradients, of_batch);
    of_batch += gradients.first_piece[count];
  }
  NormKernel<<<1, kBlock, 0, ctx.stream>>>(
      all_pieces, partial, ctx.in(0).as<float>(), ctx.out(0).as<float>());
  return cudaGetLastError();
}

}  // namespace

void RegisterOptimizerKernels(KernelRegistry& kernels) {
  kernels.Register("GlobalNorm", RunGlobalNorm);
  RegisterAccumulateKernels(kernels);
  RegisterAdamWKernels(kernels);
}

}  // namespace strata::gpu
