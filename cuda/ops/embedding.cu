#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/embedding.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// A thread an element. An id out of range is reported, and its row zeros.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    EmbeddingKernel(Extent tokens, int64_t vocab, int64_t d, const T* table,
                    const int32_t* ids, float* rows, FaultSink fault) {
  const int64_t n = tokens.Get() * d;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const int64_t token = i / d, column = i % d;
    const int64_t id = ids[token];
    const bool good = id >= 0 && id < vocab;
    if (!good && column == 0) {
      fault.Report(FaultKind::kTokenId, token, id, vocab);
    }
    rows[i] = good ? static_cast<float>(table[id * d + column]) : 0.f;
  }
}

cudaError_t RunEmbedding(const KernelContext& ctx) {
  const Operand& table = ctx.in(0);
  const Operand& ids = ctx.in(1);
  const auto launch = [&](auto* data) {
    EmbeddingKernel<<<BlocksFor(ids.dim(0) * table.dim(1)), kBlock, 0,
                      ctx.stream>>>(ids.rows(), table.dim(0), table.dim(1),
                                    data, ids.as<int32_t>(),
                                    ctx.out(0).as<float>(), ctx.fault);
    return cudaGetLastError();
  };
  return table.element_size == 2 ? launch(table.as<const __nv_bfloat16>())
                                 : launch(table.as<const float>());
}

// Row `blockIdx.x` of the table's gradient: the sum of the rows whose token it
// is, in their order. A block looks at 256 ids at a time and lists those.
__global__ void __launch_bounds__(kBlock)
    EmbeddingGradKernel(Extent tokens, int64_t vocab, int64_t d,
                        const float* drows, const int32_t* ids, float* dtable,
                        FaultSink fault) {
  __shared__ int list[kBlock];
  __shared__ int warp_count[kWarpsPerBlock];
  const int64_t t = tokens.Get(), row = blockIdx.x;
  const int warp = threadIdx.x / kWarp;
  for (int64_t j = threadIdx.x; j < d; j += kBlock) dtable[row * d + j] = 0;
  for (int64_t first = 0; first < t; first += kBlock) {
    const int64_t i = first + threadIdx.x;
    const int64_t id = i < t ? ids[i] : -1;
    if (row == 0 && i < t && (id < 0 || id >= vocab)) {
      fault.Report(FaultKind::kTokenId, i, id, vocab);
    }
    const bool match = i < t && id == row;
    if (!__syncthreads_or(match)) continue;
    const unsigned matches = __ballot_sync(kWholeWarp, match);
    if (Lane() == 0) warp_count[warp] = __popc(matches);
    __syncthreads();
    int before = __popc(matches & ((1u << Lane()) - 1)), count = 0;
#pragma unroll
    for (int w = 0; w < kWarpsPerBlock; ++w) {
      if (w < warp) before += warp_count[w];
      count += warp_count[w];
    }
    if (match) list[before] = threadIdx.x;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < d; j += kBlock) {
      float sum = dtable[row * d + j];
      for (int m = 0; m < count; ++m) sum += drows[(first + list[m]) * d + j];
      dtable[row * d + j] = sum;
    }
    __syncthreads();
  }
}

cudaError_t RunEmbeddingGrad(const KernelContext& ctx) {
  const Operand& ids = ctx.in(1);
  const Operand& dtable = ctx.out(0);
  EmbeddingGradKernel<<<static_cast<unsigned>(dtable.dim(0)), kBlock, 0,
                        ctx.stream>>>(ids.rows(), dtable.dim(0), dtable.dim(1),
                                      ctx.in(0).as<float>(), ids.as<int32_t>(),
                                      dtable.as<float>(), ctx.fault);
  return cudaGetLastError();
}

}  // namespace

void RegisterEmbeddingKernels(KernelRegistry& kernels) {
  kernels.Register("Embedding", RunEmbedding);
  kernels.Register("EmbeddingGrad", RunEmbeddingGrad);
}

}  // namespace strata::gpu
