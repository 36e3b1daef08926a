// A model's rotary embedding: what its config says, as the operator wants it.

#ifndef CORE_MODEL_ROPE_SCALING_H_
#define CORE_MODEL_ROPE_SCALING_H_

#include <cstdint>

#include "core/model/config.pb.h"
#include "core/ops/rope.h"

namespace strata {

// For `num_heads` heads whose last `rotary_dim` columns turn. `attention` must
// be valid (core/model/config.h).
RopeOptions RopeOf(const AttentionConfig& attention, int64_t num_heads,
                   int64_t rotary_dim);

// Whether a token's rotation depends on how long its sequence is.
bool HasDynamicRope(const ModelConfig& config);

// By what latent attention multiplies its scores beside 1 / sqrt(columns):
// 1, or YaRN's temperature squared.
double LatentScoreFactor(const RopeScaling& scaling);

}  // namespace strata

#endif  // CORE_MODEL_ROPE_SCALING_H_
