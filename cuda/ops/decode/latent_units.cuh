// Which units of latent decode attention (latent_decode.cu) a block does.

#ifndef CUDA_OPS_DECODE_LATENT_UNITS_CUH_
#define CUDA_OPS_DECODE_LATENT_UNITS_CUH_

#include <cstdint>

#include "cuda/kernels/sm90.cuh"
#include "cuda/ops/decode/latent_keys.cuh"

namespace strata::gpu::latent {

// Multiprocessors of a Hopper GPU; a block takes one by itself.
constexpr int kProcessors = 132;

#if STRATA_SM90A

// What a block does at a time: up to 64 heads of a token with a piece of its
// keys.
struct Unit {
  int64_t token = 0;
  int head = 0, heads = 0;  // The first, and how many.
  int split = 0;            // Which piece.
  int turn = 0;             // Units that the block did before it.
};

// How many there are, numbered by token, then pair of groups of heads, then
// piece; clusters of blocks that share them, and which of these a block is in.
__device__ __forceinline__ int NumUnits(const Args& args) {
  return static_cast<int>(args.tokens.Get()) *
         (args.groups / args.blocks * args.splits);
}
__device__ __forceinline__ int NumClusters(const Args& args) {
  return static_cast<int>(gridDim.x) / args.blocks;
}
__device__ __forceinline__ int ClusterOf(const Args& args) {
  return static_cast<int>(blockIdx.x) / args.blocks;
}

// Those of a block, the same as the others' of its cluster in the same order:
// first the one of the cluster's number, then what Plan() says.
struct Units {
  int turn = 0;

  // False: there are no more.
  __device__ __forceinline__ bool Next(const Args& args, Shared& shared,
                                       Unit& unit) {
    int next = ClusterOf(args);
    if (turn > 0) {
      Wait(&shared.planned, 0);
      // As the compiler has to know, the same in all lanes.
      next = __shfl_sync(0xffffffff, shared.plan[turn - 1], 0);
    }
    if (next >= NumUnits(args)) return false;
    const int rank = static_cast<int>(blockIdx.x) % args.blocks;
    const int pair = next / args.splits;
    const int pairs = args.groups / args.blocks;
    unit.split = next - pair * args.splits;
    unit.token = pair / pairs;
    unit.head = (pair % pairs * args.blocks + rank) * kRows;
    unit.heads = min(kRows, args.num_heads - unit.head);
    unit.turn = turn++;
    return true;
  }
};

// By a warp, while the first units are done: the others. If they are few, one
// after the other to whichever cluster has the fewest tiles by then, as blocks
// that are launched take the multiprocessor which is free first: sequences
// differ in length. Each block finds out for itself what comes to its cluster.
// If they are many, to all clusters in turn.
__device__ inline void Plan(const Args& args, Shared& shared) {
  constexpr int kLanes = 32, kOfLane = kProcessors / kLanes + 1;
  constexpr int kMostTiles = 1 << 16;  // So that sums have 24 bits.
  constexpr int kUnitTiles = 2;        // What else a unit costs.
  static_assert(kProcessors <= 256, "eight bits for a cluster");
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int units = NumUnits(args), clusters = NumClusters(args);
  const int own = ClusterOf(args);
  if (units <= clusters || units - clusters > kMaxPlanned ||
      clusters > kProcessors) {
    for (int i = lane; i <= kMaxPlanned; i += kLanes) {
      shared.plan[i] = min(own + (i + 1) * clusters, units);
    }
    __syncwarp();
    if (lane == 0) Arrive(&shared.planned);
    return;
  }
  const int pairs = args.groups / args.blocks;  // Several units: of one piece.
  const auto cost = [&](int unit) -> uint32_t {
    if (unit >= units) return 0;
    int64_t keys = int64_t{args.places.position[unit / pairs]} + 1;
    if (args.window > 0) keys = min(keys, args.window);
    const int64_t tiles = (max(keys, int64_t{0}) + kRows - 1) / kRows;
    return kUnitTiles +
           static_cast<uint32_t>(min(tiles, int64_t{kMostTiles - kUnitTiles}));
  };
  uint32_t load[kOfLane];
#pragma unroll
  for (int j = 0; j < kOfLane; ++j) {
    const int cluster = j * kLanes + lane;
    load[j] = cluster < clusters ? cost(cluster) : 0xffffff;
  }
  int count = 0;
  for (int first = clusters; first < units; first += kLanes) {
    const uint32_t costs = cost(first + lane);
    for (int i = 0; i < min(kLanes, units - first); ++i) {
      uint32_t least = 0xffffffff;
#pragma unroll
      for (int j = 0; j < kOfLane; ++j) {
        least = min(least, load[j] << 8 | (j * kLanes + lane));
      }
      const auto cluster =
          static_cast<int>(__reduce_min_sync(0xffffffff, least) & 0xff);
      const uint32_t more = __shfl_sync(0xffffffff, costs, i);
#pragma unroll
      for (int j = 0; j < kOfLane; ++j) {
        if (cluster == j * kLanes + lane) load[j] += more;
      }
      if (cluster != own) continue;
      if (lane == 0) shared.plan[count] = first + i;
      ++count;
    }
  }
  if (lane == 0) {
    shared.plan[count] = units;
    Arrive(&shared.planned);
  }
  __syncwarp();
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu::latent

#endif  // CUDA_OPS_DECODE_LATENT_UNITS_CUH_
