// The attention block of a layer: grouped-query or multi-head latent.

#ifndef CORE_MODEL_ATTENTION_H_
#define CORE_MODEL_ATTENTION_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/ops/paged_attention.h"

namespace strata {

// Inputs that all layers share; see core/model/decoder.h. Either seq_start, or
// cache_row and first_row, or cache_row and pages, are given.
struct AttentionInputs {
  ValueId position = kNone;   // [t]
  ValueId seq_len = kNone;    // [t]; see Rope.
  ValueId seq_start = kNone;  // [sequences + 1]
  ValueId cache_row = kNone;  // [t]
  ValueId first_row = kNone;  // [t]
  Pages pages;                // With block_table, the cache is in blocks.
  int64_t cache_slots = 0;
  // Latent attention's cache holds keys and values of all heads, not latents.
  bool expand_latents = false;
};

// attention(norm(h)), to be added to h [t, d]. The builder's scope is the
// layer, "model.layers.N".
ValueId AttentionBlock(GraphBuilder& builder, const ModelConfig& config,
                       const AttentionInputs& inputs, int64_t layer, ValueId h);

}  // namespace strata

#endif  // CORE_MODEL_ATTENTION_H_
