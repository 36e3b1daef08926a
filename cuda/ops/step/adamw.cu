#include <algorithm>
#include <cstdint>

#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/step/adamw.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// All parameters of a launch are cut into pieces, which the blocks take in
// turn; as many blocks as are resident at once, so that none begins late. A
// thread works on eight elements of BF16 at a time, or four of F32: 112 bytes.
// Bound by these.
namespace strata::gpu {
namespace {

constexpr int kInputs = 8;  // Of a node; one more where weights lie in halves.
constexpr int kPiece = 4 * kBlock * 8;  // Elements: four rounds of a block.
constexpr int kBlocksPerProcessor = 4;  // With 64 registers a thread.

struct Parameter {
  int64_t n = 0;
  void* param = nullptr;  // F32 or BF16, all four alike.
  void* m = nullptr;
  void* v = nullptr;
  const void* grad = nullptr;
  int16_t* low = nullptr;  // Of halves: param is BF16, the others F32.
};

struct StepArgs {
  const float* norm = nullptr;
  const float* divisor = nullptr;
  const float* lr = nullptr;
  const int32_t* step = nullptr;
  double beta1 = 0, beta2 = 0, max_norm = 0;
  float eps = 0, weight_decay = 0;
  FaultSink fault;
};

// Of one launch, by value: 27 of the 32 kB that a kernel's arguments may have.
constexpr int kMaxParameters = 512;
struct Table {
  StepArgs step;
  int count = 0;
  int32_t first_piece[kMaxParameters + 1] = {};
  Parameter parameter[kMaxParameters];
};
static_assert(sizeof(Table) < 32764);

// What all elements share; one thread of a block works it out. Each rounding is
// written out: left to the compiler, which product of a sum is fused with it
// differs from kernel to kernel, and weights in halves would not be those in
// F32.
struct AdamWStep {
  float grad_scale, m_scale, v_scale;
  float beta1, beta2, lr, eps, weight_decay;

  __device__ __forceinline__ void Update(float g, float& p, float& m,
                                         float& v) const {
    g = __fmul_rn(g, grad_scale);
    m = fmaf(beta1, m, __fmul_rn(1.f - beta1, g));
    v = fmaf(beta2, v, __fmul_rn(__fmul_rn(1.f - beta2, g), g));
    const float root = __fsqrt_rn(__fmul_rn(v, v_scale));
    const float update = __fdiv_rn(__fmul_rn(m, m_scale), __fadd_rn(root, eps));
    p = fmaf(-lr, fmaf(weight_decay, p, update), p);
  }
};

// False if nothing may change. To all threads of a block.
__device__ bool ShareStep(const StepArgs& args, AdamWStep& step) {
  __shared__ AdamWStep shared;
  const double norm = *args.norm;
  // A gradient that is NaN or infinite would spoil every weight.
  if (!isfinite(norm)) return false;
  if (threadIdx.x == 0) {
    const int number = *args.step;
    if (number < 1) args.fault.Report(FaultKind::kStep, 0, number, 0);
    shared.grad_scale = static_cast<float>(fmin(1.0, args.max_norm / norm) /
                                           static_cast<double>(*args.divisor));
    shared.m_scale = static_cast<float>(1 / (1 - pow(args.beta1, number)));
    shared.v_scale = static_cast<float>(1 / (1 - pow(args.beta2, number)));
    shared.beta1 = static_cast<float>(args.beta1);
    shared.beta2 = static_cast<float>(args.beta2);
    shared.lr = *args.lr;
    shared.eps = args.eps;
    shared.weight_decay = args.weight_decay;
  }
  __syncthreads();
  step = shared;
  return *args.step >= 1;
}

// Bits for element i of a step: two multiplications of Murmur3's finaliser.
__device__ __forceinline__ uint32_t RandomBits(uint32_t seed, int64_t i) {
  uint32_t h = static_cast<uint32_t>(i) ^
               static_cast<uint32_t>(i >> 32) * 0x9e3779b9u ^ seed;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

// x, of which the lower half is cut off after the lower half of `random` was
// added: BF16 as the upper half of a float.
__device__ __forceinline__ uint32_t RoundAtRandom(float x, uint32_t random) {
  const uint32_t bits = __float_as_uint(x);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return (bits + (finite ? random & 0xffff : 0)) & 0xffff0000u;
}

// Elements [begin, end) of a parameter by a block; begin is a multiple of 8,
// and so is end where it is not the parameter's.
__device__ void UpdatePiece(const AdamWStep& step, uint32_t seed,
                            const Parameter& of, int64_t begin, int64_t end,
                            float) {
  auto* const param = static_cast<float*>(of.param);
  auto* const m = static_cast<float*>(of.m);
  auto* const v = static_cast<float*>(of.v);
  const auto* const grad = static_cast<const float*>(of.grad);
  for (int64_t i = begin / 4 + threadIdx.x; i < end / 4; i += kBlock) {
    const float4 g4 = reinterpret_cast<const float4*>(grad)[i];
    float4 p4 = reinterpret_cast<const float4*>(param)[i];
    float4 m4 = reinterpret_cast<const float4*>(m)[i];
    float4 v4 = reinterpret_cast<const float4*>(v)[i];
    step.Update(g4.x, p4.x, m4.x, v4.x);
    step.Update(g4.y, p4.y, m4.y, v4.y);
    step.Update(g4.z, p4.z, m4.z, v4.z);
    step.Update(g4.w, p4.w, m4.w, v4.w);
    reinterpret_cast<float4*>(param)[i] = p4;
    reinterpret_cast<float4*>(m)[i] = m4;
    reinterpret_cast<float4*>(v)[i] = v4;
  }
  const int64_t last = end / 4 * 4 + threadIdx.x;
  if (last < end) step.Update(grad[last], param[last], m[last], v[last]);
}

__device__ void UpdatePiece(const AdamWStep& step, uint32_t seed,
                            const Parameter& of, int64_t begin, int64_t end,
                            __nv_bfloat16) {
  auto* const param = static_cast<__nv_bfloat16*>(of.param);
  auto* const m = static_cast<__nv_bfloat16*>(of.m);
  auto* const v = static_cast<__nv_bfloat16*>(of.v);
  const auto* const grad = static_cast<const __nv_bfloat16*>(of.grad);
  const auto update = [&](int64_t i, float g, float& p, float& m_i,
                          float& v_i) {
    step.Update(g, p, m_i, v_i);
    const uint32_t random = RandomBits(seed, i);
    p = __uint_as_float(RoundAtRandom(p, random));
    m_i = __uint_as_float(RoundAtRandom(m_i, random >> 16));
    v_i = __uint_as_float(RoundAtRandom(v_i, random * 0x9e3779b1u >> 16));
  };
  for (int64_t i = begin / 8 + threadIdx.x; i < end / 8; i += kBlock) {
    float g8[8], p8[8], m8[8], v8[8];
    Load8(grad + 8 * i, g8);
    Load8(param + 8 * i, p8);
    Load8(m + 8 * i, m8);
    Load8(v + 8 * i, v8);
#pragma unroll
    for (int j = 0; j < 8; ++j) update(8 * i + j, g8[j], p8[j], m8[j], v8[j]);
    // Exact: they are rounded.
    Store8(p8, param + 8 * i);
    Store8(m8, m + 8 * i);
    Store8(v8, v + 8 * i);
  }
  const int64_t last = end / 8 * 8 + threadIdx.x;
  if (last >= end) return;
  float p_i = param[last], m_i = m[last], v_i = v[last];
  update(last, grad[last], p_i, m_i, v_i);
  param[last] = p_i;
  m[last] = m_i;
  v[last] = v_i;
}

struct Halves {};  // In place of an element's type.

// Bits of a float, from the half that products read and what lies below.
__device__ __forceinline__ float Join(uint32_t high, uint32_t low) {
  const auto signed_low = static_cast<int16_t>(low & 0xffff);
  return __uint_as_float(
      (high << 16) + static_cast<uint32_t>(static_cast<int32_t>(signed_low)));
}
// The upper 16 bits, to the nearest; the lower ones are those of what is left.
__device__ __forceinline__ uint32_t HighHalf(float x) {
  return (__float_as_uint(x) + 0x8000u) >> 16;
}

// Two weights, the first in the lower bits of both words.
__device__ __forceinline__ void UpdateTwo(const AdamWStep& step, float2 g,
                                          uint32_t& high, uint32_t& low,
                                          float2& m, float2& v) {
  float first = Join(high & 0xffff, low), second = Join(high >> 16, low >> 16);
  step.Update(g.x, first, m.x, v.x);
  step.Update(g.y, second, m.y, v.y);
  high = HighHalf(first) | HighHalf(second) << 16;
  low = (__float_as_uint(first) & 0xffff) | __float_as_uint(second) << 16;
}

__device__ void UpdatePiece(const AdamWStep& step, uint32_t seed,
                            const Parameter& of, int64_t begin, int64_t end,
                            Halves) {
  auto* const high = static_cast<uint16_t*>(of.param);
  auto* const low = reinterpret_cast<uint16_t*>(of.low);
  auto* const m = static_cast<float*>(of.m);
  auto* const v = static_cast<float*>(of.v);
  const auto* const grad = static_cast<const float*>(of.grad);
  for (int64_t i = begin / 4 + threadIdx.x; i < end / 4; i += kBlock) {
    const float4 g4 = reinterpret_cast<const float4*>(grad)[i];
    uint2 high4 = reinterpret_cast<const uint2*>(high)[i];
    uint2 low4 = reinterpret_cast<const uint2*>(low)[i];
    const float4 m4 = reinterpret_cast<const float4*>(m)[i];
    const float4 v4 = reinterpret_cast<const float4*>(v)[i];
    float2 m_a = {m4.x, m4.y}, m_b = {m4.z, m4.w};
    float2 v_a = {v4.x, v4.y}, v_b = {v4.z, v4.w};
    UpdateTwo(step, {g4.x, g4.y}, high4.x, low4.x, m_a, v_a);
    UpdateTwo(step, {g4.z, g4.w}, high4.y, low4.y, m_b, v_b);
    reinterpret_cast<uint2*>(high)[i] = high4;
    reinterpret_cast<uint2*>(low)[i] = low4;
    reinterpret_cast<float4*>(m)[i] = {m_a.x, m_a.y, m_b.x, m_b.y};
    reinterpret_cast<float4*>(v)[i] = {v_a.x, v_a.y, v_b.x, v_b.y};
  }
  const int64_t last = end / 4 * 4 + threadIdx.x;
  if (last >= end) return;
  float weight = Join(high[last], low[last]);
  step.Update(grad[last], weight, m[last], v[last]);
  high[last] = static_cast<uint16_t>(HighHalf(weight));
  low[last] = static_cast<uint16_t>(__float_as_uint(weight));
}

// The parameter that a piece is of: the last that begins no later.
__device__ int ParameterOf(const Table& table, int piece) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.first_piece[middle] <= piece ? low : high) = middle;
  }
  return low;
}

template <typename T>
__global__ void __launch_bounds__(kBlock, kBlocksPerProcessor)
    AdamWKernel(const __grid_constant__ Table table) {
  AdamWStep step;
  if (!ShareStep(table.step, step)) return;
  const uint32_t seed = static_cast<uint32_t>(*table.step.step) * 0x9e3779b9u;
  const int pieces = table.first_piece[table.count];
  for (int piece = static_cast<int>(blockIdx.x); piece < pieces;
       piece += static_cast<int>(gridDim.x)) {
    const int p = ParameterOf(table, piece);
    const Parameter& of = table.parameter[p];
    const int64_t begin = int64_t{piece - table.first_piece[p]} * kPiece;
    UpdatePiece(step, seed, of, begin, min(begin + kPiece, of.n), T());
  }
}

template <typename T>
cudaError_t Launch(const Table& table, cudaStream_t stream) {
  const int pieces = table.first_piece[table.count];
  if (pieces == 0) return cudaSuccess;
  int device = 0, processors = 0;
  if (const cudaError_t e = cudaGetDevice(&device); e) return e;
  if (const cudaError_t e = cudaDeviceGetAttribute(
          &processors, cudaDevAttrMultiProcessorCount, device)) {
    return e;
  }
  const int blocks = std::min(pieces, processors * kBlocksPerProcessor);
  AdamWKernel<T><<<static_cast<unsigned>(blocks), kBlock, 0, stream>>>(table);
  return cudaGetLastError();
}

// The parameters of elements of `size` bytes, in as few launches as hold them.
template <typename T>
cudaError_t LaunchAll(const KernelContext& ctx, int inputs, int size,
                      Table& table) {
  table.count = 0;
  for (int first = 0; first < ctx.num_inputs; first += inputs) {
    const Operand& param = ctx.in(first);
    if (param.element_size != size) continue;
    if (table.count == kMaxParameters) {
      if (const cudaError_t e = Launch<T>(table, ctx.stream); e) return e;
      table.count = 0;
    }
    const int p = table.count++;
    table.parameter[p] = {
        param.max_elements(),
        param.data,
        ctx.in(first + 1).data,
        ctx.in(first + 2).data,
        ctx.in(first + 3).data,
        inputs > kInputs ? ctx.in(first + kInputs).as<int16_t>() : nullptr};
    table.first_piece[p + 1] =
        table.first_piece[p] +
        static_cast<int32_t>(CeilDiv(param.max_elements(), kPiece));
  }
  return Launch<T>(table, ctx.stream);
}

// What all have in common.
cudaError_t ReadStep(const KernelContext& ctx, int inputs, StepArgs& step) {
  step.norm = ctx.in(4).as<float>();
  step.divisor = ctx.in(5).as<float>();
  step.lr = ctx.in(6).as<float>();
  step.step = ctx.in(7).as<int32_t>();
  step.beta1 = ctx.Double("beta1");
  step.beta2 = ctx.Double("beta2");
  step.max_norm = ctx.Double("max_norm");
  step.eps = ctx.Float("eps");
  step.weight_decay = ctx.Float("weight_decay");
  step.fault = ctx.fault;
  for (int first = inputs; first < ctx.num_inputs; first += inputs) {
    for (int i = 4; i < kInputs; ++i) {
      if (ctx.in(first + i).data != ctx.in(i).data) {
        return ctx.Refuse("parameters of one call have steps of their own");
      }
    }
  }
  return cudaSuccess;
}

cudaError_t RunAdamW(const KernelContext& ctx) {
  Table table;
  if (const cudaError_t e = ReadStep(ctx, kInputs, table.step); e) return e;
  if (const cudaError_t e = LaunchAll<float>(ctx, kInputs, 4, table); e) {
    return e;
  }
  return LaunchAll<__nv_bfloat16>(ctx, kInputs, 2, table);
}

cudaError_t RunAdamWHalves(const KernelContext& ctx) {
  Table table;
  if (const cudaError_t e = ReadStep(ctx, kInputs + 1, table.step); e) return e;
  return LaunchAll<Halves>(ctx, kInputs + 1, 2, table);
}

}  // namespace

void RegisterAdamWKernels(KernelRegistry& kernels) {
  kernels.Register("AdamW", RunAdamW);
  kernels.Register("AdamWHalves", RunAdamWHalves);
}

}  // namespace strata::gpu
