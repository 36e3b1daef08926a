// The gate of a tier as one kernel: what tokens, experts and options it has.
// core/ops/fused_gate.h says what it computes.

#ifndef CUDA_OPS_TIER_GATE_H_
#define CUDA_OPS_TIER_GATE_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// What a gate keeps for the dispatch plan, under this name: uint16_t [tiles,
// E], how many slots of a tile's tokens each expert has. Rows of tiles without
// tokens are not written.
constexpr char kSlotCounts[] = "slot counts";

// Tokens of a block. Few tokens are spread over more blocks, which share the
// projection by the columns they sum over: kProjectedTokens are a cluster's.
constexpr int kProjectedTokens = 64;
inline int GateTileTokens(int64_t max_tokens) {
  return max_tokens > 32 * kProjectedTokens   ? 32
         : max_tokens > 16 * kProjectedTokens ? 16
                                              : 8;
}
inline int64_t GateTiles(int64_t max_tokens) {
  const int tokens = GateTileTokens(max_tokens);
  return (max_tokens + tokens - 1) / tokens;
}

constexpr int kMaxGateExperts = 512;
constexpr int kMaxGateChosen = 64;

struct TierGateArgs {
  Extent tokens;
  int64_t d = 0;
  int experts = 0, groups = 0, r = 0;
  int projected = 0;  // Columns of a token's energies and query; of the query
  bool has_energies = false;     // alone, where x is its own energies.
  int energies = 0;              // Columns of these.
  const float* x = nullptr;      // [t, d]
  const float* token = nullptr;  // [t, projected], what x is projected to
  const float* key = nullptr;    // [E, groups]
  const __nv_bfloat16* bf16_key = nullptr;  // In its place, if not null.
  const float* bias = nullptr;              // [E] or null
  const float* expert_embedding = nullptr;  // [E, r], likewise the next two
  const float* expert_key = nullptr;
  const float* expert_value = nullptr;

  int keep = 1, k_min = 1, k_max = 1;
  float attention_scale = 1, affinity_scale = 1;
  bool add_coarse = false;
  double tau = 0, exit_threshold = 0;
  bool normalize = false;
  float floor = 0, scale = 1;

  int32_t* expert = nullptr;  // [t, k_max]
  uint8_t* stay = nullptr;    // [t]
  float* weight = nullptr;    // [t, k_max]
  uint16_t* count = nullptr;  // As above.

  int tile_tokens = 1;  // GateTileTokens(tokens.bound).
};

// All behind the projection, in one launch; any shapes within the limits above.
cudaError_t ChooseExperts(const TierGateArgs& args, cudaStream_t stream);

// --- With the projection, in Hopper's tensor cores ---

// How x and the projection's weight are rounded: to the sum of so many BF16.
// Three make the product as exact as F32's own, since what is left out is below
// 2^-24 of a term.
enum class GatePieces : int { kOne = 1, kTwo = 2, kThree = 3 };
// BF16's own precision, or F32's: TF32 has no kernel that is faster.
inline GatePieces PiecesOf(Precision precision) {
  return precision == Precision::kBf16 ? GatePieces::kOne : GatePieces::kThree;
}

// Elements of the weight [projected, d] in pieces, as SplitProjection leaves
// them; 0 where the shapes have no such kernel or the GPU is no Hopper.
int64_t ProjectionPieceElements(const TierGateArgs& args, GatePieces pieces);

// `weight` [projected, d], F32 or BF16, into its pieces.
cudaError_t SplitProjection(const TierGateArgs& args, GatePieces pieces,
                            const void* weight, bool bf16, __nv_bfloat16* split,
                            cudaStream_t stream);

// The whole gate, in one launch: `args.token` is not read.
cudaError_t ProjectAndChooseExperts(const TierGateArgs& args, GatePieces pieces,
                                    const __nv_bfloat16* split,
                                    cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_TIER_GATE_H_
