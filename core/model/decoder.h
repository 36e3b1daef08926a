// The decoder: embedding, layers of attention and experts, output projection.
//
//   ids [t] --> embedding --> h [t, d]
//     layer:  h += attention(norm(h));  h = feed_forward(h)
//   --> norm --> logits [n, vocab] --> loss, nll        (training, evaluation)
//
// Emits the graph of one forward pass. Parameters bear Hugging Face's names
// where it has one ("model.layers.0.self_attn.q_proj.weight").

#ifndef CORE_MODEL_DECODER_H_
#define CORE_MODEL_DECODER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/gate.h"
#include "core/model/moe.h"

namespace strata {

struct DecoderOptions {
  enum class Mode {
    kTrain,     // Loss with the router's own losses; load controller runs.
    kEvaluate,  // Loss and nll; changes no state.
    kLogits,    // Logits of whole sequences, without a cache.
    kGenerate,  // Logits, with a KV cache.
    kDraft,     // Logits of the multi-token prediction module, likewise.
  };
  Mode mode = Mode::kTrain;
  RouteSource route = RouteSource::kGate;
  int64_t max_tokens = 0;     // Bound of t.
  int64_t max_sequences = 1;  // Training: sequences a batch. Generation:
                              // sequences that have room in the cache.
  int64_t max_logits = 1;     // Logits, generation: tokens whose logits are
                              // wanted.
  // Generation with latent attention: cache keys and values of all heads, to
  // which the absorbed form over latents is held.
  bool expand_latents = false;
  bool fused = false;  // Training: GateOptions::fused.
  // Generation over a cache in blocks, which sequences may share: how many
  // there are, and tokens of one. 0: each sequence has max_seq_len slots.
  int64_t cache_blocks = 0;
  int64_t block_size = 16;
};

// What a caller feeds and reads. Inputs, by name (all I32):
//   "num_tokens" []        t
//   "ids" [t]              token ids
//   "position" [t]         of each token in its sequence, from 0
// training and evaluation also
//   "target" [t]           next token, -1: does not count
//   "seq_start" [max_sequences + 1]   first row of each sequence; t at the end
//   where choices are replayed, those of each gate (RouterValues)
// training of a router with tau_start also
//   "tau" []               of this step, of the compute dtype
// logits has seq_start, generation has
//   "seq_len" [t]          with dynamic rotary scaling: how long the sequence
//                          was when the token was fed; of a prompt's all of it
//   "cache_row" [t]        where the token's key and value go
//   "first_row" [t]        where its sequence's first token is
// or, if the cache is in blocks, instead of first_row
//   "block_table" [max_sequences, ceil(max_seq_len / block_size)]
//   "sequence" [t]         which row of block_table is the token's
// and both have
//   "num_logits" [], "logit_row" [num_logits]   rows whose logits are wanted
// Outputs, by name:
//   "loss" [] cross-entropy in nats, "total_loss" [] with the router's losses,
//   "nll" [t], "hit" U8 [t];  logits, generation: "logits" [num_logits, vocab]
//   and for each of `routers` its RouterValues, as the names there say.
//
// With multi-token prediction (config.mtp) the module's layer is the one behind
// the last. Training and evaluation also output "mtp_loss" []; generation
// "hidden" [t, d], what the logits are made of; and mode kDraft has, of
// generation's inputs, all, and
//   "hidden" [t, d]        of each token i, from the model
// while "ids" are the tokens behind: its logits are of the token after those.
//
// The cache of layer i is the states "cache.i.k" and "cache.i.v",
// [slots, width], slots being max_sequences * max_seq_len or
// cache_blocks * block_size; with latent attention the state
// "cache.i.latent", [slots, kv_rank + rope_dim].
struct Decoder {
  ValueId loss = kNone;
  ValueId total_loss = kNone;
  std::vector<RouterValues> routers;         // By layer, then tier.
  std::vector<RouterValues> module_routers;  // Of multi-token prediction.
};

// Errors stay in `builder` (GraphBuilder::status()). `config` must be valid.
Decoder BuildDecoder(GraphBuilder& builder, const ModelConfig& config,
                     const DecoderOptions& options);

}  // namespace strata

#endif  // CORE_MODEL_DECODER_H_
