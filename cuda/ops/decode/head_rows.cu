#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/cache/packed_group.cuh"
#include "cuda/ops/decode/head_rows.h"
#include "cuda/ops/device.cuh"

namespace strata::gpu {
namespace {

// A warp a head, each lane columns c, c + 32, ..: read once for the norm, and
// again, from L1, to be stored.
__global__ void __launch_bounds__(kBlock)
    StoreHeadsKernel(const StoreHeadsArgs a) {
  WaitForEarlier();
  LetLaterBegin();
  const int heads[3] = {a.part[0].heads, a.part[1].heads, a.part[2].heads};
  const int all = heads[0] + heads[1] + heads[2];
  const int64_t n = a.tokens.Get() * all;
  for (int64_t i = FirstRow(); i < n; i += RowStride()) {
    const int64_t token = i / all;
    int head = static_cast<int>(i % all), which = 0;
    while (head >= heads[which]) head -= heads[which++];
    const HeadRows& p = a.part[which];
    int64_t to = token;
    if (which > 0) {
      to = a.row[token];
      if (to < 0 || to >= a.slots) {
        if (Lane() == 0)
          a.fault.Report(FaultKind::kCacheRow, token, to, a.slots);
        continue;
      }
    }
    const float* const x = p.x + (token * p.heads + head) * p.dim;
    const auto biased = [&](int c) {
      return p.bias != nullptr ? x[c] + p.bias[head * p.dim + c] : x[c];
    };
    float share = 1;  // One over the root of the mean square.
    if (p.gain != nullptr) {
      float sum = 0;
      for (int c = Lane(); c < p.dim; c += kWarp) {
        sum = fmaf(biased(c), biased(c), sum);
      }
      share = rsqrtf(WarpSum(sum) / static_cast<float>(p.dim) + a.eps);
    }
    const auto at = [&](int c) {
      return p.gain != nullptr ? biased(c) * share * p.gain[c] : biased(c);
    };
    const int low = p.turns ? p.dim - 2 * a.half : p.dim;
    // Where pair j of what turns lies, and what it becomes.
    const auto first_of = [&](int j) {
      return low + (a.interleaved ? 2 * j : j);
    };
    const auto second_of = [&](int j) {
      return a.interleaved ? first_of(j) + 1 : first_of(j) + a.half;
    };
    const auto turned = [&](int j) {
      const float u = at(first_of(j)), v = at(second_of(j));
      const float cosine = a.cos[token * a.half + j];
      const float sine = a.sin[token * a.half + j];
      return float2{u * cosine - v * sine, u * sine + v * cosine};
    };
    if (p.packed != nullptr) {
      const auto number = [&](int c) {
        if (c < low) return at(c);
        const int at_turn = c - low;
        const int j = a.interleaved      ? at_turn / 2
                      : at_turn < a.half ? at_turn
                                         : at_turn - a.half;
        const float2 pair = turned(j);
        return c == first_of(j) ? pair.x : pair.y;
      };
      uint8_t* const y =
          p.packed +
          (to * p.heads + head) * PackedHeadBytes(a.rounding.format, p.dim);
      // Numbers of some groups on their way together.
      constexpr int kGroups = 4;
      for (int first = 0; first < p.dim; first += kGroups * kPackedGroup) {
        float x_of[kGroups];
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          const int c = first + g * kPackedGroup + Lane();
          x_of[g] = c < p.dim ? number(c) : 0.f;
        }
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          const int group = first / kPackedGroup + g;
          if (group * kPackedGroup >= p.dim) break;
          PackGroup(a.rounding, x_of[g],
                    y + group * PackedGroupBytes(a.rounding.format));
        }
      }
      continue;
    }
    float* const y = p.y + (to * p.heads + head) * p.dim;
    for (int c = Lane(); c < low; c += kWarp) y[c] = at(c);
    if (!p.turns) continue;
    for (int j = Lane(); j < a.half; j += kWarp) {
      const float2 pair = turned(j);
      y[first_of(j)] = pair.x;
      y[second_of(j)] = pair.y;
    }
  }
}

}  // namespace

cudaError_t StoreHeads(const StoreHeadsArgs& args, cudaStream_t stream) {
  int64_t heads = 0;
  for (const HeadRows& part : args.part) heads += part.heads;
  return LaunchAhead(StoreHeadsKernel,
                     dim3(BlocksForRows(args.tokens.bound * heads)),
                     dim3(kBlock), 0, stream, args);
}

}  // namespace strata::gpu
