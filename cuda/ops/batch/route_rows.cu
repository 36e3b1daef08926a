#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/batch/route_plan.cuh"
#include "cuda/ops/batch/route_rows.h"
#include "cuda/ops/decode/choose_experts.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"

// Each block chooses for all tokens, a warp a token, which takes less than a
// kernel between the choice and the rows.

namespace strata::gpu {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kMaxRowBlocks = 132;

struct Routes : RoutePlan {
  float weight[kMaxRoutedTokens * kMaxChosen];  // [t, k]
  int32_t row_token[kMaxRoutedTokens * kMaxChosen];
};

__global__ void __launch_bounds__(kThreads)
    RouteRowsKernel(const RouteRowsArgs args) {
  extern __shared__ char memory[];
  Routes& r = *reinterpret_cast<Routes*>(memory);
  const ChooseExpertsArgs& a = args.choice;
  const int thread = static_cast<int>(threadIdx.x);
  BringBias(a);
  r.Clear(a.num_experts);
  __syncthreads();
  if (!args.lets_late) LetLaterBegin();
  WaitForEarlier();
  LetLaterBegin();
  const int tokens = static_cast<int>(a.tokens.Get());
  const int slots = tokens * a.k;
  // Logits are there up to the bound, and need not wait for the count.
#pragma unroll 1
  for (int t = thread / kWarp; t < a.tokens.bound; t += kWarps) {
    if (a.num_experts <= kMaxOffered / 2) {
      ChooseOfToken<kMaxOffered / kWarp / 2>(a, t, r);
    } else {
      ChooseOfToken<kMaxOffered / kWarp>(a, t, r);
    }
    if (t < tokens && Lane() < a.k) r.Note(t, r.expert[t * a.k + Lane()]);
  }
  __syncthreads();
  r.StartRows(a.num_experts);
  __syncthreads();
  const bool stores = blockIdx.x == 0;
#pragma unroll 1
  for (int s = thread; s < slots; s += kThreads) {
    const int t = s / a.k, e = r.expert[s];
    const int row = r.RowOf(t, e);
    r.row_token[row] = t;
    if (!stores) continue;
    if (args.row_token != nullptr) args.row_token[row] = t;
    args.slot_row[s] = row;
    a.weight[s] = r.weight[s];
    if (a.expert != nullptr) a.expert[s] = e;
  }
  if (stores) r.StoreOffsets(a, slots);
  if (args.gathered == nullptr) return;
  __syncthreads();

  // A warp an eighth of a row.
  constexpr int kParts = 8;
  const int pieces = static_cast<int>(args.d / 8);
  const auto* const from = reinterpret_cast<const uint4*>(args.x);
  auto* const to = reinterpret_cast<uint4*>(args.gathered);
  const int warps = static_cast<int>(gridDim.x) * kWarps;
#pragma unroll 1
  for (int i = static_cast<int>(blockIdx.x) * kWarps + thread / kWarp;
       i < slots * kParts; i += warps) {
    const int row = i / kParts, part = i % kParts;
    const auto* const x = from + int64_t{r.row_token[row]} * pieces;
#pragma unroll 1
    for (int c = part * kWarp + Lane(); c < pieces; c += kParts * kWarp) {
      to[int64_t{row} * pieces + c] = x[c];
    }
  }
}

}  // namespace

bool HasRouteRows(const RouteRowsArgs& args) {
  const ChooseExpertsArgs& a = args.choice;
  return a.tokens.bound <= kMaxRoutedTokens && a.num_experts <= kMaxOffered &&
         a.k <= kMaxChosen && a.k <= a.num_experts && args.d % 8 == 0 &&
         IsAligned(args.x) && IsAligned(args.gathered);
}

cudaError_t RouteRows(const RouteRowsArgs& args, cudaStream_t stream) {
  if (!HasRouteRows(args)) return cudaErrorInvalidValue;
  const int64_t pieces =
      args.gathered != nullptr
          ? args.choice.tokens.bound * args.choice.k * args.d / 8
          : 0;
  const int64_t blocks =
      std::clamp<int64_t>(CeilDiv(pieces, kThreads), 1, kMaxRowBlocks);
  return LaunchAhead(RouteRowsKernel, dim3(static_cast<unsigned>(blocks)),
                     dim3(kThreads), sizeof(Routes), stream, args);
}

}  // namespace strata::gpu
