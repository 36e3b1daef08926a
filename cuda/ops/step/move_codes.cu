#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/step/move_codes.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A warp has groups of 32 columns four at a time, of 64 two. Bound by 20 bytes
// an element that are read and written. Roundings are written out where the
// compiler would leave some out, so that codes are the CPU's.
namespace strata::gpu {
namespace {

constexpr int kMoments = 4;  // Of a group.

struct Args {
  float* w = nullptr;
  const float* gradient = nullptr;
  float* position = nullptr;
  float* scale = nullptr;
  float* zero = nullptr;
  float* moments = nullptr;
  const int32_t* bits = nullptr;
  const float* lr = nullptr;
  const int32_t* step = nullptr;
  int64_t num_groups = 0, group = 0, groups_of_matrix = 0;
  bool symmetric = false;
  double beta1 = 0, beta2 = 0, eps = 0;
  FaultSink fault;
};

// Adam's, of a step; one thread of a block works them out.
struct Rates {
  float beta1, beta2;
  double rate, eps, of_mean, of_square;  // The last two divide the moments.

  // What is to be taken off.
  __device__ __forceinline__ float Step(double gradient, float* moments) const {
    const auto g = static_cast<float>(gradient);
    const float m = __fadd_rn(__fmul_rn(beta1, moments[0]),
                              __fmul_rn(__fsub_rn(1, beta1), g));
    const float v = __fadd_rn(__fmul_rn(beta2, moments[1]),
                              __fmul_rn(__fsub_rn(1, beta2), __fmul_rn(g, g)));
    moments[0] = m;
    moments[1] = v;
    return static_cast<float>(rate * (m / of_mean) /
                              (sqrt(v / of_square) + eps));
  }
};

// The codes of a group: a zero and a scale as they are stored.
struct Codes {
  int zero, last;
  float scale;

  __device__ __forceinline__ Codes(float zero_at, float scale_at, int last_code)
      : last(last_code) {
    zero = static_cast<int>(
        fminf(fmaxf(roundf(zero_at), 0), static_cast<float>(last)));
    scale = __bfloat162float(__float2bfloat16_rn(scale_at));
  }
  // Where a number's code would be if there were codes everywhere.
  __device__ __forceinline__ int Unclipped(float position) const {
    return static_cast<int>(roundf(position)) + zero;
  }
  __device__ __forceinline__ int Clip(int code) const {
    return min(max(code, 0), last);
  }
  __device__ __forceinline__ float NumberOf(int code) const {
    return static_cast<float>(code - zero) * scale;  // Exact.
  }
};

// Neighbours of a group, as many as one access has.
template <int n>
struct alignas(4 * n) Some {
  float at[n];
};

// What lane `lane` of kLanes has of a group, `n` elements at a time.
template <int kLanes, int n, typename Run>
__device__ __forceinline__ void ForSome(int64_t group, int lane, Run run) {
  for (int64_t i = int64_t{n} * lane; i < group; i += n * kLanes) run(i);
}

// A step of a group, by kLanes neighbours of a warp, which take `n` elements at
// a time. What they do not hold in registers they read twice. All lanes of the
// warp come here, though some may have no group.
template <int kLanes, int n>
__device__ void MoveGroup(const Args& args, const Rates& rates, int64_t g,
                          bool is_group) {
  using Elements = Some<n>;
  const int lane = Lane() % kLanes;
  const int64_t at = is_group ? g : 0, group = is_group ? args.group : 0;
  const int64_t first = at * args.group;
  float* const w = args.w + first;
  float* const position = args.position + first;
  const float* const gradient = args.gradient + first;
  float scale = args.scale[at], zero = args.zero[at];
  const int last = (1 << args.bits[at / args.groups_of_matrix]) - 1;
  const Codes before(zero, scale, last);
  const bool once = group <= n * kLanes;
  Elements q;  // Of the only round.
  double of_scale = 0, of_zero = 0;
  ForSome<kLanes, n>(group, lane, [&](int64_t i) {
    q = *reinterpret_cast<const Elements*>(position + i);
    if (scale == 0) return;
    const auto gs = *reinterpret_cast<const Elements*>(gradient + i);
    const auto ws = *reinterpret_cast<const Elements*>(w + i);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      const int unclipped = before.Unclipped(q.at[j]);
      const int code = before.Clip(unclipped);
      const double of_number = gs.at[j];
      of_scale += of_number * (code - before.zero);  // The product is exact.
      if (code != unclipped) of_zero -= of_number;
      const float move =
          copysignf(1, scale) * __fsub_rn(ws.at[j], before.NumberOf(code));
      const bool leads_back = (move < 0) == (code < unclipped);
      if (code == unclipped || leads_back) q.at[j] = __fadd_rn(q.at[j], move);
    }
    *reinterpret_cast<Elements*>(position + i) = q;
  });
  of_scale = LanesSum<kLanes>(of_scale);
  if (!args.symmetric) of_zero = LanesSum<kLanes>(of_zero);
  // The scale by one lane, the zero by the next.
  float off = 0;
  if (group > 0 && scale != 0 && lane < (args.symmetric ? 1 : 2)) {
    off = rates.Step((lane == 0 ? of_scale : of_zero) * double{scale},
                     args.moments + at * kMoments + 2 * lane);
  }
  const float of_share = __shfl_sync(kWholeWarp, off, 0, kLanes);
  const float zero_off = __shfl_sync(kWholeWarp, off, 1, kLanes);
  const float middle = static_cast<float>((last + 1) / 2);
  scale = __fmul_rn(scale, __fsub_rn(1, fminf(of_share / middle, 0.5f)));
  if (!args.symmetric && scale != 0) {
    zero = fminf(fmaxf(__fsub_rn(zero, zero_off), 0), static_cast<float>(last));
  }
  if (group > 0 && lane == 0) {
    args.scale[at] = scale;
    args.zero[at] = zero;
  }
  const Codes after(zero, scale, last);
  ForSome<kLanes, n>(group, lane, [&](int64_t i) {
    if (!once) q = *reinterpret_cast<const Elements*>(position + i);
    Elements numbers;
#pragma unroll
    for (int j = 0; j < n; ++j) {
      numbers.at[j] = after.NumberOf(after.Clip(after.Unclipped(q.at[j])));
    }
    *reinterpret_cast<Elements*>(w + i) = numbers;
  });
}

template <int kLanes, int n>
__global__ void __launch_bounds__(kBlock) MoveCodesKernel(const Args args) {
  __shared__ Rates rates;
  const int number = *args.step;
  if (threadIdx.x == 0) {
    if (number < 1) args.fault.Report(FaultKind::kStep, 0, number, 0);
    rates.beta1 = static_cast<float>(args.beta1);
    rates.beta2 = static_cast<float>(args.beta2);
    rates.rate = *args.lr;
    rates.eps = args.eps;
    rates.of_mean = 1 - pow(args.beta1, static_cast<double>(number));
    rates.of_square = 1 - pow(args.beta2, static_cast<double>(number));
  }
  __syncthreads();
  if (number < 1) return;
  constexpr int kOfWarp = kWarp / kLanes;
  const int64_t rounds = (args.num_groups + kOfWarp - 1) / kOfWarp;
  for (int64_t i = FirstRow(); i < rounds; i += RowStride()) {
    const int64_t g = i * kOfWarp + Lane() / kLanes;
    MoveGroup<kLanes, n>(args, rates, g, g < args.num_groups);
  }
}

template <int kLanes, int n>
cudaError_t Launch(const Args& args, cudaStream_t stream) {
  const unsigned blocks = BlocksFor(args.num_groups * kLanes);
  MoveCodesKernel<kLanes, n><<<blocks, kBlock, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t RunMoveCodes(const KernelContext& ctx) {
  Args args;
  args.w = ctx.in(0).as<float>();
  args.gradient = ctx.in(1).as<float>();
  args.position = ctx.in(2).as<float>();
  args.scale = ctx.in(3).as<float>();
  args.zero = ctx.in(4).as<float>();
  args.moments = ctx.in(5).as<float>();
  args.bits = ctx.in(6).as<int32_t>();
  args.lr = ctx.in(7).as<float>();
  args.step = ctx.in(8).as<int32_t>();
  args.num_groups = ctx.in(3).max_elements();
  args.group = ctx.in(0).max_elements() / args.num_groups;
  args.groups_of_matrix = args.num_groups / ctx.in(6).max_elements();
  args.symmetric = ctx.Int("symmetric") != 0;
  args.beta1 = ctx.Double("beta1");
  args.beta2 = ctx.Double("beta2");
  args.eps = ctx.Double("eps");
  args.fault = ctx.fault;
  if (args.group % 4 != 0) return Launch<kWarp, 1>(args, ctx.stream);
  if (args.group <= 32) return Launch<8, 4>(args, ctx.stream);
  return args.group <= 64 ? Launch<16, 4>(args, ctx.stream)
                          : Launch<kWarp, 4>(args, ctx.stream);
}

}  // namespace

void RegisterMoveCodesKernels(KernelRegistry& kernels) {
  kernels.Register("MoveCodes", RunMoveCodes);
}

}  // namespace strata::gpu
