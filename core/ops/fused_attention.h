// What a block of attention is when its operators are fused (docs/fusion.md):
//
//   position --RopeTable--> cos, sin                once for all layers
//   x --NormQkv--> q [t, heads * head_dim]          norm, projections, rotary
//                  k, v into the caches             positions, cache write
//   q, caches --AttendProject--> h + projection     attention, output, residual
//
// Each is defined by the operators it stands for: same FLOPs, and the bytes of
// what lies between them left out. core/passes/fuse makes them; they have no
// gradient.

#ifndef CORE_OPS_FUSED_ATTENTION_H_
#define CORE_OPS_FUSED_ATTENTION_H_

#include <cstdint>

#include "core/graph/attrs.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/rope.h"
#include "core/quant/cache_format.h"
#include "core/tensor/dtype.h"

namespace strata {

// Rows of a tile: what lies between two products of a fused operator is as many
// rows, however many tokens there are.
inline constexpr int64_t kFusedTileRows = 64;

// How each token's columns turn: cos, sin [t, rotary_dim / 2], with the
// magnitude in them.
//   position [t] I32, seq_len [t] I32 or absent: as Rope's
extern const OpDef kRopeTable;
Attrs RopeTableAttrs(const RopeOptions& options, DType compute);

// q [t, heads * head_dim] of the normalised x; stores k and v of each token.
// The second output is the tile of normalised rows.
extern const OpDef kNormQkv;
enum NormQkvInput {
  kQkvX,     // [t, d]
  kQkvGain,  // [d]
  kQkvWq,    // [heads * head_dim, d], BF16 or as x; likewise the next two
  kQkvWk,    // [kv_heads * head_dim, d]
  kQkvWv,    // [kv_heads * value_dim, d]
  kQkvBq,    // Of each projection, or all absent.
  kQkvBk,
  kQkvBv,
  kQkvQGain,  // [head_dim], or both absent: queries and keys are normalised.
  kQkvKGain,
  kQkvCos,  // Of RopeTable.
  kQkvSin,
  // [slots, kv_heads * head_dim] and [slots, kv_heads * value_dim], updated: as
  // x, or both U8, packed rows (core/ops/packed_cache.h).
  kQkvKCache,
  kQkvVCache,
  kQkvRow,  // [t] I32, the slots
  kNumQkvInputs,
};
struct NormQkvOptions {
  int64_t num_heads = 1;
  int64_t num_kv_heads = 1;
  double eps = 0;
  double qk_eps = 1;  // Of the norm of queries and keys, if they have one.
  bool interleaved = false;
  CacheOptions cache;  // Of packed caches: what PackedCacheWrite stores.
};
Attrs NormQkvAttrs(const NormQkvOptions& options);

// h + (o W^T + bias), o being what the operator of the same name without
// "Project" makes of the first inputs, which are its own; then
//   h [t, d], w [d, columns of o] (BF16 or as h), bias [d]?
// and over latents kv_b [heads * (nope + value), rank]: o is what LatentOutput
// makes of it. Attributes are those of the operators. The second output, and
// over latents the third, are tiles of what lies between.
extern const OpDef kPagedAttendProject;
extern const OpDef kCachedAttendProject;
extern const OpDef kPagedLatentAttendProject;
extern const OpDef kCachedLatentAttendProject;
// Over packed caches, in rows or in blocks: o is PackedAttention's
// (core/ops/packed_cache.h), whose attributes they have beside those.
extern const OpDef kPackedAttendProject;
extern const OpDef kPackedLatentAttendProject;

// What is attended with, and how many inputs it has.
struct AttendPart {
  const OpDef* fused;
  const OpDef* attend;
  int num_inputs;
  bool latent;
};
// The part of one of the six; null if `fused` is none.
const AttendPart* FindAttendPart(const OpDef& fused);
// By the node that is fused; null if it is none.
const AttendPart* FindAttendPartOf(const Node& attend);

}  // namespace strata

#endif  // CORE_OPS_FUSED_ATTENTION_H_
